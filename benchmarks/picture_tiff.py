"""TIFFs of every kind, written bit by bit, each with the pixels that it shows.

LZW, which nothing in the standard library writes, comes from imagecodecs, and JPEG from Pillow.
"""

from __future__ import annotations

import io
import itertools
import struct
import zlib
from collections.abc import Iterator

import imagecodecs
import numpy as np
from picture_cases import ALPHA, HEIGHT, RGB, WIDTH, Case, X, gray, levels, over_white, packed, wide
from PIL import Image


def predicted(samples: np.ndarray, predictor: int, order: str) -> np.ndarray:
    """(h, w, c) with each sample as its difference to the one at its left."""
    if predictor == 2:
        out = samples.copy()
        out[:, 1:] -= samples[:, :-1]
        return out
    # Floats: bytes by significance, then differences along the row.
    height, width, num = samples.shape
    raw = samples.astype(samples.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    planes = raw.reshape(height, width * num, -1).swapaxes(1, 2).reshape(height, -1)
    out = planes.copy()
    out[:, num:] -= planes[:, :-num]
    return out


def jpeg_piece(piece: np.ndarray, photometric: int, sampling: int) -> bytes:
    """A strip or tile (h, w, C) as a JPEG; YCbCr is made from RGB, everything else is unchanged."""
    out = io.BytesIO()
    if photometric == 6:
        Image.fromarray(piece).save(out, "JPEG", quality=98, subsampling=sampling)
        return out.getvalue()
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[piece.shape[2]]
    options = {"keep_rgb": True} if mode == "RGB" else {}
    image = Image.frombytes(mode, (piece.shape[1], piece.shape[0]), np.ascontiguousarray(piece).tobytes())
    image.save(out, "JPEG", quality=98, **options)
    return out.getvalue()


def compressed(data: bytes, name: str) -> bytes:
    if name == "deflate":
        return zlib.compress(data)
    if name == "lzw":
        return imagecodecs.lzw_encode(data)
    if name == "packbits":  # literal runs alone are valid
        return b"".join(bytes([len(data[i : i + 128]) - 1]) + data[i : i + 128] for i in range(0, len(data), 128))
    return data


COMPRESSION = {"jpeg": 7, "none": 1, "lzw": 5, "deflate": 8, "packbits": 32773}


def tiff(
    samples: np.ndarray,
    bits: int,
    photometric: int,
    *,
    order: str = "<",
    layout: str = "strips",
    compression: str = "none",
    predictor: int = 1,
    planar: bool = False,
    extra: tuple[int, ...] = (),
    tags: dict[int, tuple[str, tuple[int, ...]]] | None = None,
    big: bool = False,
    sampling: int = 0,
) -> bytes:
    """A TIFF of samples (H, W, C)."""
    height, width, num = samples.shape
    planes = [samples[..., i : i + 1] for i in range(num)] if planar else [samples]
    rows, columns = {"strips": (16 if compression == "jpeg" else 7, width), "one": (height, width), "tiles": (16, 16)}[
        layout
    ]
    pieces = []
    for plane, top, left in itertools.product(planes, range(0, height, rows), range(0, width, columns)):
        piece = plane[top : top + rows, left : left + columns]
        if layout == "tiles":
            pad = [(0, rows - piece.shape[0]), (0, columns - piece.shape[1]), (0, 0)]
            piece = np.pad(piece, pad, mode="edge")
        if compression == "jpeg":
            raw = jpeg_piece(piece, photometric, sampling)
        elif predictor == 3:
            raw = predicted(piece, 3, order).tobytes()
        else:
            raw = packed((predicted(piece, 2, order) if predictor == 2 else piece).reshape(len(piece), -1), bits, order)
        pieces.append(compressed(raw, compression))
    kind = {"u": 1, "i": 2, "f": 3}[samples.dtype.kind]
    fields: dict[int, tuple[str, tuple[int, ...]]] = {
        256: ("I", (width,)),
        257: ("I", (height,)),
        258: ("H", (bits,) * num),
        259: ("H", (COMPRESSION[compression],)),
        262: ("H", (photometric,)),
        277: ("H", (num,)),
        284: ("H", (2 if planar else 1,)),
        339: ("H", (kind,) * num),
        **({317: ("H", (predictor,))} if predictor > 1 else {}),
        **({338: ("H", extra)} if extra else {}),
        **(tags or {}),
    }
    body = bytearray(16)
    starts = []
    for piece in pieces:
        starts.append(len(body))
        body += piece + b"\0" * (len(piece) % 2)
    where = (324, 325) if layout == "tiles" else (273, 279)
    fields[where[0]] = ("I", tuple(starts))
    fields[where[1]] = ("I", tuple(map(len, pieces)))
    if layout == "tiles":
        fields |= {322: ("I", (16,)), 323: ("I", (16,))}
    else:
        fields[278] = ("I", (rows,))
    return tiff_file(body, fields, order, big)


def tiff_file(body: bytearray, fields: dict, order: str, big: bool) -> bytes:
    inline, number = (8, "Q") if big else (4, "I")
    entries = b""
    for tag, (form, values) in sorted(fields.items()):
        raw = struct.pack(f"{order}{len(values)}{form}", *values)
        kind = {"B": 1, "H": 3, "I": 4}[form]
        if len(raw) > inline:
            value = struct.pack(order + number, len(body))
            body += raw + b"\0" * (len(raw) % 2)
        else:
            value = raw.ljust(inline, b"\0")
        entries += struct.pack(f"{order}HH{number}", tag, kind, len(values)) + value
    at = len(body)
    mark = b"II" if order == "<" else b"MM"
    if big:
        body[:16] = mark + struct.pack(order + "HHHQ", 43, 8, 0, at)
        return bytes(body + struct.pack(order + "Q", len(fields)) + entries + bytes(8))
    body[:8] = mark + struct.pack(order + "HI", 42, at)
    return bytes(body + struct.pack(order + "H", len(fields)) + entries + bytes(4))


FORMS = tuple(itertools.product("<>", ("strips", "one", "tiles"), ("none", "lzw", "deflate", "packbits")))


def tiff_cases() -> Iterator[Case]:
    for order, layout, compression in FORMS:
        form = {"order": order, "layout": layout, "compression": compression}
        tail = f"{'le' if order == '<' else 'be'}_{layout}_{compression}"
        depths = [("u", b) for b in (1, 2, 4, 8, 12, 16, 32)]
        depths += [("i", 8), ("i", 16), ("i", 32), ("f", 16), ("f", 32), ("f", 64)]
        for (kind, bits), photometric in itertools.product(depths, (0, 1)):
            shown = levels(bits) if kind == "u" else X
            samples = wide(shown if photometric else 255 - shown, kind, bits)
            name = f"gray_{kind}{bits}_{'black' if photometric else 'white'}"
            for predictor in predictors(kind, bits, compression):
                data = tiff(samples[..., None], bits, photometric, predictor=predictor, **form)
                yield Case(f"TIFF gray {kind}{bits}", f"{name}_p{predictor}_{tail}.tif", data, gray(shown))
        for (kind, bits), planar in itertools.product((("u", 8), ("u", 16), ("f", 32), ("u", 32)), (False, True)):
            flat = f"{kind}{bits}{'_planes' if planar else ''}_{tail}.tif"
            for predictor in predictors(kind, bits, compression):
                options = {**form, "planar": planar, "predictor": predictor}
                p = f"p{predictor}_{flat}"
                samples = wide(RGB, kind, bits)
                yield Case(f"TIFF RGB {kind}{bits}", f"rgb_{p}", tiff(samples, bits, 2, **options), RGB)
                shown = over_white(RGB, ALPHA)
                for extra, name in ((2, "unassociated"), (1, "associated"), (0, "unspecified")):
                    colors = np.rint(RGB * (ALPHA[..., None] / 255)).astype(np.uint8) if extra == 1 else RGB
                    data = tiff(wide(np.dstack([colors, ALPHA]), kind, bits), bits, 2, extra=(extra,), **options)
                    yield Case("TIFF RGB alpha", f"rgba_{name}_{p}", data, shown if extra else RGB)
                    first = colors[..., :1]
                    data = tiff(wide(np.dstack([first, ALPHA]), kind, bits), bits, 1, extra=(extra,), **options)
                    yield Case(
                        "TIFF gray alpha",
                        f"la_{name}_{p}",
                        data,
                        gray(over_white(gray(X), ALPHA)[..., 0] if extra else X),
                    )
                bands = wide(np.dstack([RGB, X]), kind, bits)
                yield Case("TIFF bands", f"bands_{p}", tiff(bands, bits, 1, extra=(0, 0, 0), **options), gray(X))
                if kind == "u" and bits < 32:
                    cmyk = np.dstack([255 - RGB, np.zeros_like(X)])
                    data = tiff(wide(cmyk, kind, bits), bits, 5, tags={332: ("H", (1,))}, **options)
                    yield Case("TIFF CMYK", f"cmyk_{p}", data, RGB)
        for bits, sixteen in itertools.product((1, 2, 4, 8), (False, True)):
            index = (np.arange(WIDTH * HEIGHT).reshape(HEIGHT, WIDTH) % (1 << bits)).astype(np.uint8)
            table = np.random.default_rng(bits).integers(0, 256, (3, 1 << bits), dtype=np.int64)
            table[:, -1] = 255  # else a table of small 16-bit entries could be meant
            entries = tuple(int(v) * (257 if sixteen else 1) for v in table.ravel())
            data = tiff(index[..., None], bits, 3, tags={320: ("H", entries)}, **form)
            name = f"palette{bits}_{'16' if sixteen else '8'}_{tail}.tif"
            yield Case("TIFF palette", name, data, table.T.astype(np.uint8)[index])
        ycc = np.stack([X, np.full_like(X, 128), np.full_like(X, 128)], axis=-1)
        yield Case("TIFF YCbCr", f"ycc_{tail}.tif", tiff(ycc, 8, 6, tags={530: ("H", (1, 1))}, **form), gray(X))
    for order, layout in itertools.product("<>", ("strips", "one", "tiles")):
        form = {"order": order, "layout": layout, "compression": "jpeg"}
        tail = f"{'le' if order == '<' else 'be'}_{layout}_jpeg.tif"
        yield Case("TIFF JPEG", f"gray_{tail}", tiff(X[..., None], 8, 1, **form), gray(X), 12)
        yield Case("TIFF JPEG", f"white_{tail}", tiff(255 - X[..., None], 8, 0, **form), gray(X), 12)
        yield Case("TIFF JPEG", f"rgb_{tail}", tiff(RGB, 8, 2, **form), RGB, 12)
        for sampling in (0, 1, 2):
            factors = ((1, 1), (2, 1), (2, 2))[sampling]
            data = tiff(RGB, 8, 6, tags={530: ("H", factors)}, sampling=sampling, **form)
            yield Case("TIFF JPEG", f"ycc{sampling}_{tail}", data, RGB, 24)
    # CIELAB of a few known colors (D50): signed as TIFF has it, and from zero as ICC has it.
    lab = np.array([[255, 0, 0], [0, 0, 0], [137, 0, 0], [138, 81, 70], [75, 68, -112]])
    shown = np.array([[255, 255, 255], [0, 0, 0], [128, 128, 128], [255, 0, 0], [0, 0, 255]], np.uint8)
    index = np.arange(WIDTH)[None].repeat(HEIGHT, 0) // 8
    for planar, (photometric, shift) in itertools.product((False, True), ((8, 0), (9, 128))):
        stored = lab.copy()
        stored[:, 1:] = (stored[:, 1:] + shift) % 256
        data = tiff(stored.astype(np.uint8)[index], 8, photometric, planar=planar)
        yield Case("TIFF Lab", f"lab{photometric}_{planar}.tif", data, shown[index], 25)
        deep = stored.astype(np.uint16) << 8
        yield Case(
            "TIFF Lab",
            f"lab16_{photometric}_{planar}.tif",
            tiff(deep[index], 16, photometric, planar=planar),
            shown[index],
            25,
        )
    yield Case("TIFF big", "big.tif", tiff(RGB, 8, 2, big=True), RGB)
    yield Case("TIFF big", "big_be.tif", tiff(RGB, 8, 2, big=True, order=">"), RGB)


def predictors(kind: str, bits: int, compression: str) -> tuple[int, ...]:
    if compression not in ("lzw", "deflate"):
        return (1,)
    if kind == "f":
        return (1, 3)
    return (1, 2) if bits in (8, 16, 32) else (1,)
