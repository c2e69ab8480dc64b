"""Finds pictures that are in an index twice, byte for byte; cheaply, since few files share length and shape.

Only files of equal length and shape are opened, and a block from the middle of each is read, which is no more work than
reading its header was. Where these agree, blocks spread over the file are compared; where they agree too, nearly always
for a copy, files are read whole, up to a limit of bytes. Beyond it only the blocks are compared, and a remark says so.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b

from unsquare.errors import ImageError
from unsquare.index.opening import open_regular
from unsquare.index.table import ShapeIndex

_BLOCKS = 8
_BLOCK_BYTES = 4096
"""Files up to their product are read whole at once."""
MOST_BYTES = 1 << 31
"""Most bytes of files that are read whole; some 10 seconds from a disk."""
_PIECE_BYTES = 1 << 20
_WORKERS = 8


@dataclass(frozen=True)
class Copies:
    """Groups of rows whose files are equal."""

    groups: tuple[list[int], ...]
    """Rows in the index's order, two or more in each."""
    sampled: bool
    """Whether the limit was reached, so that the longest files were only compared by samples."""


def find_copies(index: ShapeIndex, most_bytes: int = MOST_BYTES) -> Copies:
    """The rows of an index whose files are equal, byte for byte; files that cannot be opened have no copies."""
    if not index.root:
        return Copies((), False)
    lengths = _lengths(index)
    shapes = index.sizes.tolist()
    alike = _groups(range(len(index)), lambda row: (lengths[row], *shapes[row]) if lengths[row] else None)
    with ThreadPoolExecutor(_WORKERS) as pool:
        for blocks in (1, _BLOCKS):
            alike = _by_digest(alike, partial(_sample, index, lengths, blocks), pool)
        alike.sort(key=lambda group: lengths[group[0]])
        sure = [group for group in alike if lengths[group[0]] <= _BLOCKS * _BLOCK_BYTES]
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
    """Each file's length, from the index or, where it is not there (manifests with sizes), from the file."""
    lengths = index.num_bytes.tolist()
    for row, length in enumerate(lengths):
        if not length:
            try:
                lengths[row] = os.stat(index.path(row)).st_size
            except (OSError, ValueError):
                lengths[row] = 0
    return lengths


def _groups(rows: Iterable[int], key_of: Callable[[int], Hashable | None]) -> list[list[int]]:
    """Groups of rows with the same key; rows whose key is None are in no group."""
    together: dict[Hashable, list[int]] = defaultdict(list)
    for row in rows:
        if (key := key_of(row)) is not None:
            together[key].append(row)
    return [group for group in together.values() if len(group) > 1]


def _by_digest(
    groups: Sequence[list[int]], digest: Callable[[int], bytes | None], pool: ThreadPoolExecutor
) -> list[list[int]]:
    """The groups split further by a digest of each row's file."""
    rows = [row for group in groups for row in group]
    digests = dict(zip(rows, pool.map(digest, rows)))
    return [finer for group in groups for finer in _groups(group, digests.__getitem__)]


def _sample(index: ShapeIndex, lengths: Sequence[int], blocks: int, row: int) -> bytes | None:
    """A digest of this many blocks spread evenly over a file (one: its middle); None where it cannot be read."""
    length = lengths[row]
    if length <= _BLOCKS * _BLOCK_BYTES:
        return _whole(index, row)
    last = length - _BLOCK_BYTES
    starts = [last * block // (blocks - 1) for block in range(blocks)] if blocks > 1 else [last // 2]
    found = blake2b(digest_size=16)
    try:
        with open_regular(index.path(row)) as (file, _):
            for start in starts:
                file.seek(start)
                found.update(file.read(_BLOCK_BYTES))
    except (OSError, ImageError):
        return None
    return found.digest()


def _whole(index: ShapeIndex, row: int) -> bytes | None:
    """A digest of a file; None where it cannot be read."""
    found = blake2b(digest_size=16)
    try:
        with open_regular(index.path(row)) as (file, _):
            while block := file.read(_PIECE_BYTES):
                found.update(block)
    except (OSError, ImageError):
        return None
    return found.digest()
