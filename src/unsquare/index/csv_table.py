"""Reads a CSV file as columns of text, whatever program wrote it.

Line ends, byte order marks, UTF-16 and the delimiter are detected from the content. Cells stay text, so that a label
007 stays 007 and a class NA is not a gap. What is ambiguous is refused with its line: another encoding, a row of more
or fewer cells than the header, a quote that is not closed. Unused cells are dropped, and the others become columns
batch by batch. (Arrow's reader takes half the time, but supports neither other encodings nor the line ends of old Macs,
and does not name lines.)
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa

from unsquare.errors import ImageError, SourceError
from unsquare.index.opening import open_regular
from unsquare.index.text import shown

MOST_ROWS = 10_000_000
"""Most rows of a manifest; each takes about half a kilobyte before its picture is opened."""
MOST_BYTES = 1 << 30
"""Most bytes of a manifest, uncompressed."""
_MOST_HEADER = 1 << 20
_BATCH_CELLS = 1 << 18
_LINE = re.compile(r"[^\r\n]*(?:\r\n|\r|\n)|[^\r\n]+")
_DELIMITERS = ",;\t|"
_MARKS = {  # longest first: the longer mark begins with the shorter
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_OTHER_FILES = {
    b"PK\x03\x04": "is a ZIP archive or a workbook; save the table as CSV",
    b"PAR1": "is a Parquet file; give it a name that ends in .parquet",
    b"\xd0\xcf\x11\xe0": "is an old Excel workbook; save the table as CSV",
    b"BZh": "is compressed by bzip2; unpack it, or compress it by gzip",
    b"\xfd7zXZ": "is compressed by xz; unpack it, or compress it by gzip",
    b"\x28\xb5\x2f\xfd": "is compressed by zstd; unpack it, or compress it by gzip",
}


def read_csv(
    path: Path, is_ours: Callable[[list[str]], bool], pick: Callable[[list[str]], Sequence[int]]
) -> tuple[list[str], pa.Table]:
    """The names of all columns of a CSV file, which may be compressed by gzip, and a table of some of them.

    Empty lines and rows are skipped.

    Args:
        path: the file.
        is_ours: whether these column names include wanted ones; decides between delimiters.
        pick: given all names, returns the positions of the columns to keep.

    Raises:
        SourceError: the file is not such a table, or too long; the message names the line.
    """
    text = _text(path)
    if mark := re.match(r"sep=(.)(\r\n|\r|\n)", text):  # Excel's line for the delimiter
        return _table(_lines(text, mark.end()), mark[1], pick, path)
    return _table(_lines(text), _delimiter(text[:_MOST_HEADER], is_ours), pick, path)


def _lines(text: str, start: int = 0) -> Iterator[str]:
    """The lines with their line ends; a StringIO would take four bytes per character."""
    return (match[0] for match in _LINE.finditer(text, start))


def _text(path: Path) -> str:
    try:
        with open_regular(path) as (file, status):
            check_bytes(status.st_size, path)
            data = file.read(MOST_BYTES + 1)
        if data.startswith(b"\x1f\x8b"):
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
                data = unpacked.read(MOST_BYTES + 1)
    except (OSError, ImageError, EOFError, zlib.error) as error:
        raise unreadable(path, getattr(error, "strerror", None) or str(error)) from error
    if len(data) > MOST_BYTES:
        raise unreadable(path, f"it has more than {MOST_BYTES:,} bytes unpacked; list fewer pictures, or shorter paths")
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
        raise unreadable(path, f"line {line} holds a zero byte, so it is not UTF-8 text; save it as UTF-8")
    return text


def _delimiter(text: str, is_ours: Callable[[list[str]], bool]) -> str:
    """The first delimiter with which the header has wanted columns; else the most frequent one."""
    headers = {}
    for delimiter in _DELIMITERS:
        try:
            rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            headers[delimiter] = next((row for row in rows if row), [])
        except csv.Error:
            headers[delimiter] = []
    found = next((delimiter for delimiter, cells in headers.items() if is_ours(cells)), None)
    return found or max(headers, key=lambda delimiter: len(headers[delimiter]))


def _table(
    lines: Iterator[str], delimiter: str, pick: Callable[[list[str]], Sequence[int]], path: Path
) -> tuple[list[str], pa.Table]:
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    cells: list[str] = []  # of many rows in one list: a list for each row takes twice the time
    try:
        names = next((row for row in rows if row), [])
        picked = pick(names)
        columns: list[list[pa.Array]] = [[] for _ in picked]
        num_rows = 0
        for row in rows:
            if not "".join(row).strip():
                continue
            if len(row) != len(names):
                raise unreadable(
                    path,
                    f"line {rows.line_num} and the header differ in their number of cells ({len(row)} and "
                    f"{len(names)}); put cells that hold the delimiter into quotes",
                )
            cells.extend([row[at] for at in picked])
            if len(cells) >= _BATCH_CELLS:
                num_rows += _move(cells, columns)
                check_rows(num_rows, path)
    except csv.Error as error:
        raise unreadable(path, f"line {rows.line_num}: {error}") from error
    check_rows(num_rows + _move(cells, columns), path)
    arrays = [pa.chunked_array(chunks, pa.string()) for chunks in columns]
    return names, pa.Table.from_arrays(arrays, names=[names[at] for at in picked])


def _move(cells: list[str], columns: list[list[pa.Array]]) -> int:
    """Move the cells of some rows into a new chunk of each column; returns the number of rows."""
    for at, chunks in enumerate(columns):
        chunks.append(pa.array(cells[at :: len(columns)], pa.string()))
    num_rows = len(cells) // len(columns)
    cells.clear()
    return num_rows


def check_rows(num_rows: int, path: Path) -> None:
    """Raise `SourceError` where a manifest has too many rows."""
    if num_rows > MOST_ROWS:
        reason = f"it has {num_rows:,} rows, but at most {MOST_ROWS:,} are read; list fewer pictures"
        raise unreadable(path, reason)


def check_bytes(num_bytes: int, path: Path) -> None:
    """Raise `SourceError` where a manifest, or the part of it that is read, is too long for memory."""
    if num_bytes > MOST_BYTES:
        said = f"it has {num_bytes:,} bytes to read, but at most {MOST_BYTES:,} are"
        raise unreadable(path, f"{said}; list fewer pictures, or shorter paths")


def unreadable(path: Path, reason: str) -> SourceError:
    """The error for a manifest that cannot be read as a table."""
    return SourceError(f"The manifest '{shown(str(path))}' cannot be read: {reason.rstrip('.')}.")
