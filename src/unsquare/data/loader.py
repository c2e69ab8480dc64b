"""Decodes planned micro-batches ahead of the network, within a bounded number of bytes.

Threads rather than worker processes: the decoders release the interpreter's lock, a 16 MP picture need not be copied
between processes (containers often have only 64 MB of shared memory), and the memory belongs to this process, where the
budget counts it. Work in progress is bounded twice: `READ_AHEAD` bounds whole micro-batches, and a gate bounds the
bytes that decoders take. A picture that needs more than the gate admits is decoded when its micro-batch is requested,
while the network holds nothing; so is one for which memory ran out while reading ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from unsquare.data.appearance import APPEARANCE_BYTES_PER_PIXEL, change_appearance
from unsquare.data.augment import AugmentConfig, augment, image_rng, streams
from unsquare.data.decode import decode_need, decode_peak_bytes, decode_row
from unsquare.data.gate import DECODE_BYTES, ByteGate, num_cores
from unsquare.data.mixing import mix
from unsquare.data.opened import decode_opened
from unsquare.data.pixels import Pixels
from unsquare.data.transform import own_transform
from unsquare.errors import ImageError, PlanError, SourceError, StaleImageError
from unsquare.index.table import ShapeIndex
from unsquare.memory.heap import release_unused
from unsquare.plan.epoch import EpochPlan, MicroBatch
from unsquare.runs.memory_profile import READ_AHEAD
from unsquare.settings import MOST_WORKERS, Range, checks_arguments, received
from unsquare.shapes import Geometry, Shape, Sizes, scaled


@dataclass(frozen=True)
class PaddedBatch:
    """A decoded micro-batch: each image at the top left of the canvas, zeros elsewhere.

    Example:
        >>> index = unsquare.scan_source("photos").take([0, 1])
        >>> plan = unsquare.plan_epoch(index.sizes, unsquare.PlanConfig(step_images=2), unsquare.Limits(), epoch=0)
        >>> [batch] = unsquare.BatchLoader(index, unsquare.Geometry()).load(plan, plan.micro_batches)
        >>> batch.pixels.shape, batch.sizes.tolist()
        (torch.Size([2, 3, 44, 64]), [[44, 60], [40, 64]])
    """

    pixels: torch.Tensor
    """(N, 3, H, W) uint8, channels_last."""
    sizes: torch.Tensor
    """(N, 2) int64: height and width of each image."""
    labels: torch.Tensor
    """(N,) int64: classes; (N, K) float64 for labels and values, as in the index's targets."""
    images: npt.NDArray[np.int64]
    """(N,) rows of the index."""
    other_labels: torch.Tensor | None = None
    """Those of the pictures that mixup or cutmix mixed in, likewise; None where nothing was mixed."""
    label_weights: torch.Tensor | None = None
    """(N,) fp32: the weight of `labels`, from 0 to 1; `other_labels` have the rest."""

    def of(self, chosen: npt.NDArray[np.bool_]) -> PaddedBatch:
        """A part of its images, chosen by (N,) flags, on the same canvas."""
        flags = torch.from_numpy(chosen)
        pixels = self.pixels.permute(0, 2, 3, 1)[flags].permute(0, 3, 1, 2)  # channels_last in memory
        rest = (None if each is None else each[flags] for each in (self.other_labels, self.label_weights))
        return PaddedBatch(pixels, self.sizes[flags], self.labels[flags], self.images[chosen], *rest)


def decoding_bytes(index: ShapeIndex, geometry: Geometry) -> int:
    """The most temporary bytes that decoders take for these images, for any number of threads.

    More than `DECODE_BYTES` are only taken while no micro-batch is computed.

    The need depends on the format, which only the file tells; headers are read in order of decreasing need, until the
    known need exceeds what any remaining file could take.
    """
    targets = geometry.resize(index.sizes)
    bounds = [decode_peak_bytes(_shape(size), _shape(target)) for size, target in zip(index.sizes, targets)]
    most = DECODE_BYTES
    for row in np.argsort(bounds, kind="stable")[::-1]:
        if bounds[row] <= most:
            break
        most = max(most, _loading_need(index.path(row), _shape(index.sizes[row]), _shape(targets[row])))
    return most


def _loading_need(path: Path, original: Shape, target: Shape) -> int:
    """Most bytes that decoding a picture, and then changing it, takes."""
    return max(decode_need(path, original, target), APPEARANCE_BYTES_PER_PIXEL * target.pixels)


def _shape(size: npt.NDArray[np.int64]) -> Shape:
    return Shape(int(size[0]), int(size[1]))


