"""Rows of the metrics: what is lost or damaged is said, what is whole is kept byte for byte."""

import hashlib
import json

import pytest

from unsquare.runs.metrics import MetricsFile, decoded, read_metrics
from unsquare.runs.schemas import Mark

ROW = {"kind": "step", "epoch": 0.1, "time_s": 1.0, "loss": 0.5, "accuracy": 1.0, "learning_rate": 0.1, "num_images": 4}


@pytest.fixture
def file(tmp_path):
    """Six steps, marked after the fourth."""
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"kind": "start", "step": 0, "time_s": 0.0, "seconds": 1.0})
    for step in range(1, 7):
        file.append(ROW | {"step": step})
        if step == 4:
            file.marked = file.mark()
    return file


def kept_after(file, content=None):
    """Write other content and resume from the fourth step as another process does; returns the message, and the steps
    kept."""
    if content is not None:
        file._path.write_bytes(content)
    words = MetricsFile(file._path).keep_until(4, file.marked)
    return words, [row.values.step for row in read_metrics(file._path).rows]


def test_nothing_is_said_where_nothing_is_lost(file):
    """The rows up to the checkpoint stay as they were written, those after it go, whatever has become of them."""
    content = file._path.read_bytes()
    kept = b"".join(content.splitlines(keepends=True)[:5])
    for damaged in (content, content[:-20], content[:-20] + b"\xff\xfe\n", kept):
        assert kept_after(file, damaged) == ("", [0, 1, 2, 3, 4])
        assert file._path.read_bytes() == kept


def test_lost_rows_are_said(file):
    """By their steps."""
    lines = file._path.read_bytes().splitlines(keepends=True)
    assert kept_after(file, b"".join(lines[:2] + lines[4:])) == ("the rows of 2 steps are lost (2, 3)", [0, 1, 4])


@pytest.mark.parametrize("byte", [b"\xff", b"\x00", b"}", b"\n"])
def test_a_damaged_row_is_counted_and_left_out(file, byte):
    """One wrong byte costs its row alone."""
    lines = file._path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:30] + byte + lines[2][31:]
    words, steps = kept_after(file, b"".join(lines))
    assert "damaged and the row of step 2 is lost" in words
    assert steps == [0, 1, 3, 4]


def test_a_digit_that_changed_is_found(file):
    """A row that is still valid, anywhere in the file, is left out; no other is."""
    content = file._path.read_bytes()
    digits = [at for at, byte in enumerate(content) if chr(byte).isdecimal()]
    for at in digits[:: len(digits) // 60]:
        other = b"%d" % ((content[at] - ord("0") + 1) % 10)
        metrics = decoded(content[:at] + other + content[at + 1 :])
        assert (len(metrics.rows), metrics.num_bad) == (6, 1)
    words, steps = kept_after(file, content.replace(b'"loss": 0.5', b'"loss": 0.7', 1))
    assert words == "1 line is damaged and the row of step 1 is lost"
    assert steps == [0, 2, 3, 4]


def test_rows_of_an_earlier_release_are_read(tmp_path):
    """They have no checksum of their own; the checkpoint's sum over the file tells that one has changed."""
    path = tmp_path / "metrics.jsonl"
    content = b"".join(json.dumps(ROW | {"step": step}).encode() + b"\n" for step in range(1, 5))
    path.write_bytes(content.replace(b'"loss": 0.5', b'"loss": 0.7', 1))
    assert [row.values.loss for row in read_metrics(path).rows] == [0.7, 0.5, 0.5, 0.5]
    mark = Mark(num_bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
    assert MetricsFile(path).keep_until(4, mark) == "its rows differ from those at the checkpoint"


def test_a_row_that_was_taken_out_is_said(file):
    """One of which no step is missed, such as a start, too."""
    lines = file._path.read_bytes().splitlines(keepends=True)
    assert kept_after(file, b"".join(lines[1:]))[0] == "its rows differ from those at the checkpoint"


def test_all_rows_lost_is_said(file):
    """A file that is empty, or gone."""
    assert kept_after(file, b"")[0] == "the rows of 4 steps are lost (1, 2, 3, ...)"
    file._path.unlink()
    assert kept_after(file)[0] == "the rows of 4 steps are lost (1, 2, 3, ...)"


def test_going_on_twice_says_a_loss_once(file):
    """After rows were lost, the next mark counts those that are left."""
    file._path.write_bytes(b"")
    again = MetricsFile(file._path)
    assert again.keep_until(4, file.marked)
    again.append(ROW | {"step": 5})
    mark = again.mark()
    assert "rows of 4 steps are lost" in MetricsFile(file._path).keep_until(5, mark)


@pytest.mark.parametrize(
    "change",
    [
        {"loss": None},
        {"accuracy": None},
        {"mae": -1.0},
        {"loss": "x"},
        {"step": -1},
        {"step": 1.5},
        {"step": 10**30},
        {"kind": "other"},
        {"step_t": 1.0},
        {"measured": [1]},
    ],
)
def test_a_row_of_another_structure_is_none(change):
    """Types and ranges are checked for each row."""
    metrics = decoded((json.dumps(ROW | {"step": 1} | change) + "\n").encode())
    assert (metrics.rows, metrics.num_bad) == ([], 1)


def test_a_number_that_is_none_is_never_written(file):
    """Rows hold numbers that every reader can read."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.append(ROW | {"step": 7, "loss": float("nan")})
