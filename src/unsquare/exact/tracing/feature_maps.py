"""What is known of the tensors of one run of a model: which are feature maps, and what the others are made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

from torch import Tensor

from unsquare.exact.extent import Extent
from unsquare.exact.tracing.moves import Axes
from unsquare.torch_private import tree_leaves


@dataclass(frozen=True)
class FeatureMap:
    """What is known of a tensor whose first axis counts images, and two of whose axes are height and width."""

    extent: Extent
    axes: Axes = (2, 3)
    clean: bool = False
    """Whether it is the model's own input, which is zero outside the regions already."""
    lower: float = field(default=-inf, compare=False)
    """What no value is below, outside the regions too, as the operation that made the map left it."""
    upper: float = field(default=inf, compare=False)
    """What no value is above, in the same way; never below zero, which may be written outside the regions."""

    def __str__(self) -> str:
        return str(self.extent)

    def moved(self, axes: Axes | None = None) -> FeatureMap:
        """The same after an operation that may write outside the regions, and may move height and width."""
        return replace(self, clean=False, lower=-inf, upper=inf, axes=self.axes if axes is None else axes)


class TracedTensors:
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
