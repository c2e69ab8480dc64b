"""What is known of the tensors of one run of a model: which are feature maps, and what the others are made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from unsquare.exact.extent import Extent
from unsquare.exact.tracing.operations import FeatureMap
from unsquare.torch_private import tree_leaves


class Maps:
    """Feature maps by tensor; the tensors are kept, so that no identity is used twice."""

    def __init__(self, canvas: tuple[int, int], joined: Callable[[Extent, Extent], None]) -> None:
        self._known: dict[int, tuple[Tensor, FeatureMap]] = {}
        self._of_images: dict[int, Tensor] = {}
        self._of_sizes: dict[int, Tensor] = {}
        self._canvas = canvas
        self._joined = joined

    def of_images(self, value: Any) -> bool:
        """Whether a tensor's values come from the images'."""
        return id(value) in self._of_images

    def of_sizes(self, value: Any) -> bool:
        """Whether a tensor's values come from the canvas's size, or from the number of images."""
        return id(value) in self._of_sizes

    def note(self, result: Any, *, of_images: bool, of_sizes: bool) -> None:
        """Note what the tensors that a step returned come from."""
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor):
                if of_images:
                    self._of_images[id(tensor)] = tensor
                if of_sizes:
                    self._of_sizes[id(tensor)] = tensor

    def get(self, value: Any) -> FeatureMap | None:
        """The map that a value is; None where it is none."""
        known = self._known.get(id(value))
        return None if known is None else known[1]

    def set(self, tensor: Tensor, feature_map: FeatureMap) -> None:
        """Note that a tensor is a map."""
        self._known[id(tensor)] = (tensor, feature_map)
        self.note(tensor, of_images=True, of_sizes=False)

    def join(self, one: Extent, other: Extent) -> None:
        """Note that maps of these extents must be of one size for each image."""
        self._joined(one, other)

    def extents(self) -> frozenset[Extent]:
        """The extents of all maps so far."""
        return frozenset(known.extent for _, known in self._known.values())

    def extents_of(self, shape: tuple[int, int]) -> frozenset[Extent]:
        """The extents of maps of this height and width."""
        return frozenset(
            known.extent for _, known in self._known.values() if known.extent.of_canvas(self._canvas) == shape
        )
