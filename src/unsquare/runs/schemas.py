"""The schema of every JSON file of a run, with the range that each number may have.

A file is checked once, when it is read (`reading`). Members that are not listed here are ignored, so that a later
release may add some; those with a default may be missing. Only rows of metrics must have no others: a damaged name
would silently become a default. Numbers are bounded by what 64 bits and a page can hold, not by what is usual.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from unsquare.memory.model import Amount
from unsquare.plan.config import Limits

PLAN_VERSION, PROFILE_VERSION, COMPARISON_VERSION = 2, 2, 1

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


class MemoryLine(Struct):
    """`memory.model.MemoryModel` as it is written to files."""

    version: Literal[2]
    fixed_bytes: Amount
    bytes_per_pixel: Amount
    bytes_per_image: Amount


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
    """`plan.json`: the first epoch's ledger and micro-batches."""

    version: Literal[2]
    config: dict[str, Any]
    limits: Limits
    ledger: LedgerRow
    micro_batches: Annotated[list[BatchShape], Meta(min_length=1)]


class StepRow(Struct, tag_field="kind", tag="step", forbid_unknown_fields=True):
    """A row of `metrics.jsonl`: one optimizer step."""

    step: Positive
    epoch: Amount
    time_s: Amount
    loss: FiniteNumber
    accuracy: Share
    learning_rate: FiniteNumber
    num_images: Positive
    gradient_norm: Amount | None = None
    """None where it was not a finite number."""
    num_micro_batches: Count = 0
    real_pixels: Count = 0
    computed_pixels: Count = 0
    data_wait_s: Amount = 0.0
    step_s: Amount = 0.0
    shortages: Count = 0
    micro_batches: list[BatchShape] = []
    measured: list[MeasuredBatch] = []


class EvaluationRow(Struct, tag_field="kind", tag="eval", forbid_unknown_fields=True):
    """A row of `metrics.jsonl`: an evaluation during training."""

    step: Count
    epoch: Amount
    time_s: Amount
    split: str
    loss: FiniteNumber
    accuracy: Share
    mean_per_class_accuracy: Share
    num_images: Positive
    seconds: Amount = 0.0


class FinalRow(EvaluationRow, tag_field="kind", tag="final", forbid_unknown_fields=True):
    """A row of `metrics.jsonl`: the evaluation of the best weights, after training."""


class StartRow(Struct, tag_field="kind", tag="start", forbid_unknown_fields=True):
    """A row of `metrics.jsonl`: a process started to train, or resumed."""

    step: Count
    """Steps done before."""
    time_s: Amount
    seconds: Amount
    """From the call to the first step: reading headers, creating the network, measuring, planning."""


MetricsRow = StepRow | EvaluationRow | FinalRow | StartRow


class SweepLine(Struct):
    """A batch of a profile's sweep."""

    images: Positive
    peak_bytes: Annotated[float, Meta(gt=0, le=1e20)]
    predicted_bytes: Amount
    seconds: Amount


class SweepSection(Struct):
    """Batches of growing size on one canvas."""

    canvas: tuple[SidePixels, SidePixels]
    strategy: str
    steps_each: Count
    memory: MemoryLine
    limit_bytes: Amount | None
    rows: Annotated[list[SweepLine], Meta(min_length=1)]
    failed_images: Positive | None
    failure: str | None
    largest_images: Positive
    predicted_images: Count


class LayerRow(Struct):
    """The memory that a layer holds."""

    name: str
    type: str
    activations: Amount
    weights: Amount


class AttributionRow(Struct):
    """The memory of a batch, by kind and by layer."""

    images: Positive
    canvas: tuple[SidePixels, SidePixels]
    strategy: str
    peak_bytes: Annotated[float, Meta(gt=0, le=1e20)]
    phase: str
    at: str
    kinds: list[tuple[str, FiniteNumber]]
    layers: list[LayerRow]


class WatchColumns(Struct):
    """Memory over time, in columns."""

    time_s: list[Amount]
    resident_bytes: list[Amount | None]
    allocated_bytes: list[Amount | None]
    reserved_bytes: list[Amount | None]
    images: list[Count | None]
    height: list[Count | None]
    width: list[Count | None]
    phase: list[str | None]

    def __post_init__(self) -> None:
        if len({len(column) for column in (getattr(self, name) for name in self.__struct_fields__)}) > 1:
            raise ValueError("Columns differ in length")


class ProfileFile(Struct):
    """`profile.json`: what `unsquare profile` found."""

    version: Literal[2]
    subject: str
    backbone: str
    device: str
    precision: str
    budget_bytes: Annotated[float, Meta(gt=0, le=1e20)]
    sweep: SweepSection | None = None
    attribution: AttributionRow | None = None
    watch: WatchColumns | None = None


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
    ceiling_pixels: CeilingPixels
    ceiling_steps: Count
    planned_pixels: CeilingPixels
    optimizer: dict[str, Any]
    origin: Origin | None = None
    """None in checkpoints of releases that did not write it."""
    metrics: Mark | None = None
