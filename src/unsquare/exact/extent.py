"""How a feature map's region follows from the image's size.

A sliding window takes a length n to floor((n + offset) / stride), and nested floors compose to one of the same form.
Enlarging (interpolation, padding to a multiple) multiplies first. So the length at any depth of a network follows
from the image's by a short chain of `Floor`s per axis, whatever the number of layers above. The chain is found once,
when a model is converted, and kept in lowest terms, so that two ways to the same length compare equal; a forward pass
only divides.
"""

from __future__ import annotations

from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unsquare.shapes import Window


class Floor(NamedTuple):
    """A length becomes floor((factor * length + offset) / divisor)."""

    factor: int = 1
    offset: int = 0
    divisor: int = 1

    def reduced(self) -> Floor:
        """The same function in lowest terms."""
        common = gcd(self.factor, self.divisor)
        return Floor(self.factor // common, self.offset // common, self.divisor // common)


class LengthFormula(NamedTuple):
    """How a length along one axis follows from the image's: one `Floor` after another."""

    floors: tuple[Floor, ...] = ()

    def then(self, factor: int = 1, offset: int = 0, divisor: int = 1) -> LengthFormula:
        """The formula after one more function of this form; see `Floor`."""
        floors, new = self.floors, Floor(factor, offset, divisor).reduced()
        # A floor of a floor is one floor if nothing multiplies, or nothing was rounded, between them.
        while floors and (new.factor == 1 or floors[-1].divisor == 1):
            last = floors[-1]
            new = Floor(
                last.factor * new.factor,
                last.offset * new.factor + new.offset * last.divisor,
                last.divisor * new.divisor,
            ).reduced()
            floors = floors[:-1]
        return LengthFormula(floors if new == Floor() else (*floors, new))

    def through(self, window: Window) -> LengthFormula:
        """The formula after one more sliding window."""
        shift = 2 * window.padding - window.dilation * (window.kernel - 1) - 1 + window.stride
        if window.ceil_mode:
            # The second bound is PyTorch's rule that no last window starts in the right padding.
            shift = min(shift + window.stride - 1, window.padding + window.stride - 1)
        return self.then(offset=shift, divisor=window.stride)

    def of(self, length: Any) -> Any:
        """The length, or tensor of lengths, that an image's length becomes."""
        for factor, offset, divisor in self.floors:
            length = (factor * length + offset) // divisor
        return length

    @property
    def divisor(self) -> int:
        """A length by which all roundings are spared if it divides the image's."""
        product = 1
        for floor in self.floors:
            product *= floor.divisor
        return product

    def text(self, length: str) -> str:
        """The function as a formula of the named length."""
        for factor, offset, divisor in self.floors:
            length = f"{factor} * {length}" if factor > 1 else length
            length = f"({length} {'+' if offset > 0 else '-'} {abs(offset)})" if offset and divisor > 1 else length
            length = f"floor({length} / {divisor})" if divisor > 1 else f"{length} + {offset}".replace("+ -", "- ")
        return length


class Extent(NamedTuple):
    """How a feature map's region follows from the image's size, along both axes."""

    height: LengthFormula = LengthFormula()
    width: LengthFormula = LengthFormula()

    def through(self, windows: tuple[Window, Window]) -> Extent:
        """The extent after a sliding window, given as (along the height, along the width)."""
        return Extent(self.height.through(windows[0]), self.width.through(windows[1]))

    def grown(self, height: int, width: int) -> Extent:
        """The extent of a map with this many rows and columns more."""
        return Extent(self.height.then(offset=height), self.width.then(offset=width))

    def scaled(self, height: int, width: int) -> Extent:
        """The extent of a map enlarged by whole factors."""
        return Extent(self.height.then(factor=height), self.width.then(factor=width))

    def of(self, sizes: Tensor) -> Tensor:
        """Regions (N, 2) of images of these sizes (N, 2); below 1 where a window does not fit the image."""
        return torch.stack([self.height.of(sizes[:, 0]), self.width.of(sizes[:, 1])], dim=1)

    def of_canvas(self, canvas: tuple[int, int]) -> tuple[int, int]:
        """The map's (height, width) on a canvas."""
        return self.height.of(canvas[0]), self.width.of(canvas[1])

    def __str__(self) -> str:
        return f"{self.height.text('h')} x {self.width.text('w')}"
