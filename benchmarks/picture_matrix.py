"""Small pictures of every kind that formats allow, written bit by bit, each with the pixels that it shows.

Writers and expected values use struct, zlib and NumPy, so that they share no code with the decoders.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from picture_cases import ALPHA, HEIGHT, RGB, WIDTH, Case, X, gray, levels, over_white, packed, wide
from picture_tiff import tiff, tiff_cases

# ---- PNG


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))


def png(samples: np.ndarray, bits: int, color: int, *, interlaced: bool = False, chunks: bytes = b"") -> bytes:
    """A PNG of samples (H, W, C)."""
    height, width = samples.shape[:2]
    parts = [samples[y::dy, x::dx] for y, x, dy, dx in PASSES] if interlaced else [samples]
    raw = b""
    for part in parts:
        if part.size:
            rows = packed(part.reshape(len(part), -1), bits, ">")
            step = len(rows) // len(part)
            raw += b"".join(b"\0" + rows[i : i + step] for i in range(0, len(rows), step))
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    body = png_chunk(b"IHDR", head) + chunks + png_chunk(b"IDAT", zlib.compress(raw)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def png_cases() -> Iterator[Case]:
    for interlaced in (False, True):
        tail = "_interlaced.png" if interlaced else ".png"
        for bits in (1, 2, 4, 8, 16):
            shown = levels(bits)
            samples = wide(shown, "u", bits)[..., None]
            yield Case("PNG gray", f"gray{bits}{tail}", png(samples, bits, 0, interlaced=interlaced), gray(shown))
            key = int(samples[0, WIDTH // 2, 0])
            keyed = np.where(samples[..., 0] == key, 255, shown).astype(np.uint8)
            chunk = png_chunk(b"tRNS", struct.pack(">H", key))
            data = png(samples, bits, 0, interlaced=interlaced, chunks=chunk)
            yield Case("PNG key", f"gray{bits}_key{tail}", data, gray(keyed))
            if bits == 16:  # a neighbor that differs in its low byte alone is not the key
                near = samples.copy()
                near[:, WIDTH // 2 + 1, 0] = key ^ 1
                expected = np.where(near[..., 0] == key, 255, near[..., 0] >> 8).astype(np.uint8)
                yield Case(
                    "PNG key",
                    f"gray16_near{tail}",
                    png(near, 16, 0, interlaced=interlaced, chunks=chunk),
                    gray(expected),
                )
            if bits < 16:
                table = np.random.default_rng(bits).integers(0, 256, (1 << bits, 3), dtype=np.uint8)
                alpha = np.random.default_rng(9).integers(0, 256, 1 << bits, dtype=np.uint8)
                index = (np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) % (1 << bits)).astype(np.uint8)
                palette = png_chunk(b"PLTE", table.tobytes())
                data = png(index[..., None], bits, 3, interlaced=interlaced, chunks=palette)
                yield Case("PNG palette", f"palette{bits}{tail}", data, table[index])
                for num in {1, 1 << bits}:
                    full = np.full(1 << bits, 255, np.uint8)
                    full[:num] = alpha[:num]
                    chunks = palette + png_chunk(b"tRNS", alpha[:num].tobytes())
                    data = png(index[..., None], bits, 3, interlaced=interlaced, chunks=chunks)
                    shown = over_white(table[index], full[index])
                    yield Case("PNG palette", f"palette{bits}_alpha{num}{tail}", data, shown)
        for bits in (8, 16):
            colors, alpha = wide(RGB, "u", bits), wide(ALPHA, "u", bits)
            yield Case("PNG RGB", f"rgb{bits}{tail}", png(colors, bits, 2, interlaced=interlaced), RGB)
            key = colors[5, 7].astype(int)
            keyed = RGB.copy()
            keyed[(colors == key).all(-1)] = 255
            chunk = png_chunk(b"tRNS", struct.pack(">3H", *key))
            yield Case(
                "PNG key", f"rgb{bits}_key{tail}", png(colors, bits, 2, interlaced=interlaced, chunks=chunk), keyed
            )
            if bits == 16:
                near = colors.copy()
                near[5, 8] = key ^ np.array([0, 0, 1])
                expected = (near >> 8).astype(np.uint8)
                expected[(near == key).all(-1)] = 255
                yield Case(
                    "PNG key", f"rgb16_near{tail}", png(near, 16, 2, interlaced=interlaced, chunks=chunk), expected
                )
            shown = over_white(RGB, ALPHA)
            yield Case(
                "PNG alpha", f"rgba{bits}{tail}", png(np.dstack([colors, alpha]), bits, 6, interlaced=interlaced), shown
            )
            pair = np.dstack([colors[..., 0], alpha])
            shown = gray(over_white(gray(X), ALPHA)[..., 0])
            yield Case("PNG alpha", f"la{bits}{tail}", png(pair, bits, 4, interlaced=interlaced), shown)


# ---- color profiles


def profile(space: bytes, gamma: float, name: str, swap: bool = False) -> bytes:
    """An ICC profile of version 2: sRGB's primaries, or gray, with a power curve."""

    def xyz(*v: float) -> bytes:
        return b"XYZ \0\0\0\0" + b"".join(struct.pack(">i", round(one * 65536)) for one in v)

    curve = b"curv" + struct.pack(">IIH", 0, 1, round(gamma * 256)) + b"\0\0"
    text = name.encode() + b"\0"
    tags = {
        b"desc": b"desc" + struct.pack(">II", 0, len(text)) + text + bytes(78),
        b"cprt": b"text\0\0\0\0none\0",
        b"wtpt": xyz(0.9642, 1.0, 0.8249),
    }
    if space == b"GRAY":
        tags[b"kTRC"] = curve
    else:
        columns = [(0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141)]
        for letter, column in zip("gbr" if swap else "rgb", columns):
            tags[f"{letter}XYZ".encode()] = xyz(*column)
            tags[f"{letter}TRC".encode()] = curve
    table, body = b"", b""
    for tag, value in tags.items():
        value += b"\0" * (-len(value) % 4)
        table += tag + struct.pack(">II", 132 + 12 * len(tags) + len(body), len(value))
        body += value
    size = 132 + len(table) + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"none", 0x02400000, b"mntr", space, b"XYZ ") + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def to_srgb(values: np.ndarray, gamma: float) -> np.ndarray:
    linear = (values / 255) ** gamma
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.rint(255 * encoded).astype(np.uint8)


