"""Numbers read from sizes count as numbers do, and tell when code looks at them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unsquare.exact.extent import LengthFormula
from unsquare.exact.tracing.symbolic import IMAGES, SymbolicLength, plain, wrapped


class _Sides:
    """A height and a width of a map, and what was asked of them."""

    def __init__(self, height: int = 40, width: int = 30) -> None:
        self.asked: list[str] = []
        self.height, self.width = (
            wrapped(SymbolicLength(value, frozenset({axis}), self._told, LengthFormula(), positive=True))
            for axis, value in enumerate((height, width))
        )

    def _told(self, length: SymbolicLength, what: str) -> None:
        self.asked.append(what)


def _value(number: Any) -> Any:
    return plain(number, [])


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 64))
def test_they_calculate_as_numbers_do(height: int, width: int, number: int) -> None:
    """Sums, products, quotients and comparisons have the values that plain numbers give."""
    sides = _Sides(height, width)
    h, w = sides.height, sides.width
    found = [
        h + w,
        h - number,
        number * w,
        h // number,
        h % number,
        h / w,
        -h,
        number - h,
        math.ceil(h / number),
        h > w,
    ]
    expected = [height + width, height - number, number * width, height // number, height % number, height / width]
    expected += [-height, number - height, math.ceil(height / number), height > width]
    assert [_value(value) for value in found] == expected
    assert sides.asked == []


@pytest.mark.parametrize(
    "take", [int, float, range, math.sqrt, math.log2, lambda h: [0] * h, lambda h: torch.Size([1, h]).numel()]
)
def test_a_plain_number_is_told(take: Any) -> None:
    """Nothing makes a plain number of a size unseen."""
    sides = _Sides()
    take(sides.height)
    assert "number" in sides.asked


@pytest.mark.parametrize(
    "decide",
    [
        lambda h, w: bool(h > w),
        lambda h, w: max(h, w),
        lambda h, w: h in (40, 41),
        lambda h, w: not h % 2,
        lambda h, w: 1 if h * w > 100 else 2,
        lambda h, w: torch.Size([h]) == torch.Size([w]),
    ],
)
def test_a_branch_is_told(decide: Any) -> None:
    """Nothing decides by a size unseen."""
    sides = _Sides()
    decide(sides.height, sides.width)
    assert sides.asked
    assert set(sides.asked) == {"branch"}


def test_what_every_canvas_answers_alike_is_no_branch() -> None:
    """Lengths are above zero, and lengths that follow from the image's in one way are equal, by whatever steps."""
    sides = _Sides()
    h, w = sides.height, sides.width
    assert h > 0
    assert h * w != 0
    assert h >= 1
    assert (h + 1) // 2 == (h - 1) // 2 + 1
    assert 2 * h - h * 2 == 0
    assert sides.asked == []


def test_a_branch_for_small_maps_is_told_with_its_length() -> None:
    """A branch for small maps says from which length on it goes one way."""
    branches = []

    def told(length: SymbolicLength, what: str) -> None:
        branches.append(length.small_map_branch)

    h = wrapped(SymbolicLength(40, frozenset({0}), told, LengthFormula(), positive=True))
    assert not h < 7
    assert h // 4 > 7
    assert not h <= 7
    assert [(branch.formula, branch.min_length, branch.is_met) for branch in branches if branch] == [
        (LengthFormula(), 7, True),
        (LengthFormula().then(divisor=4), 8, True),
        (LengthFormula(), 8, True),
    ]


def test_lengths_are_found_within_arguments() -> None:
    """Slices, sequences, sizes and mappings are made plain, and name the symbols met."""
    sides = _Sides()
    met: list[SymbolicLength] = []
    given = (torch.Size([2, sides.height]), [slice(None, sides.width)], {"size": (sides.height, 3)})
    assert plain(given, met) == (torch.Size([2, 40]), [slice(None, 30)], {"size": (40, 3)})
    assert {symbol for length in met for symbol in length.symbols} == {0, 1}
    assert IMAGES not in {0, 1}
