"""The rows of `metrics.jsonl`, which are appended one by one, and read even if some of them are damaged.

Each row has a checksum of its own, and a checkpoint records how far the file had come, with a checksum of it, so that a
resumed run notices missing rows, too. Lost or damaged rows are counted and reported; they stop nothing, because nothing
is computed from them.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec

from unsquare.files import read_regular, write_text
from unsquare.runs.reading import decode_row, with_checksum
from unsquare.runs.rows import FinalRow, MetricsRow
from unsquare.runs.schemas import Mark

_SHOWN = 3


@dataclass(frozen=True)
class MetricsLine:
    """A row by its schema, and its line in the file."""

    values: MetricsRow
    line: bytes

    def to_dict(self) -> dict[str, Any]:
        """The row as plain values, with defaults for what its line lacks."""
        return {"kind": self.values.__struct_config__.tag, **msgspec.structs.asdict(self.values)}


@dataclass(frozen=True)
class Metrics:
    """The valid rows, in the file's order, and how many lines are not valid."""

    rows: list[MetricsLine]
    num_bad: int

    def words(self, last_step: int) -> str:
        """The rows that are lost, of steps 1 to `last_step` or to the last there is, in words; empty where none are."""
        there = {row.values.step for row in self.rows if kind_of(row) == "step"}
        last = max(there | {last_step})
        num_lost = last - len(there)
        parts = []
        if self.num_bad:
            parts.append("1 line is damaged" if self.num_bad == 1 else f"{self.num_bad:,} lines are damaged")
        if num_lost:
            lost = map(str, islice((step for step in range(1, last + 1) if step not in there), _SHOWN))
            some = ", ".join(lost) + (", ..." if num_lost > _SHOWN else "")
            rows = f"rows of {num_lost:,} steps are lost ({some})" if num_lost > 1 else f"row of step {some} is lost"
            parts.append(f"the {rows}")
        return " and ".join(parts)


def kind_of(row: MetricsLine) -> str:
    """The kind of a row: step, eval, final or start."""
    return str(row.values.__struct_config__.tag)


def read_metrics(path: Path) -> Metrics:
    """The rows of a file, empty if it does not exist; a last line that a crash cut short is ignored.

    Raises:
        OSError: it cannot be read.
    """
    if not os.path.lexists(path):
        return Metrics([], 0)
    return decoded(read_regular(path))


def decoded(content: bytes) -> Metrics:
    """The rows of a file's content."""
    rows, num_bad = [], 0
    for line in content[: content.rfind(b"\n") + 1].split(b"\n"):
        if not line.strip():
            continue
        values = decode_row(line)
        if values is None:
            num_bad += 1
        else:
            rows.append(MetricsLine(values, line))
    return Metrics(rows, num_bad)


class MetricsFile:
    """A metrics file to which rows are added.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._num_bytes = 0

    def append(self, row: Mapping[str, Any]) -> None:
        """Add a row; raises OSError where it cannot be written."""
        line = (with_checksum(json.dumps(row, allow_nan=False)) + "\n").encode()
        # Opening a pipe of this name would wait for its reader; this fails at once instead.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(self._path, flags, 0o666)
        with open(descriptor, "wb") as file:
            file.write(line)
        self._count(line)

    def mark(self) -> Mark:
        """The current end of the file, after it is flushed to disk."""
        if self._num_bytes:
            with self._path.open("rb") as file:
                os.fsync(file.fileno())
        return Mark(num_bytes=self._num_bytes, sha256=self._digest.hexdigest())

    def keep_until(self, step: int, mark: Mark | None) -> str:
        """Remove the rows after a step, which a resumed run writes again; return what is lost of earlier ones.

        Raises:
            OSError: the file cannot be read or written.
        """
        content = read_regular(self._path) if os.path.lexists(self._path) else b""
        marked = content[: mark.num_bytes] if mark else content
        as_marked = mark is None or hashlib.sha256(marked).hexdigest() == mark.sha256
        metrics = decoded(content)
        rows = [row for row in metrics.rows if row.values.step <= step and not isinstance(row.values, FinalRow)]
        kept = b"".join(row.line + b"\n" for row in rows)
        write_text(self._path, kept.decode())
        self._digest, self._num_bytes = hashlib.sha256(), 0
        self._count(kept)
        # Lines after the mark belong to steps that are trained again.
        bad = decoded(marked).num_bad if as_marked else metrics.num_bad
        words = Metrics(rows, bad).words(step)
        if not as_marked and not words:
            return "its rows differ from those at the checkpoint"
        return words

    def _count(self, content: bytes) -> None:
        self._digest.update(content)
        self._num_bytes += len(content)
