"""Regions at any depth follow from the image's size by two numbers per axis."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.exact.extent import Extent, LengthFormula
from unsquare.exact.regions import BatchRegions, Regions
from unsquare.shapes import Window

_WINDOWS = st.integers(1, 7).flatmap(
    lambda kernel: st.builds(
        Window,
        st.just(kernel),
        st.integers(1, 4),
        st.integers(0, kernel // 2),
        st.integers(1, 3),
        st.booleans(),
    )
)


@settings(max_examples=300)
@given(windows=st.lists(_WINDOWS, max_size=6), length=st.integers(1, 500))
def test_a_formula_equals_window_after_window(windows: list[Window], length: int) -> None:
    """The composed form gives the length that PyTorch's rule gives step by step, as long as each window fits."""
    formula, expected = LengthFormula(), length
    for window in windows:
        formula, expected = formula.through(window), window.output(expected)
        if expected < 1:
            assert formula.of(length) < 1
            return
        assert formula.of(length) == expected


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=4),
    extra=st.tuples(st.integers(0, 3), st.integers(0, 3)),
)
def test_outside(sizes: list[tuple[int, int]], extra: tuple[int, int]) -> None:
    """The outside lists each pixel beyond a region once."""
    canvas = (max(h for h, _ in sizes) + extra[0], max(w for _, w in sizes) + extra[1])
    regions = Regions(torch.tensor(sizes), canvas, torch.device("cpu"))
    inside = torch.zeros(len(sizes), *canvas, dtype=torch.bool)
    for image, (height, width) in zip(inside, sizes):
        image[:height, :width] = True
    assert torch.equal(regions.inside[:, 0], inside)
    assert sorted(regions.outside.tolist()) == (~inside).flatten().nonzero()[:, 0].tolist()


def test_a_full_canvas_has_no_regions() -> None:
    """Where all images fill the canvas, layers are told that there is nothing to do."""
    batch = BatchRegions(torch.tensor([[8, 9], [8, 9]]), (8, 9), torch.device("cpu"))
    assert batch.regions((Extent(),), (8, 9)).full
    assert BatchRegions(None, (8, 9), torch.device("cpu")).regions((Extent(),), (8, 9)) is None
