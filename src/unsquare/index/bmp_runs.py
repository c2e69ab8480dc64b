"""Decodes the runs of a run-length encoded BMP (RLE8, RLE4) to positions in its palette.

Pillow reads them command by command in Python, which takes seconds for millions of them, and shifts the picture where a
row is left empty. Here all commands are decoded together, with 16 bytes of memory for each byte of runs. Every row must
be complete: where a file sets no pixel, programs differ between the first color, black and nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import IO

import numpy as np
import numpy.typing as npt

from unsquare.errors import ImageError
from unsquare.shapes import Shape

MEMORY_PER_BYTE = 16
_END, _MOVE = 1, 2
"""Meaning of a command's second byte after a first of zero; 0 ends a row, 3 and more count the pixels that follow."""
_MOST_PADDING = 7
"""Pixels allowed after the end of a row: ImageMagick packs rows of whole 32-bit words."""
_NO_COLOR = (
    "is a BMP whose runs (RLE) leave pixels without a color, which programs show differently; save it uncompressed"
)

_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Where the runs are, and how they are encoded."""

    start: int
    num_bytes: int
    """Bytes to the end of the file, or the most that the picture may need."""
    is_half: bool
    """Whether a byte holds two pixels (RLE4)."""
    is_top_down: bool


def most_bytes(shape: Shape) -> int:
    """The most bytes that a picture may need: a run for each pixel, as some programs write, and an end for each row."""
    return 2 * (shape.width + _MOST_PADDING + 1) * shape.height + 2


def read_runs(fp: IO[bytes], runs: Runs, shape: Shape) -> _Bytes:
    """(H, W) positions in the palette.

    Raises:
        ImageError: the runs end before the picture does, leave pixels without a color, or have too many.
    """
    fp.seek(runs.start)
    data = np.frombuffer(fp.read(runs.num_bytes), np.uint8)
    words, counts, is_ended = _counts(data[: len(data) // 2 * 2], runs.is_half)
    ends = np.cumsum(counts.reshape(-1, 2).sum(axis=1, dtype=np.int64))
    is_end_of_row = ~(words.reshape(-1, 2).any(axis=1) | counts.reshape(-1, 2).any(axis=1))
    total = ends[-1] if len(ends) else 0
    rows = np.diff(ends[is_end_of_row], prepend=0, append=total)  # pixels in each row
    if len(rows) < shape.height or rows[: shape.height].min() < shape.width:
        raise ImageError(
            _NO_COLOR if is_ended else "is cut short or damaged: its runs (RLE) end before the picture does"
        )
    width = int(rows[0])
    if width > shape.width + _MOST_PADDING or (rows[: shape.height] != width).any() or rows[shape.height :].any():
        raise ImageError("is damaged: its runs (RLE) have more pixels than the picture")
    pixels = _repeated(words, counts, runs.is_half).reshape(shape.height, width)[:, : shape.width]
    return pixels if runs.is_top_down else pixels[::-1]


def _counts(data: _Bytes, is_half: bool) -> tuple[_Bytes, _Bytes, bool]:
    """The bytes up to the end, the number of pixels of each, and whether the end is marked."""
    is_escape = (data[::2] == 0) & (data[1::2] != 0)
    places, says = 2 * np.flatnonzero(is_escape), data[1::2][is_escape].astype(np.int64)
    num_bytes = (says + 1) // 2 if is_half else says
    behind = np.where(says > _MOVE, places + 2 + num_bytes + num_bytes % 2, len(data))
    found = _chain(np.searchsorted(places, behind))
    last = says[found[-1]] if len(found) else 0
    if last == _MOVE:
        raise ImageError(_NO_COLOR)
    if last == _END:
        data, found = data[: places[found[-1]]], found[:-1]
    if len(found) and behind[found[-1]] > len(data):
        raise ImageError("is cut short or damaged: its runs (RLE) end before the picture does")
    counts = np.zeros_like(data)
    counts[1::2] = data[::2]  # a run: its length, then its color
    _count_literals(counts, places[found] + 2, says[found], is_half)
    return data, counts, last == _END


def _chain(following: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The true commands among the candidates, each given with the one that follows it; the others are pixel data."""
    after, chain, at = following.tolist(), [], 0
    while at < len(after):
        chain.append(at)
        at = after[at]
    return np.array(chain, dtype=np.int64)


def _count_literals(counts: _Bytes, begins: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64], half: bool) -> None:
    """Set the counts of literal pixels: one or two per byte, none for bytes that fill up the last word."""
    num_bytes = (lengths + 1) // 2 if half else lengths
    ends = begins + num_bytes
    edges = np.zeros(len(counts) + 1, np.int8)
    edges[begins] = 1
    edges[ends] = -1
    counts[np.cumsum(edges[:-1], dtype=np.int8).view(bool)] = 1 + half
    if half:
        counts[ends[lengths % 2 == 1] - 1] = 1
    counts[ends[num_bytes % 2 == 1]] = 0


def _repeated(data: _Bytes, counts: _Bytes, is_half: bool) -> _Bytes:
    """Each byte repeated by its count; where it holds two pixels, these in turn."""
    if not is_half:
        return np.repeat(data, counts)
    num_pairs = (counts >> 1) + (counts & 1)
    pairs = np.repeat(data, num_pairs)
    pixels = np.stack([pairs >> 4, pairs & 15], axis=-1).ravel()
    return np.delete(pixels, 2 * np.cumsum(num_pairs, dtype=np.int64)[counts % 2 == 1] - 1)
