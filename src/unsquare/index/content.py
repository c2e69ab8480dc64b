"""Detects a file's format from its first bytes, since names may be wrong (a PNG or a web page called .jpg)."""

from __future__ import annotations

HEAD_BYTES = 256
"""Bytes at a file's beginning that `sniff` and `why_not_an_image` use."""

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo", ".png", ".apng", ".gif", ".webp", ".tif", ".tiff"),
    *(".bmp", ".dib", ".ico", ".jp2", ".j2k", ".j2c", ".jpc", ".jpx", ".jpf", ".avif", ".avifs"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif", ".hif", ".jxl", ".tga", ".psd", ".svg"),
    *(".pam", ".pfm", ".qoi", ".pcx", ".sgi", ".exr", ".dds", ".jxr", ".wdp", ".cur", ".icns"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".rw2", ".orf", ".raf", ".pef", ".srw"),
)
"""File names of images: such a file is indexed or listed as a problem, never skipped silently."""

_JP2_BOX = b"\x00\x00\x00\x0cjP  "
_SIGNATURES = {
    "JPEG": (b"\xff\xd8\xff",),
    "PNG": (b"\x89PNG\r\n\x1a\n",),
    "GIF": (b"GIF87a", b"GIF89a"),
    "TIFF": (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+"),
    "BMP": (b"BM",),
    "ICO": (b"\x00\x00\x01\x00",),
    "JPEG2000": (_JP2_BOX, b"\xff\x4f\xff\x51"),
}
_NOT_READ = {
    b"8BPS": "is a Photoshop file, a format that is not supported; convert it to PNG or TIFF",
    b"\xff\x0a": "is JPEG XL, a format that is not supported; convert it to PNG or JPEG",
    b"\x00\x00\x00\x0cJXL ": "is JPEG XL, a format that is not supported; convert it to PNG or JPEG",
    **{
        beginning: f"is {name}, a format that is not supported; convert it to PNG or TIFF"
        for beginning, name in (
            *((b"P7\n", "PAM"), (b"PF\n", "PFM"), (b"Pf\n", "PFM"), (b"qoif", "QOI"), (b"DDS ", "DDS")),
            *((b"v/1\x01", "OpenEXR"), (b"#?RADIANCE", "Radiance HDR"), (b"II\xbc\x01", "JPEG XR")),
            *((b"\x01\xda", "SGI"), (b"\n\x05\x01", "PCX"), (b"\x00\x00\x02\x00", "a cursor"), (b"icns", "ICNS")),
        )
    },
    b"%PDF": "is a PDF, not an image",
    b"%!PS": "is PostScript, not an image",
    b"PK\x03\x04": "is a ZIP archive, not an image",
    b"\x1f\x8b": "is a gzip archive, not an image",
    b"\x00\x05\x16\x07": "is a macOS side file (AppleDouble), not an image",
    b"version https://git-lfs": "is a Git LFS pointer, not the image; run `git lfs pull`",
}


def sniff(head: bytes) -> str:
    """The format's name for a file with this beginning, or "" where it is not a supported image."""
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[4:8] == b"ftyp":
        return "AVIF" if {b"avif", b"avis"} & _brands(head) else ""
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3].isspace():
        return "PPM"
    for name, beginnings in _SIGNATURES.items():
        if head.startswith(beginnings):
            return name
    return ""


def why_not_an_image(head: bytes) -> str:
    """The reason, as a phrase that follows the file's name, why a file with this beginning is not read."""
    if not head:
        return "is empty"
    if head[4:8] == b"ftyp":
        if {b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1"} & _brands(head):
            return "is HEIF, a format that is not supported; convert it to JPEG, PNG or AVIF"
        return "is a video or another media file, not an image that can be read"
    for beginning, reason in _NOT_READ.items():
        if head.startswith(beginning):
            return reason
    if not head.strip(b"\x00"):
        return "holds only zero bytes where an image should begin"
    return _why_not_text(head) or "is not an image of a known format"


def _brands(head: bytes) -> set[bytes]:
    """The brands in the first box of an ISO media file."""
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12]} | {head[at : at + 4] for at in range(16, end, 4)}


def _why_not_text(head: bytes) -> str:
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if b"<svg" in text:
        return "is SVG, a format that is not supported; convert it to PNG"
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "is an HTML page, not an image"
    if text.startswith(b"<?xml"):
        return "is XML, not an image"
    try:
        # A multi-byte character may be cut at the end of the head.
        printable = head.decode("utf-8", "ignore" if len(head) == HEAD_BYTES else "strict")
    except UnicodeDecodeError:
        return ""
    return "is text, not an image" if all(c.isprintable() or c.isspace() for c in printable) else ""
