"""The samples of a TIFF as bytes: a channel each, black at 0 and white at 255.

Strip by strip, so that beside the bytes one strip or tile is held in the file's own samples. Whole numbers are shown by
the range that their depth declares, 32 bits and floats, whose depth declares none, by the smallest of the usual
ranges that holds them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt
import tifffile

from unsquare.data.colour import Range, bytes_of, value_range
from unsquare.errors import ImageError
from unsquare.index.header import Header
from unsquare.index.tiff import Samples, first_page

_Block = tuple[npt.NDArray[Any], int, int, int]
"""Samples (h, w, c), and the row, column and channel where they belong."""


def read_samples(fp: IO[bytes], header: Header, bits: int | None = None) -> npt.NDArray[np.uint8]:
    """The channels that are shown, (H, W, C) uint8; opacity, where there is any, last.

    Args:
        fp: the open file.
        header: its header.
        bits: the bits that samples of 16 use; None for all of them.

    Raises:
        ImageError: parts of the picture are missing.
    """
    samples = header.samples
    assert samples is not None
    num_channels = 3 if samples.palette is not None else samples.num_channels
    out = np.empty((*header.stored, num_channels), np.uint8)
    with first_page(fp) as page:
        if (page.imagelength, page.imagewidth) != header.stored:
            raise ImageError("changed while it was read")
        shown = _range(page, samples, bits)
        for block, row, column, channel in _blocks(page, samples.num_channels):
            part = out[row : row + block.shape[0], column : column + block.shape[1]]
            if samples.palette is not None:
                part[:] = samples.palette[block[..., 0]]
            else:
                part[..., channel : channel + block.shape[2]] = bytes_of(block, shown)
    num_colors = samples.num_channels - samples.has_alpha
    if samples.is_inverted:
        np.subtract(255, out[..., :num_colors], out=out[..., :num_colors])
    if samples.is_signed_lab:
        out[..., 1:3] ^= 128
    return out


def largest_sample(fp: IO[bytes], header: Header) -> int:
    """The largest value among the samples that are shown."""
    assert header.samples is not None
    with first_page(fp) as page:
        return max(int(block.max()) for block, *_ in _blocks(page, header.samples.num_channels))


def _blocks(page: tifffile.TiffPage, num_channels: int) -> Iterator[_Block]:
    """The strips or tiles, cut to the picture and to the channels that are shown."""
    area = page.imagelength * page.imagewidth
    covered = 0
    for data, (plane, _, row, column, _), _ in page.segments(maxworkers=1):
        if data is None:
            raise ImageError("is cut short: a strip or tile is missing")
        if plane < num_channels:
            block = cast("npt.NDArray[Any]", data)[0, : page.imagelength - row, : page.imagewidth - column, :num_channels]
            covered += block.shape[0] * block.shape[1] * (plane == 0)
            yield block, row, column, plane
    if covered != area:
        raise ImageError("is cut short: strips or tiles do not cover the picture")


def _range(page: tifffile.TiffPage, samples: Samples, bits: int | None) -> Range:
    """The values shown as black and as white."""
    if samples.kind == "u" and samples.bits <= 16:
        return Range(0, (1 << (bits if bits and samples.bits == 16 else samples.bits)) - 1)
    if samples.kind == "i" and samples.bits == 8:
        return Range(-128, 127)
    least, most = np.inf, -np.inf
    num_colors = samples.num_channels - samples.has_alpha
    for block, _, _, channel in _blocks(page, num_colors):
        finite = block[np.isfinite(block)] if samples.kind == "f" else block
        if finite.size:
            least, most = min(least, float(finite.min())), max(most, float(finite.max()))
    return value_range(least, most, is_float=samples.kind == "f")