def profile_cases() -> Iterator[Case]:
    profiles = [
        (f"{space.decode().strip()}{gamma}_{name.split()[0]}", space, gamma, name)
        for space, gamma, name in itertools.product((b"RGB ", b"GRAY"), (1.0, 1.8, 2.2), ("sRGB IEC61966-2.1", "other"))
    ]
    for name, space, gamma, text in profiles:
        icc = profile(space, gamma, text)
        chunk = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(icc))
        tag = {34675: ("B", tuple(icc))}
        for bits in (8, 16):
            shown = to_srgb(RGB, gamma) if space == b"RGB " else RGB
            yield Case("ICC", f"png_rgb{bits}_{name}.png", png(wide(RGB, "u", bits), bits, 2, chunks=chunk), shown, 3)
            yield Case("ICC", f"tif_rgb{bits}_{name}.tif", tiff(wide(RGB, "u", bits), bits, 2, tags=tag), shown, 3)
            flat = gray(to_srgb(X, gamma) if space == b"GRAY" else X)
            one = wide(X, "u", bits)[..., None]
            yield Case("ICC", f"png_gray{bits}_{name}.png", png(one, bits, 0, chunks=chunk), flat, 3)
            yield Case("ICC", f"tif_gray{bits}_{name}.tif", tiff(one, bits, 1, tags=tag), flat, 3)
        # Dark levels of a linear profile lie between those of 8 bits.
        if gamma == 1.0:
            for mode, photo, color, values in (("RGB ", 2, 2, RGB), ("GRAY", 1, 0, X[..., None])):
                if space.decode() == mode:
                    v = values / 255
                    linear = np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)
                    deep = np.rint(linear * 65535).astype(np.uint16)
                    shown = values if values.shape[2] == 3 else gray(values[..., 0])
                    yield Case("ICC", f"png_deep_{name}.png", png(deep, 16, color, chunks=chunk), shown)
                    yield Case("ICC", f"tif_deep_{name}.tif", tiff(deep, 16, photo, tags=tag), shown)
                    yield Case(
                        "ICC", f"tif_float_{name}.tif", tiff(linear.astype(np.float32), 32, photo, tags=tag), shown
                    )
        table = RGB[12]
        index = np.arange(WIDTH, dtype=np.uint8)[None].repeat(HEIGHT, 0)
        chunks = chunk + png_chunk(b"PLTE", table.tobytes())
        shown = to_srgb(table, gamma) if space == b"RGB " else table
        yield Case("ICC", f"png_palette_{name}.png", png(index[..., None], 8, 3, chunks=chunks), shown[index], 3)
        opaque = np.dstack([RGB, np.full_like(X, 255)])
        shown = to_srgb(RGB, gamma) if space == b"RGB " else RGB
        yield Case("ICC", f"png_rgba_{name}.png", png(opaque, 8, 6, chunks=chunk), shown, 3)


