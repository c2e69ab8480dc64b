"""Pictures that are in an index twice, byte for byte: cheap to find, since few files have one length and shape.

Only files of equal length and shape are opened; of these, a few samples are read; and only those whose samples
agree, which are nearly always copies, are read whole, up to a bound. Beyond it samples decide, and that is
said. Compared with a digest of every file, a dataset of 37,000 photographs costs the reading of hundreds.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b

from unsquare.errors import ImageError
from unsquare.index.opening import open_regular
from unsquare.index.table import ShapeIndex

_SAMPLES = 8
_SAMPLE_BYTES = 4096
"""Files up to their product are read whole at once."""
MOST_BYTES = 1 << 31
"""Bytes that are read whole in all; some 10 seconds from a disk."""
_BLOCK = 1 << 20
_WORKERS = 8


@dataclass(frozen=True)
class Copies:
    """Groups of rows whose files are the same."""

    groups: tuple[list[int], ...]
    """Rows in the index's order, two or more each."""
    sampled: bool
    """Whether the bound was reached, so that samples alone decided over the longest files."""


def find_copies(index: ShapeIndex, most_bytes: int = MOST_BYTES) -> Copies:
    """The rows of an index whose files are the same, byte for byte; files that cannot be opened have no copies."""
    if not index.root:
        return Copies((), False)
    lengths = _lengths(index)
    shapes = index.sizes.tolist()
    alike = _groups(range(len(index)), lambda row: (lengths[row], *shapes[row]) if lengths[row] else None)
    with ThreadPoolExecutor(_WORKERS) as pool:
        alike = _by_digest(alike, lambda row: _sample(index, row, lengths[row]), pool)
        alike.sort(key=lambda group: lengths[group[0]])
        sure = [group for group in alike if lengths[group[0]] <= _SAMPLES * _SAMPLE_BYTES]
        unsure = alike[len(sure) :]
        for position, group in enumerate(unsure):
            most_bytes -= len(group) * lengths[group[0]]
            if most_bytes < 0:
                whole, left = unsure[:position], unsure[position:]
                break
        else:
            whole, left = unsure, []
        whole = _by_digest(whole, lambda row: _whole(index, row), pool)
    return Copies(tuple(sorted([*sure, *whole, *left])), bool(left))


def _lengths(index: ShapeIndex) -> list[int]:
    """Each file's length; where the index does not have it, as for a manifest that tells sizes, the file is asked."""
    lengths = index.num_bytes.tolist()
    for row, length in enumerate(lengths):
        if not length:
            try:
                lengths[row] = os.stat(index.path(row)).st_size
            except (OSError, ValueError):
                lengths[row] = 0
    return lengths


def _groups(rows: Iterable[int], key_of: Callable[[int], Hashable | None]) -> list[list[int]]:
    """The rows that share a key with another; rows whose key is None share none."""
    together: dict[Hashable, list[int]] = defaultdict(list)
    for row in rows:
        if (key := key_of(row)) is not None:
            together[key].append(row)
    return [group for group in together.values() if len(group) > 1]


def _by_digest(
    groups: Sequence[list[int]], digest: Callable[[int], bytes | None], pool: ThreadPoolExecutor
) -> list[list[int]]:
    """The groups cut further, by a digest of each row's file."""
    rows = [row for group in groups for row in group]
    digests = dict(zip(rows, pool.map(digest, rows)))
    return [finer for group in groups for finer in _groups(group, digests.__getitem__)]


def _sample(index: ShapeIndex, row: int, length: int) -> bytes | None:
    """A digest of parts spread evenly over a file, its beginning and end among them; None where it cannot be read."""
    last = max(0, length - _SAMPLE_BYTES)
    starts = sorted({last * part // (_SAMPLES - 1) for part in range(_SAMPLES)})
    if length <= _SAMPLES * _SAMPLE_BYTES:
        return _whole(index, row)
    found = blake2b(digest_size=16)
    try:
        with open_regular(index.path(row)) as (file, _):
            for start in starts:
                file.seek(start)
                found.update(file.read(_SAMPLE_BYTES))
    except (OSError, ImageError):
        return None
    return found.digest()


def _whole(index: ShapeIndex, row: int) -> bytes | None:
    """A digest of a file; None where it cannot be read."""
    found = blake2b(digest_size=16)
    try:
        with open_regular(index.path(row)) as (file, _):
            while block := file.read(_BLOCK):
                found.update(block)
    except (OSError, ImageError):
        return None
    return found.digest()
