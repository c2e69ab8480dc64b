"""Reads a TIFF's header: what its samples mean, and whether they are supported.

tifffile reads the header, and the samples as they are stored (`data.tiff`), with the codecs of imagecodecs. Kinds that
these cannot read go to the second decoder (Pillow, with libtiff) if it reads them correctly. All others are refused
here with their kind, not hours later.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Literal, cast

import numpy as np
import numpy.typing as npt
import tifffile

from unsquare.errors import ImageError
from unsquare.index.limits import MAX_PROFILE_BYTES, HeaderReader, check_length, check_size
from unsquare.shapes import Shape

_MAX_PAGES = 10_000
_MAX_BITS_PER_PIXEL = 1024
"""Most bits of all samples together, whether they are shown or not."""
_MAX_BYTES_PER_PIXEL = 64
"""Most bytes per pixel while decoding, for pictures above a million pixels."""
_MAX_ENTRIES = 4096
_WHOLE_BYTES = {3: 2, 4: 4, 16: 8}
"""Bytes of integers, by their type."""
_READ_BYTES = 1 << 20
"""Bytes of strips or tiles read at a time; tifffile itself would take 256 MiB."""
_SUBFILE, _PHOTOMETRIC_TAG, _ORIENTATION, _SUBPAGES, _INK_SET, _ICC = 254, 262, 274, 330, 332, 34675
_YCBCR = {529: (0.299, 0.587, 0.114), 532: (0, 255, 128, 255, 128, 255)}
"""The only supported YCbCr, JPEG's, by its tags: coefficients, and the values of black and white."""
_MAX_VALUES = {
    **dict.fromkeys((273, 279, 324, 325), 1 << 20),  # where strips or tiles begin, and their lengths
    **dict.fromkeys((258, 277, 330, 338, 339), 1 << 16),  # depths, kinds and such of the samples
    320: 3 << 16,  # the palette
}
"""Most values in entries of a page that are read as numbers."""
_REDUCED_OR_MASK = 1 | 4
_COMPRESSIONS = {
    1: "none",
    5: "LZW",
    8: "deflate",
    32773: "PackBits",
    32946: "deflate",
    34925: "LZMA",
    50000: "Zstandard",
}
"""Compressions whose strips cannot unpack to more than they should."""
_OF_SECOND_DECODER = {2: "fax", 3: "fax", 4: "fax", 6: "JPEG", 7: "JPEG"}
_MODES = {0: "L", 1: "L", 2: "RGB", 3: "P", 4: "L", 5: "CMYK", 6: "YCbCr", 8: "LAB", 9: "LAB"}
_CHANNELS = {"L": 1, "P": 1, "RGB": 3, "CMYK": 4, "YCbCr": 3, "LAB": 3}
_PHOTOMETRIC = {10: "ITU L*a*b*", 32803: "a camera's color filter array", 32844: "LogL", 32845: "LogLuv"}
_UNASSOCIATED, _ASSOCIATED = 2, 1
_PREMULTIPLIED = (1, 2, 3)
"""Photometrics whose colors may have been multiplied by opacity. For gray with zero as black, RGB and palettes, TIFF
6.0 (section 18) defines that. For others it is ambiguous whether the samples, or the colors they show, are
multiplied."""


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The meaning of the samples of a TIFF."""

    mode: str
    """The color mode: L, P, RGB, CMYK, YCbCr or LAB; its channels are the first."""
    bits: int
    kind: str
    """u, i or f: unsigned integers, signed integers, floats."""
    is_inverted: bool = False
    """Whether zero is white."""
    has_alpha: bool = False
    """Whether the sample after the color's channels is opacity."""
    is_premultiplied: bool = False
    """Whether colors have been multiplied by it."""
    is_unsigned_lab: bool = False
    """Whether a* and b* are stored from zero, like in ICC profiles; else they are signed."""
    palette: npt.NDArray[np.uint8] | None = None
    """(N, 3): colors by sample."""

    @property
    def num_colors(self) -> int:
        """Number of samples of the color."""
        return _CHANNELS[self.mode]

    @property
    def num_channels(self) -> int:
        """Number of samples that are shown: those of the color, and opacity."""
        return self.num_colors + self.has_alpha


