"""Finds the files that can be read in more than one way, where the user has not chosen one."""

from __future__ import annotations

import threading
from typing import IO

import imagecodecs

from unsquare.errors import ImageError
from unsquare.index.bmp_runs import read_runs
from unsquare.index.choices import Choices
from unsquare.index.header import Header
from unsquare.index.stream import join
from unsquare.index.tiff import largest_sample

_LEAST_OF_16_BITS = 1 << 14
"""A picture that stays below uses a quarter of its range at most: 14 bits or fewer, as cameras and scanners give."""
_one_at_a_time = threading.Lock()
"""Around what decodes pictures while headers are read by many threads."""


def require_one_page(header: Header, choices: Choices) -> None:
    """Raise `ImageError` where a file has several pages and none was chosen."""
    if header.num_pages > 1 and choices.pages == "refuse":
        raise ImageError(
            f"has {header.num_pages:,} pages, of which one would be read; store each page as a file, or bands as "
            "channels, or train from an index made with `unsquare scan --pages first --out index.parquet`"
        )


def require_known_range(fp: IO[bytes], header: Header, choices: Choices) -> None:
    """Raise `ImageError` where samples use a small part of the range that they declare, and no range was chosen.

    Where the first strip of a TIFF uses the range, no more of it is read; a PNG of 16 bits is decoded.
    """
    samples = header.samples
    if choices.bits is not None or header.depth != 16 or (samples and (samples.kind != "u" or samples.mode == "P")):
        return
    with _one_at_a_time:
        most = largest_sample(fp, samples, _LEAST_OF_16_BITS) if samples else _largest_of_png(fp, header)
    if 0 < most < _LEAST_OF_16_BITS:
        raise ImageError(
            f"declares samples of 16 bits, 0 to 65,535, but uses 0 to {most:,} and would be nearly of one shade; "
            f"train from an index made with `unsquare scan --bits {max(8, most.bit_length())} --out index.parquet` (as "
            "used), or with --bits 16 (as declared)"
        )


def require_all_pixels(fp: IO[bytes], header: Header) -> None:
    """Raise `ImageError` where the runs of a BMP do not say what color each pixel has."""
    if header.runs is not None:
        with _one_at_a_time:
            read_runs(fp, header.runs, header.stored)


def _largest_of_png(fp: IO[bytes], header: Header) -> int:
    pixels = imagecodecs.png_decode(join(fp, header.parts))
    has_alpha = pixels.ndim == 3 and pixels.shape[2] in (2, 4)
    return int((pixels[..., :-1] if has_alpha else pixels).max())
