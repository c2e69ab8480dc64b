"""Evaluation and prediction: each picture whole, each result as if it were alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from PIL import Image

from unsquare.capacity.recovery import predict
from unsquare.data.loader import BatchLoader, UndecodableError
from unsquare.errors import ImageError, RunError, SourceError, UnsquareError
from unsquare.index.table import ShapeIndex
from unsquare.network.classifier import Classifier
from unsquare.network.engine import Engine
from unsquare.network.norms import learns_statistics
from unsquare.plan.config import Limits
from unsquare.plan.epoch import EpochPlan, MicroBatch
from unsquare.plan.planner import naming, plan_in_order
from unsquare.progress import Progress
from unsquare.runs.memory_profile import RunLimits
from unsquare.shapes import Geometry, Shape, Sizes
from unsquare.training.metrics import Evaluation, summarize

Failed = Callable[[UndecodableError], None]
"""Called for each picture that cannot be decoded."""


class Evaluator:
    """Runs a network over the images of an index, in batches planned once.

    Args:
        engine: the network on its device.
        index: the images.
        geometry: from file shape to the shape used; whole pictures, no crop.
        limits: how large a micro-batch may be, and how it is run.
        workers: number of decoder threads.
        plan: how images are batched.
        opened: Pillow images by position in the index, used instead of its files.
        shared: whether the ranks share the images; if not, each runs all of them.
    """

    def __init__(
        self,
        engine: Engine,
        index: ShapeIndex,
        geometry: Geometry,
        limits: RunLimits,
        workers: int | None = None,
        plan: Callable[[Sizes, Limits], EpochPlan] = plan_in_order,
        *,
        opened: Mapping[int, Image.Image] | None = None,
        shared: bool = True,
    ) -> None:
        self._engine = engine
        self.index = index
        self._geometry = geometry
        self._workers = workers
        self._opened = opened
        self._rank, ranks = (engine.fabric.global_rank, engine.fabric.world_size) if shared else (0, 1)
        sizes = geometry.resize(index.sizes)
        check_sides(index, sizes, engine.model.stride)
        self._limits = limits
        remedy = "raise --budget-pixels" if limits.training is None else "give more with --memory"
        with naming(index.keys, lambda pixels: remedy):
            self._plan = plan(sizes, limits.limits(ranks, evaluation=True))

    def predictions(
        self, progress: Progress | None = None, failed: Failed | None = None
    ) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield positions (n,) of this rank's images, and their probabilities or values (n, num_classes) fp64.

        Pictures that cannot be decoded are skipped and given to `failed`; if that is None, the first one raises.
        """
        micro_batches: list[MicroBatch] = [each for step in self._plan.steps for each in step.ranks[self._rank]]
        loader = BatchLoader(self.index, self._geometry, workers=self._workers, opened=self._opened)
        done = 0
        try:
            for batch in loader.load(self._plan, micro_batches, failed):
                yield torch.from_numpy(batch.images), predict(self._engine, batch, self._limits)
                done += len(batch.images)
                if progress is not None:
                    progress(done, len(self.index))
            if progress is not None:  # pictures that failed, and those of other ranks, count as done
                progress(len(self.index), len(self.index))
        finally:
            loader.close()

    def evaluate(self, progress: Progress | None = None, failed: Failed | None = None) -> Evaluation:
        """Loss and figures over all images, the same on every rank.

        Pictures that cannot be decoded are skipped and given to `failed`; if that is None, the first one raises.

        Raises:
            SourceError: a picture cannot be decoded, or none of them can.
        """
        started = time.perf_counter()
        index, objective = self.index, self._engine.objective
        labels = torch.from_numpy(index.labels.astype(np.int64) if index.targets is None else index.targets)
        # Whether evaluated, loss, then predictions: of classes the most probable one and its probability.
        outcome = torch.zeros(len(index), 4 if index.targets is None else 2 + len(index.classes), dtype=torch.float64)
        error: UnsquareError | None = None
        try:
            for images, found in self.predictions(progress, failed):
                loss = objective.losses_of(found, labels[images])
                if index.targets is None:
                    highest, predicted = found.max(1)
                    found = torch.stack([predicted.double(), highest], dim=1)
                outcome[images] = torch.cat([torch.ones_like(loss)[:, None], loss[:, None], found], dim=1)
        except UnsquareError as caught:
            error = caught
        # The other ranks wait for this one's results: all learn that one failed before any of them ends.
        if self._engine.min_over_ranks(int(error is None)) == 0:
            raise error or RunError("Another rank failed to evaluate; its message says why.")
        outcome = self._engine.sum_over_ranks(outcome)
        seen = outcome[:, 0] > 0
        if not seen.any():
            raise SourceError("None of the pictures can be decoded; replace the files.")
        seconds = time.perf_counter() - started
        return summarize(outcome[seen, 1], outcome[seen, 2:], index.take(seen.numpy()), seconds, objective)

    @property
    def plan(self) -> EpochPlan:
        """Which images are evaluated together."""
        return self._plan


def check_statistics(index: ShapeIndex, sizes: Sizes, model: Classifier, stage_pixels: int | None = None) -> None:
    """Refuse training pictures as small as the stride: batch norm has no variance over the one pixel they give.

    Args:
        index: the training pictures.
        sizes: their shapes, (N, 2).
        model: the network.
        stage_pixels: the stage of progressive resolution that has shrunk them, if one has.

    Raises:
        SourceError: names one of them.
    """
    single = sizes.max(axis=1) <= model.stride
    if single.any() and learns_statistics(model):
        stage = "" if stage_pixels is None else f"in the stage of {stage_pixels:,} pixels "
        remedy = "or remove them" if stage_pixels is None else "or give --progressive larger stages"
        raise SourceError(
            f"Batch norm needs more than one pixel of the last feature map, but {stage}{int(single.sum())} images of "
            f"{model.stride} x {model.stride} pixels give only one, {index.keys[int(single.argmax())]} among them; "
            f"enlarge them with --min-side {model.stride + 1}, {remedy}."
        )


def check_side(geometry: Geometry, shape: Shape, stride: int) -> None:
    """Refuse a single picture with a side below the network's stride.

    Raises:
        ImageError: says how small it is.
    """
    height, width = geometry.resize(np.array(shape))
    if min(height, width) < stride:
        raise ImageError(
            f"is {height} x {width} pixels, but each side must be at least the network's stride of {stride}"
        )


def check_sides(index: ShapeIndex, sizes: Sizes, stride: int) -> None:
    """Refuse pictures with a side below the network's stride, whose regions would be empty.

    Raises:
        SourceError: names the smallest.
    """
    short = sizes.min(axis=1)
    if len(short) and short.min() < stride:
        worst = int(short.argmin())
        height, width = sizes[worst]
        shrunk = index.sizes[worst].min() >= stride
        smaller, remedy = ("smaller once they are shrunk", "shrink them less") if shrunk else ("smaller", "remove them")
        raise SourceError(
            f"Each side must be at least the network's stride of {stride} pixels, but {int((short < stride).sum())} of "
            f"{len(short)} images are {smaller}, {index.keys[worst]} with {height} x {width} among them; enlarge them "
            f"with --min-side {stride + 1}, or {remedy}."
        )
