"""Near-duplicates: the same picture saved again, resized, brightened or in gray, by a perceptual hash of its content.

The hash is pHash (Zauner 2010, https://www.phash.org/docs/pubs/thesis_zauner.pdf) with 256 bits: a picture is shrunk to
64 x 64 gray pixels, and the 16 x 16 lowest frequencies of its cosine transform are compared with their median. Copies
differ in up to 22 bits, whatever they were resized or compressed to; of 2.9 million pairs of photographs of clothing,
many before one wall, none differs in 48 or fewer. With 64 bits, as the hash is mostly used, 14 of them do in 6, which
copies reach as well. The package imagehash is the same transform, but needs SciPy and PyWavelets for it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Annotated

import numpy as np
import numpy.typing as npt

from unsquare.data.decode import decode_need, decode_row
from unsquare.data.gate import DECODE_BYTES, ByteGate, num_cores
from unsquare.data.pixels import Pixels
from unsquare.errors import ImageError
from unsquare.index.alike import BITS, Duplicate, Fingerprints, alike
from unsquare.index.table import ShapeIndex
from unsquare.progress import Progress
from unsquare.settings import MOST_WORKERS, Range, checks_arguments
from unsquare.shapes import Shape

DISTANCE = 32
"""Bits in which near-duplicates may differ, between the 22 of copies and the 48 of other pictures that look alike."""
MOST_DISTANCE = 64
"""A quarter of the bits; different pictures of one scene differ in as many."""
_SIDE, _FREQUENCIES = 64, 16
_LEAST_CONTRAST = 2.0
"""Standard deviation of the gray levels, of 255, below which a picture is blank: its frequencies are noise."""
_GRAY = np.array([0.299, 0.587, 0.114])
_TRANSFORM = np.cos(np.pi * np.outer(np.arange(_FREQUENCIES), 2 * np.arange(_SIDE) + 1) / (2 * _SIDE))
"""(16, 64) the lowest frequencies of the cosine transform (DCT-II)."""
_ORDER = np.lexsort(np.indices((_FREQUENCIES, _FREQUENCIES)).reshape(2, -1)[::-1] // 8)
"""The frequencies in blocks of 8 x 8, the lowest first."""


@checks_arguments
def find_duplicates(
    index: ShapeIndex,
    distance: Annotated[int, Range(0, MOST_DISTANCE)] = DISTANCE,
    *,
    workers: Annotated[int, Range(1, MOST_WORKERS)] | None = None,
    progress: Progress | None = None,
) -> tuple[Duplicate, ...]:
    """Pairs of pictures that look the same, though their files differ; every picture is decoded.

    Found are pictures that were saved again, resized, brightened or turned to gray; not those that were mirrored,
    turned or cropped, nor drawings of so few shapes that half of their frequencies are zero. Blank pictures, and those
    that cannot be decoded, are left out.

    Args:
        index: the images; their files must exist.
        distance: bits of 256 in which the fingerprints of two may differ, up to 64.
        workers: number of decoder threads; None uses one per core.
        progress: called after each picture with the number done and in all.

    Returns:
        Pairs in two splits first, then those with two labels, then the nearest; at most 100,000.

    Example:
        >>> from PIL import Image
        >>> fractal = Image.effect_mandelbrot((240, 180), (-2, -1, 0.6, 1.2), 90)
        >>> fractal.save("photos/train/silk/new.png")
        >>> fractal.resize((120, 90)).save("photos/train/silk/small.jpg")
        >>> [found] = unsquare.find_duplicates(unsquare.scan_source("photos"))
        >>> found.distance <= 32, found.in_two_splits
        (True, False)
    """
    gate = ByteGate(DECODE_BYTES)
    target = Shape(_SIDE, _SIDE)

    def of_row(row: int) -> npt.NDArray[np.uint64] | None:
        shape = Shape(int(index.sizes[row, 0]), int(index.sizes[row, 1]))
        try:
            with gate.hold(decode_need(index.path(row), shape, target)):
                return fingerprint(decode_row(index, row, target))
        except ImageError:
            return None

    rows, found = [], []
    with ThreadPoolExecutor(workers or num_cores()) as pool:
        for row, each in enumerate(pool.map(of_row, range(len(index)))):
            if each is not None:
                rows.append(row)
                found.append(each)
            if progress is not None:
                progress(row + 1, len(index))
    fingerprints: Fingerprints = np.array(found, dtype=np.uint64).reshape(-1, BITS // 64)
    return alike(index, rows, fingerprints, distance)


def fingerprint(pixels: Pixels) -> npt.NDArray[np.uint64] | None:
    """The perceptual hash of a picture of 64 x 64 pixels, (4,); None where it is blank."""
    gray = pixels @ _GRAY  # (64, 64)
    if gray.std() < _LEAST_CONTRAST:
        return None
    frequencies = (_TRANSFORM @ gray @ _TRANSFORM.T).reshape(-1)
    above = frequencies > np.median(frequencies[1:])
    above[0] = False  # the mean, which is no structure
    return np.packbits(above[_ORDER]).view(np.uint64)
