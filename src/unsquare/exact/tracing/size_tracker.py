"""What a model's code is told of the sizes of its maps while it is followed, and where numbers made of them may go.

A size may shape a map or another tensor (`view`, `interpolate`, `new_zeros`): that is the same for every image. It may
not enter a calculation with maps, neither itself nor by way of a tensor made of it, since a padded image knows its
canvas and not its own size. See `symbolic` for what happens to the numbers themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from unsquare.exact.extent import Extent, LengthFormula
from unsquare.exact.tracing.feature_maps import TracedTensors
from unsquare.exact.tracing.symbolic import IMAGES, SmallMapBranch, SymbolicLength, place_asked, plain, wrapped
from unsquare.exact.tracing.traced import AmbiguousCanvasError
from unsquare.torch_private import is_size_arithmetic, tree_leaves

# Functions that take sizes to lay out what they are given; `operations` judges what they do to a map.
_LAYING_OUT = frozenset(["view", "reshape", "expand", "unflatten", "interpolate", "__getitem__"])
# Functions that fill a tensor of given sides with values that know no size.
_FILLING = frozenset(["empty", "zeros", "ones", "rand", "randn", "new_empty", "new_zeros", "new_ones"])
_FACTORIES = frozenset(["new_full", "new_tensor"]) | _FILLING
# Functions that take their sizes from a second tensor.
_SIZED_BY_ANOTHER = frozenset(["expand_as", "view_as", "reshape_as", "broadcast_tensors"])


# Functions that tell where the values of a tensor lie.
_OF_MEMORY = frozenset(["untyped_storage", "storage", "typed_storage", "storage_offset", "data_ptr"])
# What a model's code does that asks a length for its value.
_ASKING = {"branch": "branches on", "number": "takes a plain number from", "text": "makes a string from"}
# Sides of images for which a branch for small maps is judged: far above the windows of any network.
_LARGEST_SIDE = 8192


class SizeTracker:
    """The numbers that a model reads from the sizes of its maps, in one run."""

    def __init__(
        self,
        tensors: TracedTensors,
        num_images: int,
        refuse: Callable[..., NoReturn],
        call: Callable[..., Any],
        *,
        tell: bool = True,
    ) -> None:
        self._tensors = tensors
        self._num_images = num_images
        self._refuse = refuse
        self._call = call
        self._small_map_branches: list[tuple[SmallMapBranch, str]] = []
        self._readers: dict[Any, Callable[..., Any]] = {}
        if not tell:  # the model's code is given plain numbers
            return
        self._readers = {
            Tensor.shape.__get__: self._shape,  # type: ignore[attr-defined]
            Tensor.size: self._size,
            Tensor.numel: self._numel,
            Tensor.nelement: self._numel,
            torch.numel: self._numel,
            Tensor.stride: self._stride,
            Tensor.nbytes.__get__: lambda x: self._numel(x) * x.element_size(),  # type: ignore[attr-defined]
            Tensor.__len__: self._length,
        }

    def called(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What a function returns to the model's code."""
        reader = self._readers.get(func)
        if reader is not None and args and (self._tensors.of_images(args[0]) or self._tensors.of_sizes(args[0])):
            return reader(*args[:1], *(arg for arg in args[1:] if not isinstance(arg, type)), **kwargs)
        name = func.__name__
        if name in _OF_MEMORY and self._tensors.of_images(args[0]):
            self._refuse(f"it reads the {name} of a map, which reveals the canvas's size")
        if is_size_arithmetic(func):  # arithmetic of such numbers, which stay what they are
            return func(*args, **kwargs)
        met: list[SymbolicLength] = []
        plain_args, plain_kwargs = plain(args, met), plain(kwargs, met)
        if not met:
            result = self._call(func, args, kwargs)
            if name in _SIZED_BY_ANOTHER:
                self._sized_by_another(result)
            return result
        symbols = frozenset().union(*(length.symbols for length in met))
        takes_images = any(self._tensors.of_images(leaf) for leaf in tree_leaves((args, kwargs)))
        if symbols and takes_images and name not in _LAYING_OUT | _FACTORIES:
            self._refuse(f"it passes {name} a number taken from {_told(symbols)}")
        if takes_images and symbols:
            self._check_layout(name, args, kwargs)
        result = self._call(func, plain_args, plain_kwargs)
        # A tensor of one row for each image is no number of images, unless it counts.
        rows = symbols == {IMAGES} and name in _LAYING_OUT | _FILLING
        if symbols and not rows and not (takes_images and name in _LAYING_OUT):
            self._tensors.note(result, of_images=False, of_sizes=True)
        return result

    def lengths(self, x: Tensor) -> list[Any]:
        """The sides of a tensor made of images or sizes, those that depend on the batch as numbers that tell."""
        sides: list[Any] = list(x.shape)
        if not self._tensors.of_images(x):
            every = frozenset({0, 1})
            return [wrapped(SymbolicLength(side, every, self._asked, positive=side > 0)) for side in sides]
        found = self._tensors.get(x)
        if sides and sides[0] == self._num_images:
            sides[0] = wrapped(
                SymbolicLength(sides[0], frozenset({IMAGES}), self._asked, LengthFormula(), positive=True)
            )
        if found is not None:
            for axis, formula in zip(found.axes, found.extent):
                symbols = frozenset({found.axes.index(axis)})
                sides[axis] = wrapped(SymbolicLength(x.shape[axis], symbols, self._asked, formula, positive=True))
        return sides

    def _asked(self, length: SymbolicLength, what: str) -> None:
        place = place_asked(for_text=what == "text")
        if place is None:
            return
        reason = f"it {_ASKING[what]} {_told(length.symbols)} ({place})"
        if length.small_map_branch is None:
            self._refuse(reason)
        if not length.small_map_branch.is_met:
            self._refuse(reason, AmbiguousCanvasError)
        self._small_map_branches.append((length.small_map_branch, reason))

    def check_small_map_branches(self, extents: Iterable[Extent]) -> None:
        """Refuse a branch for small maps, unless images so small do not come as far as the maps of these extents."""
        sides = np.arange(1, _LARGEST_SIDE)
        for branch, reason in self._small_map_branches:
            small = branch.formula.of(sides) < branch.min_length
            if not any((extent[branch.axis].of(sides[small]) < 1).all() for extent in extents):
                self._refuse(reason)

    def _shape(self, x: Tensor) -> Any:
        return torch.Size(self.lengths(x))

    def _size(self, x: Tensor, dim: int | None = None) -> Any:
        return self._shape(x) if dim is None else self.lengths(x)[dim]

    def _numel(self, x: Tensor, **_: Any) -> Any:
        count = 1
        for side in self.lengths(x):
            count = count * side
        return count

    def _stride(self, x: Tensor, dim: int | None = None) -> Any:
        symbols = frozenset(
            symbol for side in self.lengths(x) if isinstance(side, torch.SymInt) for symbol in side.node.symbols
        )
        steps = tuple(
            wrapped(SymbolicLength(step, symbols, self._asked, positive=True)) if symbols else step
            for step in x.stride()
        )
        return steps if dim is None else steps[dim]

    def _length(self, x: Tensor) -> int:
        """Python's `len`, which must be a plain number: of the axis of images it may only shape."""
        if x.ndim and isinstance(side := self.lengths(x)[0], torch.SymInt) and side.node.symbols != {IMAGES}:
            self._asked(side.node, "number")
        return x.shape[0]

    def _check_layout(self, name: str, args: Any, kwargs: Any) -> None:
        """Refuse a size that says where a map is cut or by how much it is enlarged, and not how large it is."""
        fixed: Any = ()
        if name == "__getitem__":
            parts = args[1] if isinstance(args[1], tuple) else (args[1],)
            fixed = [(part.start, part.step) if isinstance(part, slice) else part for part in parts]
        elif name == "interpolate":
            fixed = (args[2:], {key: value for key, value in kwargs.items() if key not in ("input", "size")})
        met: list[SymbolicLength] = []
        plain(fixed, met)
        if any(length.symbols for length in met):
            self._refuse(f"it passes {name} a number taken from the canvas's size")

    def _sized_by_another(self, result: Any) -> None:
        for tensor in tree_leaves(result):
            if not self._tensors.of_images(tensor):
                self._tensors.note(tensor, of_images=False, of_sizes=True)


def _told(symbols: Any) -> str:
    return "the number of images in a batch" if symbols == {IMAGES} else "the canvas's size"
