"""Files that ask for all the memory and time there is."""

from __future__ import annotations

import io
import lzma
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
from picture_cases import HEIGHT, RGB, WIDTH
from picture_matrix import bmp, jpeg, png, png_chunk
from picture_tiff import tiff, tiff_file
from PIL import Image

MB = 1 << 20


def sparse(path: Path, head: bytes, length: int, tail: bytes = b"") -> None:
    """A file of this length with zeros between its head and its tail, which take no space on the disk."""
    with path.open("wb") as file:
        file.write(head)
        file.seek(length - len(tail))
        file.write(tail)
        file.truncate(length)


def saved(image: Image.Image, name: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, name, **options)
    return out.getvalue()


def after_soi(data: bytes, extra: bytes) -> bytes:
    return data[:2] + extra + data[2:]


def after_header(data: bytes, *chunks: bytes) -> bytes:
    return data[:33] + b"".join(chunks) + data[33:]


def scans(side: int, num: int) -> bytes:
    """A progressive JPEG whose last scan is repeated."""
    data = saved(Image.new("L", (side, side), 90), "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:-2] + data[at:-2] * num + data[-2:]


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


def webp_profile(path: Path) -> None:
    plain = saved(Image.new("RGB", (32, 32)), "WEBP")[12:]
    length = 3 << 30
    extended = (
        b"VP8X" + struct.pack("<I", 10) + b"\x20\0\0\0" + b"\x1f\0\0\x1f\0\0" + b"ICCP" + struct.pack("<I", length)
    )
    total = 12 + len(extended) + length + len(plain)
    sparse(path, b"RIFF" + struct.pack("<I", total - 8) + b"WEBP" + extended, total, plain)


def gif_comments(path: Path) -> None:
    data = saved(Image.new("P", (32, 32)), "GIF")
    at = data.index(b",")
    path.write_bytes(data[:at] + b"!\xfe" + (b"\xff" + b"x" * 255) * 120_000 + b"\0" + data[at:])


def gif_extensions(path: Path) -> None:
    data = saved(Image.new("P", (32, 32)), "GIF")
    at = data.index(b",")
    path.write_bytes(data[:at] + b"!\xfe\x01x\0" * 3_000_000 + data[at:])


def ifd_chain(num: int, *, circle: bool) -> bytes:
    """A TIFF with this many pages in its list, each without pixels but for the first."""
    data = bytearray(tiff(RGB, 8, 2))
    at = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[at : at + 2])[0]
    place = at + 2 + 12 * count
    data[place : place + 4] = struct.pack("<I", at if circle else len(data))
    if not circle:
        start = len(data)
        page = struct.pack("<HHHII", 1, 256, 4, 1, 1)
        for i in range(num):
            data += page + struct.pack("<I", start + (i + 1) * (len(page) + 4) if i + 1 < num else 0)
    return bytes(data)


def tiff_with(tag: int, form: str, count: int) -> Callable[[Path], None]:
    """A TIFF whose entry promises this many values, in a sparse file that has them."""

    def write(path: Path) -> None:
        kind = {"B": 1, "H": 3, "I": 4}[form]
        data = bytearray(tiff(RGB, 8, 2, tags={tag: (form, (1, 2, 3, 4, 5))}))
        at = struct.unpack("<I", data[4:8])[0]
        for i in range(struct.unpack("<H", data[at : at + 2])[0]):
            entry = at + 2 + 12 * i
            if struct.unpack("<H", data[entry : entry + 2])[0] == tag:
                data[entry : entry + 12] = struct.pack("<HHII", tag, kind, count, len(data))
        sparse(path, bytes(data), len(data) + count * struct.calcsize(form))

    return write


def tiff_of(data: bytes, compression: int) -> bytes:
    """A gray picture of one strip, which is this."""
    fields = {
        256: ("I", (WIDTH,)), 257: ("I", (HEIGHT,)), 258: ("H", (8,)), 259: ("H", (compression,)), 262: ("H", (1,)),
        277: ("H", (1,)), 278: ("I", (HEIGHT,)), 273: ("I", (16,)), 279: ("I", (len(data),)),
    }  # fmt: skip
    return tiff_file(bytearray(16) + data, fields, "<", False)