@dataclass(frozen=True, kw_only=True)
class Tiff:
    """The facts of a TIFF's first picture."""

    stored: Shape
    orientation: int
    icc: bytes
    num_pages: int
    """Pictures of full size in the file."""
    samples: Samples | None
    """None where the second decoder reads the file."""
    kind: str
    """Its compression, colors and depth in words, for messages."""
    is_bilevel: bool
    bytes_per_pixel: int
    """An upper bound of the memory that decoding takes."""


@contextmanager
def first_page(fp: IO[bytes] | HeaderReader) -> Iterator[tifffile.TiffPage]:
    """The first picture of an open TIFF."""
    fp.seek(0)
    # Without looking for the pages of microscopes' own formats.
    with tifffile.TiffFile(
        cast("IO[bytes]", fp), name="picture", is_lsm=False, is_scanimage=False, is_ndpi=False
    ) as file:
        yield cast("tifffile.TiffPage", file.pages[0])


def read_tiff(fp: IO[bytes], num_bytes: int) -> Tiff:
    """The header of a TIFF of this many bytes.

    Raises:
        ImageError: it is damaged, or not supported.
    """
    num_pages = count_pages(fp, num_bytes)
    with first_page(HeaderReader(fp, "TIFF")) as page:
        stored = Shape(page.imagelength, page.imagewidth)
        check_size(stored, num_bytes, bilevel=page.bitspersample == 1 and page.samplesperpixel == 1)
        _check_pieces(page, num_bytes)
        icc = page.tags.get(_ICC)
        if icc is not None:
            check_length("color profile", icc.count, MAX_PROFILE_BYTES)
        orientation = page.tags.valueof(_ORIENTATION, 1)
        samples = _samples(page)
        return Tiff(
            stored=stored,
            orientation=orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1,
            icc=bytes(icc.value) if icc is not None and icc.count > 1 else b"",
            num_pages=num_pages,
            samples=samples,
            kind=f"{_OF_SECOND_DECODER.get(page.compression, 'no JPEG')} compression, photometric {page.photometric}, "
            f"{page.samplesperpixel} samples of {page.bitspersample} bits",
            is_bilevel=page.bitspersample == 1 and page.samplesperpixel == 1,
            bytes_per_pixel=12 if samples is None else _bytes_per_pixel(page, samples, stored),
        )


def count_pages(fp: IO[bytes], num_bytes: int) -> int:
    """The number of pictures of full size in a TIFF, without thumbnails and masks.

    Raises:
        ImageError: the list of pages is damaged, circular or endless.
    """
    fp.seek(0)
    head = fp.read(16)
    order: Literal["little", "big"] = "little" if head[:2] == b"II" else "big"
    is_big = head[2:4] in (b"+\x00", b"\x00+")
    entry = ("<" if order == "little" else ">") + ("HHQ8s" if is_big else "HHI4s")
    number_bytes, offset_bytes = (8, 8) if is_big else (2, 4)
    at = int.from_bytes(head[8:16] if is_big else head[4:8], order)
    count = num_bytes_of_pages = 0
    begins_reduced = has_subpages = False
    seen: set[int] = set()
    while at:
        if at in seen or at >= num_bytes or len(seen) > _MAX_PAGES:
            raise ImageError("is damaged: its list of pages is circular, endless or leaves the file")
        seen.add(at)
        fp.seek(at)
        num_entries = int.from_bytes(fp.read(number_bytes), order)
        if num_entries > _MAX_ENTRIES:
            raise ImageError(f"is damaged: a page has more than {_MAX_ENTRIES} entries")
        block = fp.read(num_entries * struct.calcsize(entry))
        num_bytes_of_pages += len(block)
        if num_bytes_of_pages > num_bytes:
            raise ImageError("is damaged: its pages overlap")
        subfile = 0
        for code, kind, num_values, value in struct.iter_unpack(entry, block):
            has_subpages |= code == _SUBPAGES and len(seen) == 1
            if code == _SUBFILE:
                subfile = int.from_bytes(value[: _WHOLE_BYTES.get(kind, 4)], order)
            if len(seen) == 1 and num_values > _MAX_VALUES.get(code, num_values):
                raise ImageError(f"has {num_values:,} values in tag {code}, above the limit of {_MAX_VALUES[code]:,}")
        count += not subfile & _REDUCED_OR_MASK
        begins_reduced |= len(seen) == 1 and not count
        at = int.from_bytes(fp.read(offset_bytes), order)
    if begins_reduced and (count or has_subpages):
        raise ImageError(
            "begins with a thumbnail, preview or mask, and its picture comes later, as in a camera's raw files, which "
            "is not supported; convert it to PNG or JPEG"
        )
    return max(count, 1)


