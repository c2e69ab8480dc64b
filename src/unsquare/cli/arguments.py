"""The arguments of each command. Nothing here loads torch, so that help and mistakes are answered at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from unsquare.cli.parsing import Arguments, Positional
from unsquare.demo.materials import MaterialsConfig
from unsquare.execution.strategy import StrategyName
from unsquare.index.targets import TaskConfig
from unsquare.network.config import Norm
from unsquare.plan.config import (
    MOST_BUDGET_PIXELS,
    MOST_LAUNCH_PIXELS,
    MOST_RANKS,
    MOST_STEP,
    EpochNumber,
    PlanConfig,
)
from unsquare.settings import MOST_WORKERS, PixelCount, Range, Seed
from unsquare.shapes import Geometry
from unsquare.training.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class DeviceArguments:
    """Where a trained run is used; what is left out is as in the run's own settings."""

    memory: str | None = None
    """Memory budget, such as 8GiB or 80% (default: what is free)."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] | None = None
    """Device: auto, cpu, cuda or mps (default: the run's)."""
    precision: Literal["auto", "bf16-mixed", "32-true"] | None = None
    """Numeric precision: auto, bf16-mixed or 32-true (default: the run's)."""
    budget_pixels: Annotated[PixelCount, Range(1, MOST_BUDGET_PIXELS)] | None = None
    """Pixels of a micro-batch, at most (default: measured)."""
    workers: Annotated[int, Range(1, MOST_WORKERS)] | None = None
    """Threads that decode images (default: one per core)."""

    def given(self) -> dict[str, Any]:
        """The settings that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class LimitsArguments:
    """What the machine allows; what is left out is as training measured it on this machine last."""

    budget_pixels: Annotated[PixelCount, Range(1, MOST_BUDGET_PIXELS)] | None = None
    """Pixels of a micro-batch, at most (default: as measured here last). Given alone, a launch costs 500,000 pixels, as
    in `unsquare train --budget-pixels`."""
    launch_pixels: Annotated[PixelCount, Range(0, MOST_LAUNCH_PIXELS)] | None = None
    """Cost of one more micro-batch in pixels: much on an accelerator, little on a CPU."""
    pixels_per_s: Annotated[PixelCount, Range(1, MOST_STEP)] | None = None
    """Pixels that a rank computes in a second; for predicted times alone."""
    world_size: Annotated[int, Range(1, MOST_RANKS)] | None = None
    """Number of ranks (processes) that share each step (default: 1)."""

    def given(self) -> dict[str, int]:
        """The fields of `Limits` that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class DemoArguments(Arguments):
    """Make pictures of six materials in every shape, train on them, evaluate and write the report."""

    COMMAND: ClassVar[str] = "demo"
    EXAMPLE: ClassVar[str] = "unsquare demo --out demo --compare"

    out: Path = Path("demo")
    """Folder to create, for pictures, run and report."""
    compare: bool = False
    """Compare the test accuracy of four ways to train instead. They are native shapes, squashed squares, zero-padded
    random batches, and width and height alone."""
    num_train: int = MaterialsConfig.num_train
    """Number of training pictures."""
    num_val: int = MaterialsConfig.num_val
    """Number of validation pictures."""
    num_test: int = MaterialsConfig.num_test
    """Number of test pictures."""
    mean_pixels: PixelCount = MaterialsConfig.mean_pixels
    """Mean size of a picture."""
    epochs: int = 8
    """Passes over the training pictures."""
    lr: float = 3e-3
    """Peak learning rate; with --compare, each way to train tries several."""
    backbone: str = "resnet10t"
    """Convolutional timm model."""
    memory: str | None = None
    """Memory budget, such as 8GiB or 80% (default: what is free)."""
    seed: int = 0
    """Random seed of the pictures and the run."""


@dataclass(frozen=True, kw_only=True)
class ScanArguments(Arguments):
    """Index a source of pictures: shapes, labels and splits, by reading headers alone."""

    COMMAND: ClassVar[str] = "scan"
    EXAMPLE: ClassVar[str] = "unsquare scan photos --out photos.parquet"

    source: Positional[Path]
    """Folder of class folders, CSV or Parquet manifest, or MAMe's folder or CSV."""
    out: Path = Path("index.parquet")
    """Index to write, or to update. An index that exists is updated: only new or changed files are read. A file that is
    no index is refused."""
    workers: Annotated[int, Range(1, MOST_WORKERS)] | None = None
    """Threads that read files (default: chosen for the machine)."""
    pages: Literal["refuse", "first"] = "refuse"
    """What to do with TIFFs of several pages: refuse, or take the first."""
    bits: Annotated[int, Range(8, 16)] | None = None
    """Bits that 16-bit TIFF and PNG really use, such as 12 (default: 16). 12 shows 0 to 4095 as black to
    white, 16 the declared range. None shows the declared range, and files that use less than a quarter of it are
    problems."""
    verify: bool = False
    """Also decode every picture, and list those that fail."""
    duplicates: bool = False
    """Also decode every picture, and list those that look the same. Near-duplicates in two splits come first; those
    that no split tears apart become groups of the index, so that a val split drawn from it keeps them together."""
    json: bool = False
    """Print one JSON object and nothing else."""
    task: TaskConfig = field(default_factory=TaskConfig)


@dataclass(frozen=True, kw_only=True)
class PlanArguments(Arguments):
    """Show how an epoch would be batched, and what of it is padding."""

    COMMAND: ClassVar[str] = "plan"
    EXAMPLE: ClassVar[str] = "unsquare plan photos --steps b2b --buckets 32 --max-pixels 16MP --budget-pixels 64MP"

    index: Positional[Path]
    """Index made by `unsquare scan`, or any source that it accepts."""
    split: str | None = None
    """Split to plan: train, val or test (default: train where there is one, else all)."""
    epoch: EpochNumber = 0
    """Epoch to plan; each has another order."""
    turns: bool = False
    """Plan for random quarter turns."""
    limits_of: Path | None = None
    """Use the limits measured by this run instead of flags for limits. Fallbacks for larger images are included."""
    json: bool = False
    """Print one JSON object and nothing else."""
    html: Path | None = None
    """Write a page that shows the plan, and what other choices would cost."""
    geometry: Geometry = field(default_factory=Geometry)
    plan: PlanConfig = field(default_factory=PlanConfig)
    limits: LimitsArguments = field(default_factory=LimitsArguments)


@dataclass(frozen=True, kw_only=True)
class TrainArguments(Arguments):
    """Train a classifier on pictures as they are, evaluate it and write the report."""

    COMMAND: ClassVar[str] = "train"
    EXAMPLE: ClassVar[str] = "unsquare train photos --out runs/photos --backbone resnet18 --epochs 30 --memory 8GiB"
    FIRST: ClassVar[tuple[str, ...]] = (
        *("out", "epochs", "backbone", "pretrained", "weights", "lr", "max_pixels", "memory", "resume", "config"),
    )

    source: Positional[Path | None] = None
    """Folder of class folders, manifest, or index. A manifest is CSV or Parquet, an index is made by `unsquare scan`;
    MAMe's folder is a source, too."""
    out: Path | None = None
    """Run folder to create, or to continue. The same command continues a run that is not finished."""
    resume: Path | None = None
    """Continue this run with its own source and settings. More --epochs train a finished run for longer."""
    config: Path | None = None
    """TOML file of settings; flags override it. A run's config.toml is one."""
    settings: TrainConfig = field(default_factory=TrainConfig)
    changed_pictures: bool = False
    """Accept pictures that changed since the run started, when it continues."""


@dataclass(frozen=True, kw_only=True)
class FindLrArguments(Arguments):
    """Find a learning rate: train a few steps at rising rates until the loss diverges, and draw it.

    Pictures, network and steps are those of `unsquare train` with the same flags; nothing but the page is kept.
    """

    COMMAND: ClassVar[str] = "find-lr"
    EXAMPLE: ClassVar[str] = "unsquare find-lr photos --backbone resnet18 --optimizer sgd"
    FIRST: ClassVar[tuple[str, ...]] = ("out", "num_steps", "lowest", "highest", "json", "backbone", "memory", "config")
    UNLISTED: ClassVar[tuple[str, ...]] = (
        *("folds", "fold", "patience", "ema"),
        *("evaluate_every", "checkpoint_every_s", "checkpoint_every_steps"),
    )

    source: Positional[Path]
    """Pictures: any source that `unsquare train` accepts."""
    config: Path | None = None
    """TOML file of settings; flags override it. A run's config.toml is one."""
    out: Path = Path("learning-rate.html")
    """Page to write."""
    num_steps: Annotated[int, Range(10, 100_000)] = 100
    """Steps, each at a higher rate than the one before."""
    lowest: Annotated[float, Range(above=0, most=1e6)] = 1e-6
    """Learning rate of the first step."""
    highest: Annotated[float, Range(above=0, most=1e6)] = 1.0
    """Learning rate of the last step, unless the loss diverges before."""
    json: bool = False
    """Print one JSON object and nothing else."""
    settings: TrainConfig = field(default_factory=TrainConfig)


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments(Arguments):
    """Measure a run's accuracy on pictures with labels, each picture whole."""

    COMMAND: ClassVar[str] = "evaluate"
    EXAMPLE: ClassVar[str] = "unsquare evaluate runs/photos photos --split val --out results"

    run: Positional[Path]
    """Run folder."""
    source: Positional[Path]
    """Pictures of the run's classes: any source that `unsquare train` accepts."""
    split: str | None = None
    """Split to evaluate: train, val, test or all (default: test, else val, else all)."""
    out: Path | None = None
    """Folder for predictions.csv, and for per_class.csv and confusion.csv where the task has them."""
    skip_bad: bool = False
    """Skip files that cannot be read."""
    json: bool = False
    """Print one JSON object and nothing else."""
    device: DeviceArguments = field(default_factory=DeviceArguments)


@dataclass(frozen=True, kw_only=True)
class PredictArguments(Arguments):
    """Print the most probable classes of pictures, each seen whole."""

    COMMAND: ClassVar[str] = "predict"
    EXAMPLE: ClassVar[str] = "unsquare predict runs/photos one.jpg another.png --top 3"

    run: Positional[Path]
    """Run folder."""
    images: Positional[tuple[Path, ...]] = ()
    """Image files, or folders of them."""
    top: int | None = None
    """Number of classes or labels for each picture (default: 5 classes, or labels of at least 50 %)."""
    json: bool = False
    """Print one JSON object and nothing else."""
    device: DeviceArguments = field(default_factory=DeviceArguments)


@dataclass(frozen=True, kw_only=True)
class ProfileArguments(Arguments):
    """Show which layers hold the memory of a network and how many images fit, or compare the plans of two runs.

    The network runs in a process of its own, which may run out of memory: the batch is doubled every three steps until
    it fails, and the largest that fits is searched for. Figures of a run go into its report.
    """

    COMMAND: ClassVar[str] = "profile"
    EXAMPLE: ClassVar[str] = "unsquare profile resnet18 --memory 4GiB --canvas 768x1024"

    subject: Positional[str]
    """Run folder, or timm model such as resnet18."""
    against: Path | None = None
    """Compare with the plan of this run, and run nothing."""
    canvas: str | None = None
    """Height and width of the images, such as 768x1024 (default: those of the run's median micro-batch, or 512x512)."""
    out: Path | None = None
    """Page to write (default: the run's report, or profile.html or comparison.html)."""
    json: bool = False
    """Print one JSON object and nothing else."""
    num_classes: Annotated[int, Range(1, 1 << 20)] = 10
    """Number of classes, for a timm model."""
    norm: Norm = "own"
    """Norm layers, for a timm model: own, frozen or group."""
    strategy: StrategyName | None = None
    """Execution strategy: plain, bf16, checkpoint, offload or tile (default: the run's)."""
    device: DeviceArguments = field(default_factory=DeviceArguments)


@dataclass(frozen=True, kw_only=True)
class ReportArguments(Arguments):
    """Write the report of a run again, also of a run that is still training."""

    COMMAND: ClassVar[str] = "report"
    EXAMPLE: ClassVar[str] = "unsquare report runs/photos"

    run: Positional[Path]
    """Run folder."""


@dataclass(frozen=True, kw_only=True)
class VerifyExactArguments(Arguments):
    """Measure how far a padded batch is from single images: by the exact network, and by naive padding beside it.

    Each network runs each image alone, unpadded, and then all of them padded on one canvas; the errors are largest
    difference / largest reference value, of the outputs and of the worst parameter's gradient. In training, the
    reference for batch norm takes its statistics over the real pixels of all images; dropout and stochastic depth are
    off, because they draw random numbers. timm models have random weights, every gain, bias and statistic away from 0
    and 1, where errors hide; nothing is downloaded without --pretrained. Networks of your own keep their weights. A
    network is ill-conditioned where rounding alone moves it so far that a leak could not be detected.

    The exit status is 0 where every network that converts is exact; 1 where one is not exact or cannot be run, or none
    converts. A network that is refused, with its reason, is no failure beside others.
    """

    COMMAND: ClassVar[str] = "verify-exact"
    EXAMPLE: ClassVar[str] = "unsquare verify-exact resnet50 efficientnet_b0 --sizes 97x131,128x160"

    models: Positional[tuple[str, ...]] = ()
    """timm models, or package.module:function for networks of your own. A class or function is called without arguments
    and looked up from this folder, too."""
    sizes: str | None = None
    """Heights and widths, such as 97x131,128x160 (default: random)."""
    images: Annotated[int, Range(2, 1024)] = 3
    """Number of random sizes."""
    max_side: Annotated[int, Range(16, 1 << 12)] = 160
    """Largest random side, in pixels."""
    seed: Seed = 0
    """Random seed of sizes, pixels and weights."""
    dtype: Literal["float64", "float32"] = "float64"
    """Data type: float64 or float32. float64 leaves rounding no excuse."""
    tolerance: Annotated[float, Range(0)] | None = None
    """Largest error that counts as exact (default: 1e-10 in float64, 1e-5 in float32)."""
    training: bool = True
    """Measure training as well as evaluation."""
    pretrained: bool = False
    """Use timm's pretrained weights."""
    json: bool = False
    """Print one JSON object and nothing else."""


ARGUMENTS: dict[str, type[Arguments]] = {
    kind.COMMAND: kind
    for kind in (
        *(DemoArguments, ScanArguments, PlanArguments, TrainArguments, FindLrArguments),
        *(EvaluateArguments, PredictArguments, ProfileArguments, ReportArguments, VerifyExactArguments),
    )
}
