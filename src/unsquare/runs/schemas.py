"""The schema of every JSON file of a run, with the range that each number may have; `rows` has those of metrics.

A file is checked once, when it is read (`reading`). Members that are not listed here are ignored, so that a later
release may add some; those with a default may be missing. Numbers are bounded by what 64 bits and a page can hold, not
by what is usual.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Final, Literal

from msgspec import Meta, Struct, to_builtins

from unsquare.memory.model import Amount, MemoryModel
from unsquare.plan.config import Limits

PLAN_VERSION: Final = 2
PROFILE_VERSION: Final = 2
COMPARISON_VERSION: Final = 1

Count = Annotated[int, Meta(ge=0, le=1 << 60)]
Positive = Annotated[int, Meta(ge=1, le=1 << 60)]
SidePixels = Annotated[int, Meta(ge=1, le=1 << 30)]
CeilingPixels = Annotated[int, Meta(ge=0, le=1 << 62)]
Share = Annotated[float, Meta(ge=0, le=1)]
FiniteNumber = Annotated[float, Meta(ge=-1e100, le=1e100)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
BatchShape = tuple[Positive, SidePixels, SidePixels]
"""Images, height, width."""
MeasuredBatch = tuple[Positive, SidePixels, SidePixels, Amount, str]
"""Images, height, width, peak bytes, and the name of the strategy."""


class BucketRow(Struct):
    """A bucket of the first epoch's ledger."""

    canvas: tuple[SidePixels, SidePixels]
    num_images: Count = 0
    num_micro_batches: Count = 0
    smallest_batch: Count | None = None
    median_batch: Amount | None = None
    largest_batch: Count | None = None
    padding_overhead: FiniteNumber | None = None
    class_skew: FiniteNumber | None = None


class LedgerRow(Struct):
    """The first epoch's ledger."""

    padding_overhead: FiniteNumber
    num_images: Count | None = None
    num_steps: Count | None = None
    num_micro_batches: Count | None = None
    num_canvases: Count | None = None
    real_pixels: Amount | None = None
    computed_pixels: Amount | None = None
    max_micro_batch_pixels: Amount | None = None
    mean_fill: FiniteNumber | None = None
    median_fill: FiniteNumber | None = None
    rank_imbalance: FiniteNumber | None = None
    predicted_s: Amount | None = None
    step_class_skew: FiniteNumber | None = None
    chance_class_skew: FiniteNumber | None = None
    buckets: list[BucketRow] = []


class PlanFile(Struct):
    """`plan.json`: ledger and micro-batches of the first epoch at full size."""

    version: Literal[2]
    config: dict[str, Any]
    limits: Limits
    ledger: LedgerRow
    micro_batches: Annotated[list[BatchShape], Meta(min_length=1)]
    remarks: list[str] = []
    """What about the plan may keep the network from learning well."""


class SweepLine(Struct, frozen=True):
    """A batch of a profile's sweep."""

    images: Positive
    peak_bytes: Annotated[float, Meta(gt=0, le=1e20)]
    """The highest of a few training steps, measured."""
    predicted_bytes: Amount
    """The peak that the memory profile predicts."""
    seconds: Amount
    """Median time of a step."""


class SweepSection(Struct, frozen=True):
    """Batches of one canvas, larger and larger."""

    canvas: tuple[SidePixels, SidePixels]
    """Height and width of every image, in pixels."""
    strategy: str
    """How the network was run, by name."""
    steps_each: Count
    """Training steps that were run with each batch."""
    memory: MemoryModel
    """What peaks are predicted by."""
    limit_bytes: Amount | None
    """The most that the process may take."""
    rows: Annotated[tuple[SweepLine, ...], Meta(min_length=1)]
    """The batches that fit, by growing number of images."""
    failed_images: Positive | None
    """Images of the smallest batch that did not fit; None where all did."""
    failure: str | None
    """Why it did not fit."""
    largest_images: Positive
    """Images of the largest batch that fits."""
    predicted_images: Count
    """The most images that were predicted to fit."""


class LayerRow(Struct, frozen=True):
    """What a layer holds at the peak, in bytes."""

    name: str
    type: str
    activations: Amount
    """What its own code made and is still held: maps saved for backward, and gradients of maps where those are held."""
    weights: Amount


class AttributionRow(Struct, frozen=True):
    """What the memory of a batch is made of, at its peak."""

    images: Positive
    canvas: tuple[SidePixels, SidePixels]
    """Height and width of every image, in pixels."""
    strategy: str
    """How the network was run, by name."""
    peak_bytes: Annotated[float, Meta(gt=0, le=1e20)]
    """Of the whole process on a CPU, of the device's allocator otherwise."""
    phase: str
    """When the peak was reached, such as "backward"; empty between passes."""
    at: str
    """The module whose code ran then; empty for the input."""
    kinds: tuple[tuple[str, FiniteNumber], ...]
    """Bytes by kind of memory; they add up to the peak."""
    layers: tuple[LayerRow, ...]
    """Modules that hold any, by falling bytes."""


class WatchColumns(Struct, frozen=True):
    """Memory against time, in columns of one length."""

    time_s: list[Amount]
    resident_bytes: list[Amount | None]
    allocated_bytes: list[Amount | None]
    reserved_bytes: list[Amount | None]
    step: list[Count | None]
    images: list[Count | None]
    height: list[Count | None]
    width: list[Count | None]
    phase: list[str | None]

    def __post_init__(self) -> None:
        if len({len(column) for column in (getattr(self, name) for name in self.__struct_fields__)}) > 1:
            raise ValueError("Columns differ in length")