# ---- PNM


def pnm_cases() -> Iterator[Case]:
    for top, share in itertools.product((1, 15, 100, 255, 256, 1023, 4095, 65535), (1.0, 0.05)):
        for magic, shown in (("P2", X), ("P5", X), ("P3", RGB), ("P6", RGB)):
            values = np.rint(shown / 255 * top * share).astype(int)
            head = f"{magic}\n# made\n{WIDTH} {HEIGHT}\n{top}\n".encode()
            if magic in ("P2", "P3"):
                body = b"\n".join(b" ".join(b"%d" % v for v in row) for row in values.reshape(HEIGHT, -1))
            else:
                body = values.astype(">u2" if top > 255 else "u1").tobytes()
            expected = np.rint(values * 255 / top).astype(np.uint8)
            expected = expected if expected.ndim == 3 else gray(expected)
            yield Case("PNM", f"{magic}_{top}_{share}.pnm", head + body, expected)
    bits = (X > 127).astype(np.uint8)
    shown = gray((1 - bits) * 255)
    head = f" {WIDTH} {HEIGHT}\n".encode()
    yield Case("PNM", "P4.pbm", b"P4" + head + np.packbits(bits, axis=1).tobytes(), shown)
    yield Case("PNM", "P1.pbm", b"P1" + head + b"\n".join(b" ".join(b"%d" % v for v in row) for row in bits), shown)


# ---- BMP


def bmp(
    rows: np.ndarray,
    bits: int,
    header: int,
    *,
    compression: int = 0,
    masks: tuple[int, ...] = (),
    table: bytes = b"",
    down: bool = True,
) -> bytes:
    """A BMP of rows of bytes (H, n), top row first; where it is compressed by runs, of pixels (H, W)."""
    rows = rows if down else rows[::-1]
    if compression in (1, 2):
        pixels = bmp_runs(rows, bits)
    else:
        pixels = np.pad(rows, [(0, 0), (0, -rows.shape[1] % 4)]).tobytes()
    if header == 12:
        info = struct.pack("<IHHHH", 12, WIDTH, HEIGHT, 1, bits)
    else:
        sign = -1 if down else 1
        num = len(table) // 4
        info = struct.pack(
            "<IiiHHIIiiII", header, WIDTH, sign * HEIGHT, 1, bits, compression, len(pixels), 0, 0, num, 0
        )
        room = header - 40
        mask = struct.pack(f"<{len(masks)}I", *masks)
        info += mask[:room].ljust(room, b"\0") if room else mask
        if header >= 108:
            info = info[:56] + b"BGRs" + info[60:]
    start = 14 + len(info) + len(table)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + info + table + pixels


def bmp_runs(rows: np.ndarray, bits: int) -> bytes:
    """Pixels as the runs of RLE8 or RLE4: rows alternate between runs of one color (or two) and literal pixels."""
    out = b""
    for y, row in enumerate(rows.tolist()):
        for part in (row[:17], row[17:]):
            if y % 3 == 0:
                data = bytes(part) if bits == 8 else packed(np.array([part], np.uint8), 4, "<")
                out += bytes([0, len(part)]) + data + b"\0" * (len(data) % 2)
            elif bits == 8:
                out += b"".join(bytes([1, color]) for color in part)
            else:
                pairs = [(part[i : i + 2] + [0])[:2] for i in range(0, len(part), 2)]
                counts = [min(2, len(part) - i) for i in range(0, len(part), 2)]
                out += b"".join(bytes([count, one << 4 | other]) for count, (one, other) in zip(counts, pairs))
        out += b"\0\0"
    return out[:-2] + b"\0\1"


