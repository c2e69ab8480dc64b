"""A CSV file as columns of text, whatever program wrote it.

Line ends, byte order marks, UTF-16 and the delimiter are told by content. Cells stay text, so that a label 007
stays 007 and a class NA is no gap. What cannot be told for sure is refused with its line: another encoding, a
row of more or fewer cells than the header, a quote without its end. (Arrow's reader takes half the time, but knows
neither other encodings nor the line ends of old Macs, and names no line.)
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

from unsquare.errors import ImageError, SourceError
from unsquare.index.opening import open_regular
from unsquare.index.table import shown

MOST_BYTES = 1 << 30
"""Of a manifest, unpacked: some ten million rows."""
_MOST_HEADER = 1 << 20
_DELIMITERS = ",;\t|"
_MARKS = {  # the longer mark begins with the shorter
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_FILES = {
    b"PK\x03\x04": "is a ZIP archive or a workbook; save the table as CSV",
    b"PAR1": "is a Parquet file; give it a name that ends in .parquet",
    b"\xd0\xcf\x11\xe0": "is a workbook of an old Excel; save the table as CSV",
    b"BZh": "is compressed by bzip2; unpack it, or compress it by gzip",
    b"\xfd7zXZ": "is compressed by xz; unpack it, or compress it by gzip",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it, or compress it by gzip",
}


def read_csv(path: Path, is_ours: Callable[[list[str]], bool]) -> pa.Table:
    """The table of a CSV file, perhaps compressed by gzip; empty lines and rows are passed over.

    Args:
        path: the file.
        is_ours: whether these names of columns are what is looked for; it decides between delimiters.

    Raises:
        SourceError: the file is no such table; the message says in which line.
    """
    text = _text(path)
    lines = io.StringIO(text, newline="")
    if mark := re.match(r"sep=(.)(\r\n|\r|\n)", text):  # Excel's word for the delimiter
        lines.seek(mark.end())
        delimiter = mark[1]
    else:
        delimiter = _delimiter(text[:_MOST_HEADER], is_ours)
    return _table(lines, delimiter, path)


def _text(path: Path) -> str:
    try:
        with open_regular(path) as (file, _):
            data = file.read(MOST_BYTES + 1)
        if data.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
                data = unpacked.read(MOST_BYTES + 1)
    except (OSError, ImageError, EOFError, zlib.error) as error:
        raise unreadable(path, getattr(error, "strerror", None) or str(error)) from error
    if len(data) > MOST_BYTES:
        raise unreadable(path, f"it has more than {MOST_BYTES >> 30} GiB; write it as Parquet")
    for beginning, reason in _OTHER_FILES.items():
        if data.startswith(beginning):
            raise SourceError(f"The manifest '{shown(str(path))}' {reason}.")
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = len(re.findall(rb"\r\n|\r|\n", data[: error.start])) + 1
        said = f"it is not {encoding.removesuffix('-sig').upper()} in line {line} (byte 0x{data[error.start]:02x})"
        raise unreadable(path, f"{said}; save it as UTF-8") from error
    if "\0" in text:
        line = len(re.findall(r"\r\n|\r|\n", text[: text.index(chr(0))])) + 1
        raise unreadable(path, f"line {line} holds a zero byte, so it is no text in UTF-8; save it as such")
    return text


def _delimiter(text: str, is_ours: Callable[[list[str]], bool]) -> str:
    """The first delimiter by which the header has the columns looked for; else the one that cuts it most often."""
    headers = {}
    for delimiter in _DELIMITERS:
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            headers[delimiter] = next((row for row in rows if row), [])
        except csv.Error:
            headers[delimiter] = []
    found = next((delimiter for delimiter, cells in headers.items() if is_ours(cells)), None)
    return found or max(headers, key=lambda delimiter: len(headers[delimiter]))


def _table(lines: io.StringIO, delimiter: str, path: Path) -> pa.Table:
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    cells: list[str] = []  # of all rows, one behind the other: a list for each costs twice the time
    try:
        names = next((row for row in rows if row), [])
        for row in rows:
            if not "".join(row).strip():
                continue
            if len(row) != len(names):
                raise unreadable(
                    path,
                    f"line {rows.line_num} has another number of cells ({len(row)}) than the header ({len(names)}); "
                    "put a cell that holds the delimiter into quotes",
                )
            cells.extend(row)
    except csv.Error as error:
        raise unreadable(path, f"line {rows.line_num}: {error}") from error
    columns = [pa.array(cells[at :: len(names)], pa.string()) for at in range(len(names))]
    return pa.Table.from_arrays(columns, names=names)


def unreadable(path: Path, reason: str) -> SourceError:
    """The error of a manifest that is no table."""
    return SourceError(f"The manifest '{shown(str(path))}' cannot be read: {reason.rstrip('.')}.")