def tiff_tile_bomb() -> bytes:
    """Tiles of 65,520 x 65,520 in a picture of 24 x 40."""
    data = zlib.compress(bytes(1 << 20))
    body = bytearray(16) + data
    fields = {
        256: ("I", (WIDTH,)), 257: ("I", (HEIGHT,)), 258: ("H", (8, 8, 8)), 259: ("H", (8,)), 262: ("H", (2,)),
        277: ("H", (3,)), 322: ("I", (65_520,)), 323: ("I", (65_520,)), 324: ("I", (16,)), 325: ("I", (len(data),)),
    }  # fmt: skip
    return tiff_file(body, fields, "<", False)


def tiff_flat(side: int) -> bytes:
    """One strip of zeros."""
    data = zlib.compress(bytes(side * side), 9)
    fields = {
        256: ("I", (side,)), 257: ("I", (side,)), 258: ("H", (8,)), 259: ("H", (8,)), 262: ("H", (1,)),
        277: ("H", (1,)), 278: ("I", (side,)), 273: ("I", (16,)), 279: ("I", (len(data),)),
    }  # fmt: skip
    return tiff_file(bytearray(16) + data, fields, "<", False)


def mp4_box(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data) + 8) + name + data


def bombs() -> Iterator[tuple[str, Callable[[Path], object]]]:
    image = Image.fromarray(RGB)
    jpg, pixels = saved(image, "JPEG"), png(RGB, 8, 2)
    comment = b"\xff\xfe\xff\xff" + b"x" * 65_533
    flat = [(1, 1)] * 3
    yield "ordinary", lambda p: p.write_bytes(jpg)
    yield "webp_profile_3GiB", webp_profile
    yield (
        "webp_many_chunks",
        lambda p: p.write_bytes(riff((b"VP8X", bytes(4) + b"\x1f\0\0\x1f\0\0"), *[(b"JUNK", b"")] * 3_000_000)),
    )
    yield "webp_tail_6GB", lambda p: sparse(p, saved(image, "WEBP"), 6 << 30)
    yield "jpeg_tail_6GB", lambda p: sparse(p, jpg, 6 << 30)
    yield "jpeg_tail_6GB_end", lambda p: sparse(p, jpg, 6 << 30, b"\xff\xd9")
    yield "jpeg_no_end_6GB", lambda p: sparse(p, jpg[:-2], 6 << 30)
    yield "jpeg_fill_30MB", lambda p: p.write_bytes(after_soi(jpg, b"\xff" * 30 * MB))
    yield "jpeg_stray_30MB", lambda p: p.write_bytes(after_soi(jpg, b"\x00" * 30 * MB))
    yield "jpeg_stray_ff00_30MB", lambda p: p.write_bytes(after_soi(jpg, b"\xff\x00" * 15 * MB))
    yield "jpeg_comments_30MB", lambda p: p.write_bytes(after_soi(jpg, comment * 480))
    yield "jpeg_tiny_comments_30MB", lambda p: p.write_bytes(after_soi(jpg, b"\xff\xfe\x00\x02" * 7_500_000))
    yield "jpeg_restarts_30MB", lambda p: p.write_bytes(after_soi(jpg, b"\xff\xd0" * 15 * MB))
    yield (
        "jpeg_tables_30MB",
        lambda p: p.write_bytes(after_soi(jpg, (b"\xff\xdb\x00\x43\x00" + b"\x01" * 64) * 450_000)),
    )
    yield "jpeg_exif_30MB", lambda p: p.write_bytes(after_soi(jpg, (b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527)) * 480))
    icc = b"".join(b"\xff\xe2\xff\xffICC_PROFILE\0" + bytes([i, 255]) + bytes(65_519) for i in range(1, 256))
    yield "jpeg_profile_16MB", lambda p: p.write_bytes(after_soi(jpg, icc))
    yield "jpeg_scans_20000", lambda p: p.write_bytes(scans(4096, 20_000))
    yield "jpeg_scans_600", lambda p: p.write_bytes(scans(2048, 600))
    yield "jpeg_scans_far_apart", lambda p: p.write_bytes(scans(4096, 450)[:-2] + bytes(2 * MB) + scans(64, 200)[2:])
    yield (
        "jpeg_65500",
        lambda p: p.write_bytes(
            jpeg([90, 128, 128], flat).replace(struct.pack(">HH", HEIGHT, WIDTH), b"\xff\xdc\xff\xdc", 1)
        ),
    )
    yield (
        "png_text_3GiB",
        lambda p: sparse(p, pixels[:33] + struct.pack(">I4s", 3 << 30, b"zTXt"), (3 << 30) + 1000, pixels[33:]),
    )
    yield (
        "png_text_behind_3GiB",
        lambda p: sparse(p, pixels[:-12] + struct.pack(">I4s", 3 << 30, b"tEXt"), (3 << 30) + 10_000, pixels[-12:]),
    )
    yield (
        "png_zipped_text",
        lambda p: p.write_bytes(after_header(pixels, png_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 30))))),
    )
    yield (
        "png_zipped_profile",
        lambda p: p.write_bytes(after_header(pixels, png_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 30))))),
    )
    yield (
        "png_zipped_xmp",
        lambda p: p.write_bytes(
            after_header(pixels, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(1 << 30))))
        ),
    )
    yield (
        "png_zipped_exif",
        lambda p: p.write_bytes(
            after_header(pixels, png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(1 << 30))))
        ),
    )
    yield "png_many_chunks", lambda p: p.write_bytes(after_header(pixels, png_chunk(b"teXt", b"") * 3_000_000))
    yield (
        "png_many_pixel_chunks",
        lambda p: p.write_bytes(pixels[:-12] + png_chunk(b"IDAT", b"") * 3_000_000 + pixels[-12:]),
    )
    yield (
        "png_animation",
        lambda p: p.write_bytes(
            after_header(pixels, png_chunk(b"acTL", struct.pack(">II", 2**31 - 1, 0)))[:-12]
            + png_chunk(b"fcTL", bytes(26)) * 1_000_000
            + pixels[-12:]
        ),
    )
    yield (
        "png_flat_20000",
        lambda p: p.write_bytes(
            png(np.zeros((8, 8, 1), np.uint8), 8, 0).replace(
                struct.pack(">II", 8, 8), struct.pack(">II", 20_000, 20_000)
            )
        ),
    )
    yield (
        "png_zeros_behind_pixels",
        lambda p: p.write_bytes(pixels[:33] + png_chunk(b"IDAT", zlib.compress(bytes(1 << 30))) + pixels[-12:]),
    )
    yield "gif_comments_30MB", gif_comments
    yield "gif_extensions_15MB", gif_extensions
    yield (
        "gif_frames",
        lambda p: p.write_bytes(
            saved(Image.new("P", (8, 8)), "GIF")[:-1] + saved(Image.new("P", (8, 8)), "GIF")[-30:-1] * 500_000 + b";"
        ),
    )
    yield "tiff_circle", lambda p: p.write_bytes(ifd_chain(0, circle=True))
    yield "tiff_pages_500000", lambda p: p.write_bytes(ifd_chain(500_000, circle=False))
    for tag, form in (
        (273, "I"),
        (258, "H"),
        (338, "H"),
        (34675, "B"),
        (700, "B"),
        (37724, "B"),
        (320, "H"),
        (339, "H"),
        (33723, "I"),
    ):
        yield f"tiff_tag_{tag}", tiff_with(tag, form, 500_000_000 // struct.calcsize(form))
    yield "tiff_huge_tiles", lambda p: p.write_bytes(tiff_tile_bomb())
    jp2 = saved(image, "JPEG2000", no_jp2=False)
    inner = jpeg([90], [(1, 1)]).replace(struct.pack(">HH", HEIGHT, WIDTH), b"\xff\xdc\xff\xdc", 1)
    yield "tiff_huge_jpeg", lambda p: p.write_bytes(tiff_of(inner, 7))
    yield "tiff_huge_webp", lambda p: p.write_bytes(tiff_of(saved(Image.new("L", (16_000, 16_000)), "WEBP"), 50001))
    yield "tiff_huge_lzma", lambda p: p.write_bytes(tiff_of(lzma.compress(bytes(1 << 30)), 34925))
    yield "tiff_huge_zstd", lambda p: p.write_bytes(tiff_of(imagecodecs.zstd_encode(bytes(1 << 30)), 50000))
    yield "tiff_huge_deflate", lambda p: p.write_bytes(tiff_of(zlib.compress(bytes(1 << 30)), 8))
    yield "tiff_huge_lzw", lambda p: p.write_bytes(tiff_of(imagecodecs.lzw_encode(bytes(1 << 30)), 5))
    yield (
        "jp2_two_sizes",
        lambda p: p.write_bytes(jp2.replace(struct.pack(">II", WIDTH, HEIGHT), struct.pack(">II", 60_000, 60_000))),
    )
    yield "jpeg_scans_490_of_16MP", lambda p: p.write_bytes(scans(4096, 480))
    yield "tiff_flat_8000", lambda p: p.write_bytes(tiff_flat(8000))
    yield (
        "bmp_offset",
        lambda p: p.write_bytes(
            bmp(RGB.reshape(HEIGHT, -1), 24, 40)[:10] + b"\xff\xff\xff\x7f" + bmp(RGB.reshape(HEIGHT, -1), 24, 40)[14:]
        ),
    )
    # Runs of three literal pixels, two bytes each: a million and a half commands.
    runs = (b"\0\3\1\2\3\0" * 682 + b"\2\7\0\0") * 2048 + b"\0\1"
    head = struct.pack("<IiiHHIIiiII", 40, 2048, 2048, 1, 8, 1, len(runs), 0, 0, 0, 0) + bytes(1024)
    data = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(runs), 0, 0, 14 + len(head)) + head + runs
    yield "bmp_runs_4MP", lambda p: p.write_bytes(data)
    yield (
        "bmp_colors",
        lambda p: sparse(p, bmp(RGB.reshape(HEIGHT, -1), 24, 40)[:46] + b"\xff\xff\xff\x7f" + bytes(4), 3 << 30),
    )
    yield (
        "ico_entries",
        lambda p: p.write_bytes(b"\0\0\1\0\xff\xff" + struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, 100, 22) * 65_535),
    )
    yield "ico_tail_6GB", lambda p: sparse(p, saved(image, "ICO"), 6 << 30)
    yield "pnm_comment_30MB", lambda p: p.write_bytes(b"P6\n#" + b"x" * 30 * MB + b"\n40 24\n255\n" + RGB.tobytes())
    yield "pnm_spaces_30MB", lambda p: p.write_bytes(b"P6\n" + b" " * 30 * MB + b"40 24\n255\n" + RGB.tobytes())
    yield "pnm_digits_30MB", lambda p: p.write_bytes(b"P6\n" + b"0" * 30 * MB + b"40 24\n255\n" + RGB.tobytes())
    yield (
        "pnm_text_30MB",
        lambda p: p.write_bytes(b"P3\n40 24\n255\n" + b"#" + b"x" * 30 * MB + b"\n" + b"1 " * RGB.size),
    )
    avif = saved(image, "AVIF")
    yield "avif_tail_6GB", lambda p: sparse(p, avif, 6 << 30)
    yield (
        "avif_free_box_1GB",
        lambda p: sparse(
            p,
            avif[: struct.unpack(">I", avif[:4])[0]] + struct.pack(">I4s", 1 << 30, b"free"),
            (1 << 30) + len(avif),
            avif[struct.unpack(">I", avif[:4])[0] :],
        ),
    )
    yield "jp2_tail_6GB", lambda p: sparse(p, jp2, 6 << 30)
    yield "jp2_header_3GiB", lambda p: sparse(p, jp2[:32] + struct.pack(">I4s", 3 << 30, b"jp2h"), 3 << 30)
    yield "jp2_boxes", lambda p: p.write_bytes(jp2[:32] + mp4_box(b"free", b"") * 3_000_000 + jp2[32:])
    yield "zeros_6GB", lambda p: sparse(p, b"", 6 << 30)
    yield "pipe", lambda p: os.mkfifo(p)