class UndecodableError(SourceError):
    """A picture with a valid header cannot be decoded.

    Example:
        >>> from pathlib import Path
        >>> index = unsquare.scan_source("photos")
        >>> Path("photos/train/silk/0.png").unlink()
        >>> plan = unsquare.plan_epoch(index.sizes, unsquare.PlanConfig(), unsquare.Limits(), epoch=0)
        >>> try:
        ...     batches = list(unsquare.BatchLoader(index, unsquare.Geometry()).load(plan, plan.micro_batches))
        ... except unsquare.UndecodableError as error:
        ...     print(error.key, error.reason)
        train/silk/0.png does not exist
    """

    def __init__(self, key: str, error: ImageError, row: int) -> None:
        self.key = key
        self.reason = str(error)
        self.row = row
        self.remedy, others = (
            "replace or remove it",
            ", or list all such files with `unsquare scan --verify --out index.parquet` and train from that index with "
            "--skip-bad",
        )
        if isinstance(error, StaleImageError):
            self.remedy, others = "put it back, or scan the source again", ""
        super().__init__(f"Every planned picture must decode, but '{key}' {self.reason}; {self.remedy}{others}.")


class BatchLoader:
    """Loads the micro-batches of plans.

    Args:
        index: the images.
        geometry: from file shape to training shape.
        augment: how training changes the pictures; None shows them as they are.
        workers: threads that decode; None takes one per core.
        opened: pictures of Pillow, by position in the index, that are shown in place of its files.

    Example:
        >>> index, geometry = unsquare.scan_source("photos"), unsquare.Geometry()
        >>> plan = unsquare.plan_epoch(geometry.resize(index.sizes), unsquare.PlanConfig(), unsquare.Limits(), epoch=0)
        >>> loader = unsquare.BatchLoader(index, geometry)
        >>> sum(len(batch.labels) for batch in loader.load(plan, plan.micro_batches))
        10
        >>> loader.close()
    """

    @checks_arguments
    def __init__(
        self,
        index: ShapeIndex,
        geometry: Geometry,
        augment: AugmentConfig | None = None,
        workers: Annotated[int, Range(1, MOST_WORKERS)] | None = None,
        opened: Mapping[int, Image.Image] | None = None,
    ) -> None:
        self._index = index
        self._opened = opened or {}
        self._geometry = geometry
        self._augment = augment
        self._transform = None if augment is None else own_transform(augment.transform)
        self._pool = ThreadPoolExecutor(workers or num_cores(), thread_name_prefix="decode")
        self._gate = ByteGate(DECODE_BYTES)
        self._labels = index.labels.astype(np.int64) if index.targets is None else index.targets
        self._targets = geometry.resize(index.sizes)

    def close(self) -> None:
        """Discard what was read ahead and end the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    @checks_arguments
    def load(
        self,
        plan: EpochPlan,
        micro_batches: Iterable[MicroBatch],
        failed: Callable[[UndecodableError], None] | None = None,
    ) -> Generator[PaddedBatch, None, None]:
        """Yield the micro-batches decoded, in order, reading ahead while the caller computes.

        Args:
            plan: the plan of the micro-batches.
            micro_batches: the micro-batches to load, in order.
            failed: called for each picture that cannot be decoded; its micro-batch is yielded without it, or skipped
                where no others are in it. None raises instead.

        Raises:
            SourceError: a picture of the index cannot be decoded.
            PlanError: the plan is for other shapes than the pictures have.
        """
        waiting: deque[_Pending] = deque()
        ahead = iter(micro_batches)
        try:
            while True:
                while len(waiting) < 1 + READ_AHEAD and (micro_batch := next(ahead, None)) is not None:
                    waiting.append(self._submit(plan, micro_batch))
                if not waiting:
                    return
                batch = waiting.popleft().result(failed)
                if len(batch.images):
                    yield self._mixed(batch, plan)
        finally:
            for pending in waiting:
                pending.cancel()

    def _submit(self, plan: EpochPlan, micro_batch: MicroBatch) -> _Pending:
        if not isinstance(micro_batch, MicroBatch):
            raise PlanError(
                f"Micro-batches must be those of a plan, but got {received(micro_batch)}; give plan.micro_batches."
            )
        self._require_planned(plan, micro_batch)
        height, width = micro_batch.canvas
        canvas = np.zeros((len(micro_batch.images), height, width, 3), dtype=np.uint8)
        targets = self._targets_of(plan, micro_batch.images)
        jobs = []
        for slot, (image, target) in enumerate(zip(micro_batch.images, targets)):
            place = partial(self._place, canvas[slot], plan, int(image), _shape(target))
            is_giant = self._is_giant(int(image), _shape(target))
            jobs.append(_Job(place, None if is_giant else self._pool.submit(place)))
        sizes = torch.from_numpy(plan.sizes[micro_batch.images])
        labels = torch.from_numpy(self._labels[micro_batch.images])
        pixels = torch.from_numpy(canvas).permute(0, 3, 1, 2)  # (N, 3, H, W), channels_last in memory
        return _Pending(jobs, PaddedBatch(pixels, sizes, labels, micro_batch.images))

    def _targets_of(self, plan: EpochPlan, rows: npt.NDArray[np.int64]) -> Sizes:
        """The shapes to which whole pictures are resized in an epoch, (n, 2), before crop and turn."""
        targets = self._targets[rows]
        return targets if plan.scales is None else scaled(targets, plan.scales[rows])

    def _is_giant(self, image: int, target: Shape) -> bool:
        """Whether decoding a picture takes more memory than all decoders may take while the network computes."""
        original = _shape(self._index.sizes[image])
        if decode_peak_bytes(original, target) <= DECODE_BYTES:
            return False
        return _loading_need(self._index.path(image), original, target) > DECODE_BYTES

    def _require_planned(self, plan: EpochPlan, micro_batch: MicroBatch) -> None:
        """Refuse a plan for other shapes than the pictures have, since padding would count as picture."""
        rows = micro_batch.images
        shown = self._targets[rows] if self._augment is None else self._geometry.crop(self._targets[rows])
        shown = shown if plan.scales is None else scaled(shown, plan.scales[rows])
        shown = np.where(plan.turns[rows, None] % 2 == 1, shown[:, ::-1], shown)
        wrong = np.flatnonzero((shown != plan.sizes[rows]).any(axis=1))
        if len(wrong):
            row = rows[wrong[0]]
            raise PlanError(
                f"The plan does not fit the loader's geometry: {self._index.keys[row]} is planned as "
                f"{_shape(plan.sizes[row])} but will be {_shape(shown[wrong[0]])}; plan geometry.resize(index.sizes), "
                "cropped by geometry.crop where pictures are augmented."
            )

    def _place(self, slot: npt.NDArray[np.uint8], plan: EpochPlan, image: int, target: Shape) -> None:
        """Decode one image, resized to `target`, into its slot (H, W, 3) of the canvas."""
        original = _shape(self._index.sizes[image])
        try:
            with self._gate.hold(_loading_need(self._index.path(image), original, target)):
                picture = self._changed(self._decode(image, target), plan, image)
                slot[: picture.shape[0], : picture.shape[1]] = picture
        except ImageError as error:
            raise UndecodableError(self._index.keys[image], error, image) from error

    def _changed(self, picture: Pixels, plan: EpochPlan, image: int) -> Pixels:
        """A picture as training shows it, in its planned shape."""
        if self._augment is None:
            return picture
        crop = _shape(plan.sizes[image][::-1] if plan.turns[image] % 2 else plan.sizes[image])
        rng = image_rng(plan.seed, plan.epoch, image)
        picture = augment(picture, crop=crop, turn=int(plan.turns[image]), rng=rng, config=self._augment)
        draws = streams(rng)
        picture = change_appearance(picture, self._augment, draws)
        if self._transform is None:
            return picture
        return self._transform.apply(picture, self._index.keys[image], draws.transform)

    def _mixed(self, batch: PaddedBatch, plan: EpochPlan) -> PaddedBatch:
        """A whole micro-batch after mixup or cutmix, in its own memory; a single picture stays as it is."""
        if self._augment is None or not self._augment.mixes or len(batch.images) == 1:
            return batch
        draws = [streams(image_rng(plan.seed, plan.epoch, int(image))).mixing for image in batch.images]
        canvas = batch.pixels.permute(0, 2, 3, 1).numpy()
        found = mix(canvas, [Shape(*size) for size in batch.sizes.tolist()], draws, self._augment)
        return replace(
            batch,
            other_labels=batch.labels[torch.from_numpy(found.partners)],
            label_weights=torch.from_numpy(found.weights),
        )

    def _decode(self, image: int, target: Shape) -> Pixels:
        if image in self._opened:
            return decode_opened(self._opened[image], target, self._index.choices.bits)
        return decode_row(self._index, image, target)


class _Job(NamedTuple):
    """The decoding of one picture, started or postponed."""

    place: Callable[[], None]
    future: Future[None] | None

    def finish(self) -> None:
        """Wait for it, or run it now if it was postponed or ran out of memory."""
        try:
            if self.future is not None:
                return self.future.result()
        except MemoryError:
            release_unused()
        return self.place()


@dataclass(frozen=True)
class _Pending:
    jobs: list[_Job]
    batch: PaddedBatch

    def result(self, failed: Callable[[UndecodableError], None] | None) -> PaddedBatch:
        """The decoded batch; without pictures that cannot be decoded, if `failed` is given."""
        whole = np.ones(len(self.jobs), dtype=bool)
        for slot, job in enumerate(self.jobs):
            try:
                job.finish()
            except UndecodableError as error:
                if failed is None:
                    raise
                failed(error)
                whole[slot] = False
        return self.batch if whole.all() else self.batch.of(whole)

    def cancel(self) -> None:
        """Start nothing more."""
        for job in self.jobs:
            if job.future is not None:
                job.future.cancel()
