"""An epoch's batches as drawn by lhotse's own sampler, in an interpreter that has lhotse.

    python benchmarks/lhotse_batches.py sizes.npy BUDGET_PIXELS pixels|cells batches.npz

`sizes.npy` has heights and widths, (N, 2), or with `cells` a third column, the bin of each picture. A picture is a cut
whose duration is its pixel count. `pixels` is the unchanged sampler: buckets by duration, and count x longest within
`max_duration`. `cells` gives it bins of two levels and a number for each, as NeMo's 2D bucketing does.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lhotse
import numpy as np
from lhotse.cut import MonoCut
from lhotse.dataset.sampling.dynamic_bucketing import DynamicBucketingSampler, FixedBucketBatchSizeConstraint

NUM_BUCKETS = 30
"""As in NeMo's guides; lhotse's own default is 10."""


@dataclass
class Cells(FixedBucketBatchSizeConstraint):
    """A number of images for each bin; each cut has its bin."""

    def measure_length(self, example: Any) -> int:
        return int(example.channel)

    def add(self, example: Any) -> None:
        self.current_bucket = self.measure_length(example)
        self.num_cuts += 1


def main() -> None:
    source, budget, rule, target = sys.argv[1:]
    columns, budget_pixels = np.load(source), int(budget)
    pixels = columns[:, :2].prod(axis=1)
    cells = columns[:, 2] if rule == "cells" else np.zeros_like(pixels)
    order = np.random.default_rng(0).permutation(len(pixels))
    cuts = [MonoCut(id=str(i), start=0, duration=float(pixels[i]), channel=int(cells[i])) for i in order.tolist()]
    options: dict[str, Any] = {"num_buckets": min(NUM_BUCKETS, len(cuts) - 1), "max_duration": float(budget_pixels)}
    if rule == "cells":
        bounds = np.zeros((int(cells.max()) + 1, 2), dtype=np.int64)
        np.maximum.at(bounds, cells, columns[:, :2])
        numbers = list(range(len(bounds)))
        counts = np.maximum(budget_pixels // bounds.prod(axis=1), 1).tolist()
        constraint = Cells(max_seq_len_buckets=numbers, batch_sizes=counts)
        options = {"duration_bins": numbers[:-1], "constraint": constraint}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of eager cuts, buffers, and single images above the budget
        sampler = DynamicBucketingSampler(cuts, shuffle=True, seed=0, rank=0, world_size=1, **options)
        batches = [[int(cut.id) for cut in batch] for batch in sampler]
    counts = np.array([len(batch) for batch in batches])
    np.savez(Path(target), images=np.concatenate(batches), counts=counts, version=lhotse.__version__)


if __name__ == "__main__":
    main()
