"""Micro-batches laid out on a sheet: canvases side by side, all at one scale, in rows from the largest down."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from unsquare.report.plan.facts import DrawnBatch
from unsquare.shapes import Shape

CELL_GAP = 0.05
"""Inches, as everything here."""
BLOCK_GAP = 0.24
LABEL_WIDTH = 1.78
LABEL_HEIGHT = 0.44
ROW_GAP = 0.16
MOST_CELLS = 8
_MOST_HEIGHT = 4.6
_MARGIN = 0.04
_LEAST_SIDE = 0.02
"""So that a sliver shows at all."""


class Placed(NamedTuple):
    """A block's place: its label's corner, its canvases below, and how many of its images are drawn."""

    block: DrawnBatch
    left: float
    top: float
    """Of the first canvas; the label ends here."""
    num_cells: int


class Sheet(NamedTuple):
    """Every block's place."""

    scale: float
    """Inches per pixel."""
    placed: list[Placed]
    tops: list[float]
    """Where each group begins."""
    height: float


def sheet_of(groups: Sequence[Sequence[DrawnBatch]], title_height: float, width: float) -> Sheet:
    """The groups below each other, each under a title, at the largest scale that fits a sheet of this width."""
    low, high = 0.0, min(width / min(cell.width for cell in _canvases(groups)), 1.0)
    for _ in range(40):
        middle = (low + high) / 2
        fits = _lay(groups, title_height, width, middle)
        low, high = (
            (middle, high) if fits is not None and fits.height <= _allowed(groups, title_height) else (low, middle)
        )
    sheet = _lay(groups, title_height, width, low)
    assert sheet is not None, "at scale zero everything fits"
    return sheet


def side(length: int, scale: float) -> float:
    """A canvas's side in inches."""
    return max(length * scale, _LEAST_SIDE)


def _allowed(groups: Sequence[Sequence[DrawnBatch]], title_height: float) -> float:
    return _MOST_HEIGHT + len(groups) * title_height


def _canvases(groups: Sequence[Sequence[DrawnBatch]]) -> list[Shape]:
    return [block.canvas for group in groups for block in group]


def _lay(groups: Sequence[Sequence[DrawnBatch]], title_height: float, sheet_width: float, scale: float) -> Sheet | None:
    """The layout at one scale; None where a canvas is wider than the sheet."""
    placed: list[Placed] = []
    tops: list[float] = []
    top = _MARGIN
    usable = sheet_width - 2 * _MARGIN
    for group in groups:
        tops.append(top)
        top += title_height
        left, row_height = 0.0, 0.0
        for block in group:
            cell = side(block.canvas.width, scale) + CELL_GAP
            if cell > usable:
                return None
            num_cells = min(len(block.sizes), MOST_CELLS, max(1, int((usable + CELL_GAP) / cell)))
            width = max(num_cells * cell - CELL_GAP, LABEL_WIDTH)
            if left > 0 and left + width > usable:
                top += row_height + ROW_GAP
                left, row_height = 0.0, 0.0
            placed.append(Placed(block, _MARGIN + left, top + LABEL_HEIGHT, num_cells))
            left += width + BLOCK_GAP
            row_height = max(row_height, LABEL_HEIGHT + side(block.canvas.height, scale))
        top += row_height + ROW_GAP
    return Sheet(scale, placed, tops, top)