class PlannedMemory(Struct, frozen=True):
    """What a run's plans count on in training, which is less than what fits."""

    budget_bytes: Positive
    reserved_bytes: Count
    """What decoding may take of the budget."""
    keeps_heap: bool
    """Whether the heap keeps freed memory, which is faster and may take twice the memory."""
    held_pixels: Count
    """The most computed pixels of a micro-batch of several images."""
    most_images: Positive | None
    """The most images of a micro-batch; None where memory alone bounds them."""


class NetworkProfile(Struct, frozen=True, kw_only=True):
    """`profile.json`: where a network's memory goes, and how many images fit."""

    version: Literal[2] = PROFILE_VERSION
    subject: str
    """What was profiled: the name of a run, or of a network of timm."""
    backbone: str
    device: str
    precision: str
    budget_bytes: Annotated[float, Meta(gt=0, le=1e20)]
    sweep: SweepSection | None = None
    attribution: AttributionRow | None = None
    """None where no batch could be taken apart within the memory."""
    watch: WatchColumns | None = None
    """Memory over the time of the sweep."""
    run: PlannedMemory | None = None
    """None of a network without a run, or where its limits were pinned or are not known yet."""

    def to_dict(self) -> dict[str, Any]:
        """The content of `profile.json`: plain values, ready for JSON."""
        return _to_dict(self, NetworkProfile)


class ProfileResult(NetworkProfile, frozen=True, kw_only=True):
    """What `profile` found, and the page that shows it.

    Its fields are the content of `profile.json`: `sweep` has the batches that were tried, `attribution` the layers and
    kinds of memory that hold the peak (None where no batch could be taken apart), `watch` memory against time, and
    `run` what the run's plans count on (None without a run). Memory is in bytes, time in seconds.

    Example:
        >>> found = unsquare.profile("test_resnet", canvas=(512, 512))  # doctest: +SKIP
        >>> found.sweep.rows[0].images
        1
        >>> found.sweep.canvas == (512, 512)
        True
    """

    sweep: SweepSection
    page: Path


class ComparedPlan(Struct, frozen=True):
    """The plan of a run's first epoch, and what it asks of the memory."""

    name: str
    """That of the run folder."""
    budget_bytes: Amount | None
    """The memory budget of a rank; None where the limits were pinned."""
    ledger: dict[str, Any]
    """As in `plan.json`."""
    micro_batches: list[BatchShape]
    """Images, height and width of each."""
    predicted_bytes: list[Amount] | None
    """The predicted peak of each micro-batch; None where memory was not measured."""
    measured_bytes: list[MeasuredBatch]
    """Measured peaks: images, height, width, bytes, and the name of the strategy."""
    fills: list[Amount]
    """Pixels of each micro-batch over the most that its strategy holds."""
    seconds: Amount | None
    """Predicted time of an epoch."""


class PlanComparison(Struct, frozen=True, kw_only=True):
    """What the plans of two runs ask of the memory, side by side: the one before, and the one after."""

    version: Literal[1] = COMPARISON_VERSION
    plans: tuple[ComparedPlan, ComparedPlan]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return _to_dict(self, PlanComparison)


class ComparisonResult(PlanComparison, frozen=True, kw_only=True):
    """What `compare` found of two runs' plans, and the page that shows it.

    Example:
        >>> found = unsquare.compare("runs/photos", "runs/photos")
        >>> [plan.name for plan in found.plans]
        ['photos', 'photos']
        >>> found.plans[0].ledger["num_images"]
        8
    """

    page: Path


def _to_dict(value: Struct, schema: type[Struct]) -> dict[str, Any]:
    """The schema's fields of a value as plain values: what is written does not name the page that shows it."""
    values: dict[str, Any] = to_builtins({name: getattr(value, name) for name in schema.__struct_fields__})
    return values


class Manifest(Struct):
    """`manifest.json` of a checkpoint: the checksums of its files."""

    version: Literal[1]
    sha256: dict[str, Digest]


class Origin(Struct):
    """What a checkpoint was trained from: enough to see what has changed since, and to restore what is lost."""

    settings: dict[str, dict[str, Any]]
    """The settings in `config.toml`."""
    bounds: dict[str, Any]
    """The content of `models.json`, a `RunLimits`."""
    index_sha256: Digest
    source: str
    """Absolute path of the source."""
    source_sha256: Digest | None = None
    """Checksum of a source that is a file."""


class Mark(Struct):
    """The end of `metrics.jsonl` when a checkpoint was written."""

    num_bytes: Count
    sha256: Digest


class State(Struct, kw_only=True):
    """`state.json` of a checkpoint: the state of the run besides its tensors."""

    version: Literal[1]
    step: Count
    epoch: Count
    step_of_epoch: Count
    time_s: Amount
    best_score: Annotated[float, Meta(ge=-1, le=1)]
    best_loss: FiniteNumber | None = None
    ceiling_pixels: CeilingPixels
    ceiling_steps: Count
    planned_pixels: CeilingPixels
    waits_from: Count | None = None
    least_pixels: CeilingPixels = 0
    largest_pixels: Annotated[int, Meta(ge=1)] | None = None
    max_pixels: Annotated[int, Meta(ge=1)] | None = None
    optimizer: dict[str, Any]
    origin: Origin | None = None
    """None in checkpoints of releases that did not write it."""
    metrics: Mark | None = None
