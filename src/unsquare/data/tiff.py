"""Reads the samples of a TIFF as bytes, one channel each, black at 0 and white at 255.

Works strip by strip, so that besides the bytes only one strip or tile is held in the file's own samples. Integers are
shown in the range that their depth declares; 32-bit integers and floats, whose depth declares none, in the smallest of
the usual ranges that holds them all.
"""

from __future__ import annotations

from typing import IO

import numpy as np
import tifffile

from unsquare.data.color import Channels, ValueRange, levels_of, needs_depth, value_range
from unsquare.errors import StaleImageError
from unsquare.index.header import Header
from unsquare.index.tiff import Samples, blocks, first_page


def read_samples(fp: IO[bytes], header: Header, bits: int | None = None) -> Channels:
    """The visible channels, (H, W, C) uint8, or uint16 for a profile; opacity, if any, is the last.

    Args:
        fp: the open file.
        header: its header.
        bits: the number of bits that 16-bit samples use; None for all of them.

    Raises:
        ImageError: parts of the picture are missing.
    """
    samples = header.samples
    assert samples is not None
    num_colors = samples.num_colors if samples.palette is None else 3
    num_channels = num_colors + samples.has_alpha
    is_deep = samples.bits > 8 and samples.palette is None and needs_depth(header.icc, samples.mode)
    out = np.empty((*header.stored, num_channels), np.uint16 if is_deep else np.uint8)
    with first_page(fp) as page:
        if (page.imagelength, page.imagewidth) != header.stored:
            raise StaleImageError("changed while it was read")
        shown = _range(page, samples, bits, is_opacity=False)
        opacity = _range(page, samples, None, is_opacity=True) if samples.has_alpha else shown
        for block, row, column, channel in blocks(page, samples.num_channels):
            part = out[row : row + block.shape[0], column : column + block.shape[1]]
            for i in range(block.shape[2]):
                if channel + i == samples.num_colors:
                    part[..., num_colors] = levels_of(block[..., i], opacity, out.dtype)
                elif samples.palette is not None:
                    part[..., :3] = samples.palette[block[..., i].astype(np.intp)]
                else:
                    part[..., channel + i] = levels_of(block[..., i], shown, out.dtype)
    if samples.is_inverted:
        out[..., : samples.num_colors] ^= np.iinfo(out.dtype).max
    if samples.is_unsigned_lab:
        out[..., 1:3] ^= 128
    return out


def _range(page: tifffile.TiffPage, samples: Samples, bits: int | None, *, is_opacity: bool) -> ValueRange:
    """The values shown as black and white, or as transparent and opaque: opacity has a range of its own."""
    if samples.kind == "u" and samples.bits <= 16:
        return ValueRange(0, (1 << (bits if bits and samples.bits == 16 else samples.bits)) - 1)
    if samples.kind == "i" and samples.bits == 8:
        return ValueRange(-128, 127)
    least, most = np.inf, -np.inf
    for block, _, _, channel in blocks(page, samples.num_channels):
        num_colors = max(0, samples.num_colors - channel)
        wanted = block[..., num_colors:] if is_opacity else block[..., :num_colors]
        finite = wanted[np.isfinite(wanted)] if samples.kind == "f" else wanted
        if finite.size:
            least, most = min(least, float(finite.min())), max(most, float(finite.max()))
    return value_range(least, most, is_float=samples.kind == "f")
