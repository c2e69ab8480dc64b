"""Finds files that can be read in more than one way, where the user has not chosen one."""

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
"""A picture below this value uses at most a quarter of its range: 14 bits or fewer, as cameras and scanners give."""
_one_at_a_time = threading.Lock()
"""Held while pictures are decoded, since many threads read headers."""


def require_one_page(header: Header, choices: Choices) -> None:
    """Raise `ImageError` where a file has several pages and none was chosen."""
    if header.num_pages > 1 and choices.pages == "refuse":
        raise ImageError(
            f"has {header.num_pages:,} pages, but only one would be read; store each page as a file, or bands as "
            "channels, or train from an index made with `unsquare scan --pages first --out index.parquet`"
        )


def require_known_range(fp: IO[bytes], header: Header, choices: Choices) -> None:
    """Raise `ImageError` where samples use only a small part of their declared range, and no range was chosen.

    Of a TIFF, no more is read once a strip uses the range; a PNG of 16 bits is decoded.
    """
    samples = header.samples
    if choices.bits is not None or header.depth != 16 or (samples and (samples.kind != "u" or samples.mode == "P")):
        return
    with _one_at_a_time:
        most = largest_sample(fp, samples, _LEAST_OF_16_BITS) if samples else _largest_of_png(fp, header)
    if 0 < most < _LEAST_OF_16_BITS:
        raise ImageError(
            f"declares samples of 16 bits, 0 to 65,535, but uses only 0 to {most:,} and would look almost uniform; "
            f"train from an index made with `unsquare scan --bits {max(8, most.bit_length())} --out index.parquet` (as "
            "used), or with --bits 16 (as declared)"
        )


def require_all_pixels(fp: IO[bytes], header: Header) -> None:
    """Raise `ImageError` where the runs of a BMP leave pixels without a color."""
    if header.runs is not None:
        with _one_at_a_time:
            read_runs(fp, header.runs, header.stored)


def _largest_of_png(fp: IO[bytes], header: Header) -> int:
    pixels = imagecodecs.png_decode(join(fp, header.parts))
    has_alpha = pixels.ndim == 3 and pixels.shape[2] in (2, 4)
    return int((pixels[..., :-1] if has_alpha else pixels).max())
