"""CSV files of every program as columns of text."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.errors import SourceError
from unsquare.index.csv_table import read_csv

cells = st.text(st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from('",;\t|\n '), max_size=9)
tables = st.lists(st.tuples(cells.filter(str.strip), cells), max_size=6)


def read(path: Path) -> list[tuple[str, ...]]:
    """The rows of a file with a column called path."""
    _, table = read_csv(path, lambda names: "path" in names, lambda names: range(len(names)))
    return list(zip(*(column.to_pylist() for column in table.columns)))


@given(
    rows=tables,
    delimiter=st.sampled_from(",;\t|"),
    line_end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32"]),
    zipped=st.booleans(),
)
def test_cells_come_back_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    delimiter: str,
    line_end: str,
    encoding: str,
    zipped: bool,
) -> None:
    """Whatever the delimiter, the line ends, the encoding and the compression, each cell is what was written."""
    text = io.StringIO(newline="")
    # The writer leaves a line break bare where its own line ends are others.
    quoting = csv.QUOTE_ALL if line_end == "\r" else csv.QUOTE_MINIMAL
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line_end, quoting=quoting)
    writer.writerows([("path", "label"), *rows])
    data = text.getvalue().encode(encoding)
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert read(path) == rows


def test_excel_may_name_the_delimiter(tmp_path: Path) -> None:
    """A first line `sep=;` is no header."""
    (tmp_path / "a.csv").write_text("sep=;\r\npath;label\r\na,b.jpg;c\r\n", newline="")
    assert read(tmp_path / "a.csv") == [("a,b.jpg", "c")]


def test_empty_lines_and_rows_are_passed_over(tmp_path: Path) -> None:
    """What spreadsheets leave above and below the table is nothing."""
    (tmp_path / "a.csv").write_text("\n\npath,label\n\na,b\n,\n , \n")
    assert read(tmp_path / "a.csv") == [("a", "b")]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"path,label\na,b\nc\n", r"line 3 and the header differ in their number of cells \(1 and 2\)"),
        (b"path,label\ra,b\rc,d,e\r", "line 3 and the header differ"),
        (b'path,label\na,"b\nc,d\n', "unexpected end of data"),
        (b'path,label\n"a"b,c\n', "line 2"),
        (b"path,label\na,caf\xe9\n", r"not UTF-8 in line 2 \(byte 0xe9\); save it as UTF-8"),
        ("path\na".encode("utf-16-le"), "line 1 holds a zero byte"),
        (b"path,label\n" + b"a" * 200_000, "field larger than field limit"),
        (b"PK\x03\x04rest", "is a ZIP archive or a workbook; save the table as CSV"),
        (b"PAR1rest", "is a Parquet file"),
        (gzip.compress(b"path\na\n" * 99, mtime=0)[:-9], "cannot be read"),  # the time would be in the test's name
        (b"\xff\xfep", "not UTF-16"),
    ],
)
def test_what_is_no_table_says_where(tmp_path: Path, data: bytes, message: str) -> None:
    """The error is one sentence with the line, and what to do."""
    (tmp_path / "a.csv").write_bytes(data)
    with pytest.raises(SourceError, match=message) as caught:
        read(tmp_path / "a.csv")
    assert "\n" not in str(caught.value)


@given(at=st.integers(0, 60), junk=st.binary(max_size=6), cut=st.integers(0, 9))
def test_whatever_bytes_there_are_the_answer_is_a_table_or_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, at: int, junk: bytes, cut: int
) -> None:
    """Bytes put in and taken out anywhere never end in another error, nor in one of several lines."""
    data = b"path,label\ncat/0.jpg,cat\ndog/0.jpg,dog\n"
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    path.write_bytes(data[:at] + junk + data[at + cut :])
    message = ""
    try:
        read(path)
    except SourceError as error:
        message = str(error)
    assert "\n" not in message
