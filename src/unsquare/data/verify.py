"""Decodes every picture of an index once, and turns failures into problems: a valid header may have damaged pixels."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from unsquare.data.decode import decode_need, decode_row
from unsquare.data.gate import DECODE_BYTES, ByteGate, num_cores
from unsquare.errors import ImageError
from unsquare.index.table import Problem, ShapeIndex
from unsquare.shapes import Shape


def verify(
    index: ShapeIndex, *, workers: int | None = None, progress: Callable[[int, int], None] | None = None
) -> ShapeIndex:
    """The index with each row that cannot be decoded moved to the problems.

    Args:
        index: the images; their files must exist.
        workers: number of decoder threads; None uses one per core.
        progress: called after each picture with the number done and in all.
    """
    gate = ByteGate(DECODE_BYTES)

    def reason(row: int) -> str:
        shape = Shape(int(index.sizes[row, 0]), int(index.sizes[row, 1]))
        try:
            with gate.hold(decode_need(index.path(row), shape, shape)):
                decode_row(index, row)
        except ImageError as error:
            return str(error)
        return ""

    reasons = []
    with ThreadPoolExecutor(workers or num_cores()) as pool:
        for found in pool.map(reason, range(len(index))):
            reasons.append(found)
            if progress is not None:
                progress(len(reasons), len(index))
    problems = [
        Problem(
            key=index.keys[row],
            reason=found,
            label=int(index.labels[row]),
            split=index.splits[row],
            num_bytes=int(index.num_bytes[row]),
            modified_ns=int(index.modified_ns[row]),
        )
        for row, found in enumerate(reasons)
        if found
    ]
    kept = index.take(np.array([not found for found in reasons], dtype=bool))
    together = sorted([*index.problems, *problems], key=lambda problem: problem.key)
    return replace(kept, problems=tuple(together))