def blocks(page: tifffile.TiffPage, num_channels: int) -> Iterator[tuple[npt.NDArray[Any], int, int, int]]:
    """The strips or tiles, clipped to the picture and to its first channels.

    Yields:
        Samples (h, w, c), with their row, column and channel.

    Raises:
        ImageError: parts of the picture are missing.
    """
    covered = 0
    for data, (plane, _, row, column, _), _ in page.segments(maxworkers=1, buffersize=_READ_BYTES):
        if data is None:
            raise ImageError("is cut short: a strip or tile is missing")
        if plane < num_channels:
            block = data[0, : page.imagelength - row, : page.imagewidth - column, :num_channels]
            covered += block.shape[0] * block.shape[1] * (plane == 0)
            yield block, row, column, plane
    if covered != page.imagelength * page.imagewidth:
        raise ImageError("is cut short: its strips or tiles do not cover the picture")


def largest_sample(fp: IO[bytes], samples: Samples, enough: int) -> int:
    """The largest value of the colors, or the first found to be at least `enough`."""
    most = 0
    with first_page(fp) as page:
        for block, *_ in blocks(page, samples.num_colors):
            most = max(most, int(block.max()))
            if most >= enough:
                break
    return most


def _check_pieces(page: tifffile.TiffPage, num_bytes: int) -> None:
    """Raise `ImageError` where strips or tiles are missing, huge, or outside the file."""
    if page.imagedepth != 1 or (page.is_tiled and page.tiledepth != 1):
        raise ImageError("is a volume with depth, not a picture")
    starts, lengths = page.dataoffsets, page.databytecounts
    across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
    down = -(-page.imagelength // (page.tilelength if page.is_tiled else page.rowsperstrip))
    expected = across * down * (page.samplesperpixel if page.planarconfig == 2 else 1)
    if min(len(starts), len(lengths)) < expected or not all(
        start and length for start, length in zip(starts[:expected], lengths)
    ):
        raise ImageError("is cut short or damaged: it lists fewer strips or tiles than it has")
    if any(start >= num_bytes for start in starts[:expected]):
        raise ImageError("is cut short or damaged: its pixel data are not where its header says")
    if max(lengths[:expected]) > num_bytes:
        raise ImageError("is cut short: its pixel data run past the end of the file")
    if page.is_tiled:
        check_size(Shape(page.tilelength, page.tilewidth), num_bytes)


def _samples(page: tifffile.TiffPage) -> Samples | None:
    """The meaning of the samples; None where the second decoder is to read them."""
    if _PHOTOMETRIC_TAG not in page.tags:
        raise ImageError("is damaged: it does not say what its samples mean (tag 262)")
    mode = _MODES.get(page.photometric)
    if mode is None:
        name = _PHOTOMETRIC.get(page.photometric, f"photometric {page.photometric}")
        raise ImageError(f"is stored as {name}, which is not supported; convert it to PNG or to TIFF as RGB")
    alpha = _alpha(page, _CHANNELS[mode])
    if alpha == _ASSOCIATED and page.photometric not in _PREMULTIPLIED:
        name = "white-is-zero" if page.photometric == 0 else mode
        raise ImageError(
            f"has {name} samples multiplied by opacity (associated alpha), which programs show differently; "
            "convert it to PNG, or to TIFF with unassociated alpha"
        )
    if page.compression in _OF_SECOND_DECODER or (mode == "YCbCr" and page.is_subsampled):
        return None
    if page.compression not in _COMPRESSIONS:
        raise ImageError(f"is compressed by method {page.compression}, which is not supported; use one of {_known()}")
    if page.predictor != 1 and _COMPRESSIONS[page.compression] in ("none", "PackBits"):
        raise ImageError("has a predictor without a compression that uses one, which programs read differently")
    if mode == "CMYK" and page.tags.valueof(_INK_SET, 1) == 2:
        raise ImageError("is stored as inks other than CMYK, which is not supported")
    if mode == "YCbCr" and not all(_is_near(page.tags.valueof(tag), known) for tag, known in _YCBCR.items()):
        raise ImageError("has YCbCr colors other than JPEG's, which are not supported; convert it to TIFF as RGB")
    bits, dtype = page.bitspersample, page.dtype
    if not isinstance(bits, int):
        raise ImageError("has samples of different depths, which are not supported")
    if dtype is None or dtype.kind not in "uifb" or bits > 64:
        kind = {5: "complex", 6: "complex"}.get(page.sampleformat, f"{bits}-bit")
        raise ImageError(f"has {kind} samples, which are not supported")
    num_color = _CHANNELS[mode]
    if page.samplesperpixel < num_color:
        raise ImageError(f"has {page.samplesperpixel} samples per pixel, but its colors need {num_color}")
    if bits * page.samplesperpixel > _MAX_BITS_PER_PIXEL:
        raise ImageError(f"has {page.samplesperpixel} samples of {bits} bits per pixel, more than are supported")
    kind = "u" if dtype.kind == "b" else dtype.kind
    if mode != "L" and mode != "RGB" and (kind != "u" or bits not in (8, 16)) and mode != "P":
        raise ImageError(f"has {mode} colors in {_name(kind, bits)} samples, which are not supported")
    return Samples(
        mode=mode,
        bits=bits,
        kind=kind,
        is_inverted=page.photometric == 0,
        has_alpha=alpha > 0,
        is_premultiplied=alpha == _ASSOCIATED,
        is_unsigned_lab=page.photometric == 9,
        palette=_palette(page, bits, kind) if mode == "P" else None,
    )


def _is_near(said: Any, known: tuple[float, ...]) -> bool:
    """Whether these rational numbers, numerator and denominator each, are missing or the known ones."""
    if said is None:
        return True
    numbers = np.asarray(said, dtype=np.float64).reshape(-1, 2)
    return len(numbers) == len(known) and np.allclose(numbers[:, 0], numbers[:, 1] * known, rtol=0.01)


def _known() -> str:
    return ", ".join(dict.fromkeys([*_COMPRESSIONS.values(), *_OF_SECOND_DECODER.values()]))


def _name(kind: str, bits: int) -> str:
    return {"u": "uint", "i": "int", "f": "float"}[kind] + str(bits)


def _alpha(page: tifffile.TiffPage, num_color: int) -> int:
    """The kind of opacity in the sample after the colors; 0 where it is something else or missing.

    A single extra sample without a declared meaning counts as opacity, as in libtiff's own viewers.
    """
    extra = page.samplesperpixel - num_color
    kinds = tuple(int(kind) for kind in page.extrasamples)
    if not kinds:
        return _UNASSOCIATED if extra == 1 else 0
    return kinds[0] if extra and kinds[0] in (_ASSOCIATED, _UNASSOCIATED) else 0


def _palette(page: tifffile.TiffPage, bits: int, kind: str) -> npt.NDArray[np.uint8]:
    colors = page.colormap
    if colors is None or kind != "u" or bits > 16 or len(colors) != 3:
        raise ImageError("is damaged: it has no usable palette")
    table = np.asarray(colors, dtype=np.uint16).T  # (N, 3)
    # Entries have 16 bits; programs that wrote 8 bits are recognized by their values, as in libtiff.
    eight = table if table.max(initial=0) < 256 else table >> 8
    full = np.zeros((1 << bits, 3), np.uint8)
    full[: len(eight)] = eight[: 1 << bits]
    return full


def _bytes_per_pixel(page: tifffile.TiffPage, samples: Samples, stored: Shape) -> int:
    """Most bytes per pixel while decoding: the shown samples as bytes, the result, and the current strip or tile."""
    dtype = cast("np.dtype[Any]", page.dtype)
    raw = dtype.itemsize * (page.samplesperpixel if page.planarconfig == 1 else 1)
    rows, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    # Encoded, decoded, and after undoing byte order or predictor.
    work = 3 * raw * min(rows, stored.height) * width / stored.pixels
    bytes_per_pixel = int(samples.num_channels * (1 + (samples.bits > 8)) + 7 + work) + 1
    if bytes_per_pixel > _MAX_BYTES_PER_PIXEL and stored.pixels > 1 << 20:
        raise ImageError(
            f"takes {bytes_per_pixel} bytes per pixel to decode, above the limit of {_MAX_BYTES_PER_PIXEL}; "
            "store it in strips or tiles"
        )
    return bytes_per_pixel