def bmp_cases() -> Iterator[Case]:
    bgr = RGB[..., ::-1]
    full = (0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    for header, down in itertools.product((12, 40, 52, 56, 108, 124), (False, True)):
        if header == 12 and down:
            continue
        tail = f"{header}_{'down' if down else 'up'}.bmp"
        yield Case("BMP", f"rgb24_{tail}", bmp(bgr.reshape(HEIGHT, -1), 24, header, down=down), RGB)
        for bits in (1, 4, 8):
            index = (np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) % (1 << bits)).astype(np.uint8)
            colors = np.random.default_rng(bits).integers(0, 256, (1 << bits, 3), dtype=np.uint8)
            table = (colors[:, ::-1] if header == 12 else np.pad(colors[:, ::-1], [(0, 0), (0, 1)])).tobytes()
            rows = np.frombuffer(packed(index, bits, "<"), np.uint8).reshape(HEIGHT, -1)
            yield Case("BMP", f"palette{bits}_{tail}", bmp(rows, bits, header, table=table, down=down), colors[index])
            if header >= 40 and bits > 1:
                data = bmp(index, bits, header, compression=1 if bits == 8 else 2, table=table, down=down)
                yield Case("BMP", f"runs{bits}_{tail}", data, colors[index])
        if header == 12:
            continue
        wide5 = RGB.astype(int) >> 3
        words = wide5[..., 0] << 10 | wide5[..., 1] << 5 | wide5[..., 2]
        rows = words.astype("<u2").view(np.uint8).reshape(HEIGHT, -1)
        shown5 = np.rint(wide5 * 255 / 31).astype(np.uint8)
        yield Case("BMP", f"rgb555_{tail}", bmp(rows, 16, header, down=down), shown5, 8)
        words = wide5[..., 0] << 11 | RGB[..., 1].astype(int) >> 2 << 5 | wide5[..., 2]
        rows = words.astype("<u2").view(np.uint8).reshape(HEIGHT, -1)
        data = bmp(rows, 16, header, compression=3, masks=(0xF800, 0x7E0, 0x1F), down=down)
        yield Case("BMP", f"rgb565_{tail}", data, RGB, 8)
        for name, alpha in (("zero", 0), ("full", 255), ("some", None)):
            opacity = ALPHA if alpha is None else np.full_like(X, alpha)
            rows = np.dstack([bgr, opacity]).reshape(HEIGHT, -1)
            if header >= 56:
                shown = over_white(RGB, ALPHA) if alpha is None else RGB
                data = bmp(rows, 32, header, compression=3, masks=full, down=down)
                yield Case("BMP", f"rgba_{name}_{tail}", data, shown)
            if header == 40:  # the fourth byte means nothing there
                yield Case("BMP", f"rgbx_{name}_{tail}", bmp(rows, 32, header, down=down), RGB)


# ---- JPEG: blocks of one color each


def huffman(counts: list[int], symbols: list[int]) -> dict[int, tuple[int, int]]:
    code, table, at = 0, {}, 0
    for length, count in enumerate(counts, 1):
        for _ in range(count):
            table[symbols[at]] = (code, length)
            code, at = code + 1, at + 1
        code <<= 1
    return table


DC_COUNTS, DC_SYMBOLS = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0], list(range(12))


def jpeg(
    colors: list[int], factors: list[tuple[int, int]], *, jfif: tuple[int, int] | None = (1, 1), extra: bytes = b""
) -> bytes:
    """A JPEG whose channels are flat at these levels, with sampling factors (across, down) for each."""
    dc = huffman(DC_COUNTS, DC_SYMBOLS)
    out = b"\xff\xd8"
    if jfif:
        out += b"\xff\xe0\x00\x10JFIF\x00" + bytes(jfif) + b"\x00\x00\x01\x00\x01\x00\x00"
    out += extra + b"\xff\xdb\x00\x43\x00" + b"\x01" * 64
    channels = b"".join(bytes([i + 1, h << 4 | v, 0]) for i, (h, v) in enumerate(factors))
    out += b"\xff\xc0" + struct.pack(">HBHHB", 8 + len(channels), 8, HEIGHT, WIDTH, len(factors)) + channels
    out += b"\xff\xc4\x00\x1f\x00" + bytes(DC_COUNTS) + bytes(DC_SYMBOLS)
    out += b"\xff\xc4\x00\x14\x10" + bytes([1]) + bytes(15) + b"\x00"  # one code: end of block
    out += b"\xff\xda" + struct.pack(">HB", 6 + 2 * len(factors), len(factors))
    out += b"".join(bytes([i + 1, 0]) for i in range(len(factors))) + b"\x00\x3f\x00"
    across, down = (max(axis) for axis in zip(*factors))
    if len(factors) == 1:
        across = down = 1
        factors = [(1, 1)]
    units = -(-WIDTH // (8 * across)) * -(-HEIGHT // (8 * down))
    bits, last = "", [0] * len(factors)
    for _ in range(units):
        for i, (h, v) in enumerate(factors):
            for _ in range(h * v):
                difference = (colors[i] - 128) * 8 - last[i]
                last[i] += difference
                size = abs(difference).bit_length()
                code, length = dc[size]
                bits += f"{code:0{length}b}"
                if size:
                    bits += f"{difference if difference > 0 else difference + (1 << size) - 1:0{size}b}"
                bits += "0"
    bits += "1" * (-len(bits) % 8)
    raw = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")
    return out + raw + b"\xff\xd9"


def jpeg_cases() -> Iterator[Case]:
    y, cb, cr = 110, 90, 170
    color = [y + 1.402 * (cr - 128), y - 0.344136 * (cb - 128) - 0.714136 * (cr - 128), y + 1.772 * (cb - 128)]
    shown = np.broadcast_to(np.rint(color).astype(np.uint8), (HEIGHT, WIDTH, 3))
    for luma, blue, red in itertools.product(
        itertools.product((1, 2, 3, 4), (1, 2, 3, 4)), ((1, 1), (2, 1), (1, 2), (2, 2)), ((1, 1), (2, 1), (1, 2))
    ):
        factors = [luma, blue, red]
        if sum(h * v for h, v in factors) > 10 or any(max(a) % one for a in zip(*factors) for one in a):
            continue  # no decoder reads these; they are refused when scanned
        name = "_".join(f"{h}{v}" for h, v in factors)
        yield Case("JPEG sampling", f"s{name}.jpg", jpeg([y, cb, cr], factors), shown, 4)
    for luma in ((1, 1), (2, 2), (3, 1), (4, 4)):
        yield Case("JPEG sampling", f"gray_{luma[0]}{luma[1]}.jpg", jpeg([y], [luma]), gray(np.full_like(X, y)), 4)
    for revision in ((0, 0), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (255, 255)):
        data = jpeg([y, cb, cr], [(2, 2), (1, 1), (1, 1)], jfif=revision)
        yield Case("JPEG revision", f"jfif_{revision[0]}_{revision[1]}.jpg", data, shown, 4)
    yield Case("JPEG revision", "no_jfif.jpg", jpeg([y, cb, cr], [(1, 1)] * 3, jfif=None), shown, 4)
    for transform, known in ((0, [y, cb, cr]), (1, color), (7, color)):
        adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
        data = jpeg([y, cb, cr], [(1, 1)] * 3, jfif=None, extra=adobe)
        shown_as = np.broadcast_to(np.rint(known).astype(np.uint8), (HEIGHT, WIDTH, 3))
        yield Case("JPEG revision", f"adobe_{transform}.jpg", data, shown_as, 4)
    linear = profile(b"RGB ", 1.0, "sRGB")
    icc = b"\xff\xe2" + struct.pack(">H", len(linear) + 16) + b"ICC_PROFILE\0\1\1" + linear
    data = jpeg([y, 128, 128], [(1, 1)] * 3, extra=icc)
    yield Case("ICC", "jpg_rgb_linear.jpg", data, to_srgb(gray(np.full_like(X, y)), 1.0), 4)
    yield Case("ICC", "jpg_gray_linear.jpg", jpeg([y], [(1, 1)], extra=icc), gray(np.full_like(X, y)), 4)


def all_cases() -> Iterator[Case]:
    yield from tiff_cases()
    yield from png_cases()
    yield from profile_cases()
    yield from pnm_cases()
    yield from bmp_cases()
    yield from jpeg_cases()
