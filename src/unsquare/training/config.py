"""The settings of a run: one tree of frozen dataclasses, the same for flags, TOML and Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w

from unsquare.data.augment import AugmentConfig
from unsquare.errors import ConfigError
from unsquare.memory.budget import parse_bytes
from unsquare.memory.way import RUNGS, RungName
from unsquare.plan.config import MOST_BUDGET_PIXELS, MOST_LAUNCH_PIXELS, MOST_STEP, PlanConfig
from unsquare.settings import MOST_WORKERS, Range, changed, check_settings, meant
from unsquare.shapes import Geometry
from unsquare.toml import tomllib
from unsquare.training.model import ModelConfig
from unsquare.training.scaling import MOST_EPOCHS, LearningRateConfig


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights move."""

    epochs: Annotated[int, Range(1, MOST_EPOCHS)] = 30
    """Passes over the training images."""
    optimizer: str = "adamw"
    """Any optimizer of timm's by name that works with gradients alone."""
    weight_decay: Annotated[float, Range(0, 1e6)] = 0.05
    """Decoupled weight decay; not applied to biases and norms. At a million nothing is left of a weight at any rate."""
    clip_norm: Annotated[float, Range(0, 1e30)] = 1.0
    """The gradient's norm is clipped to this; 0 leaves it, as would more than 1e30, beyond which float32 ends."""
    label_smoothing: Annotated[float, Range(0, below=1)] = 0.0
    """Part of each label's weight spread over all classes."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where the network runs, and how much memory it may take there."""

    memory: str | None = None
    """The budget, such as 8GiB, or a part of what is there, such as 80%: of the whole process on a CPU, of the device
    on a GPU; None takes what is free."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes the best there is."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """auto takes bf16 where the device multiplies in bf16 natively, fp32 elsewhere."""
    lowest_rung: RungName = "plain"
    """How all micro-batches are run: plain, or by a way that takes less memory and more time (see highest_rung)."""
    highest_rung: RungName = "stream"
    """How images that do not fit may be run, each alone, by the lowest of these that holds them: plain, bf16 (where the
    precision is left open), checkpoint (activations are computed again), offload (what is kept is kept in the host's
    memory or a file), stream (piece by piece)."""
    reuse_probes: bool = True
    """Remember what probes showed, in the user's cache folder, and do without them the next time."""
    budget_pixels: Annotated[int, Range(1, MOST_BUDGET_PIXELS)] | None = None
    """The most computed pixels of a micro-batch; None measures it. Pinned, nothing is probed and the plan is the
    same on every machine."""
    launch_pixels: Annotated[int, Range(0, MOST_LAUNCH_PIXELS)] = 500_000
    """The cost of one more micro-batch as pixels, where `budget_pixels` is pinned."""
    workers: Annotated[int, Range(1, MOST_WORKERS)] | None = None
    """Threads that decode images; None takes one per core."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.memory is not None:
            parse_bytes(self.memory, available=1)
        if RUNGS.index(self.lowest_rung) > RUNGS.index(self.highest_rung):
            raise ConfigError(
                f"highest_rung must not be below lowest_rung, but they are {self.highest_rung} and {self.lowest_rung}; "
                f"the order is {', '.join(RUNGS)}."
            )


@dataclass(frozen=True, kw_only=True)
class SavingConfig:
    """What is evaluated and saved, and when."""

    validation_fraction: Annotated[float, Range(above=0, below=1)] = 0.2
    """Part of the training images held out, class by class, where the source has no val split."""
    evaluate_every: Annotated[int, Range(1, MOST_EPOCHS)] = 1
    """Epochs between evaluations on the val split; the last epoch is always evaluated."""
    checkpoint_every_s: Annotated[float, Range(0, 1e9)] = 600.0
    """Seconds between checkpoints in mid-epoch, up to 1e9, which are thirty years; one is always written at the end of
    an epoch."""
    checkpoint_every_steps: Annotated[int, Range(0, MOST_STEP)] = 0
    """Steps between checkpoints in mid-epoch; 0 goes by the clock alone."""
    skip_bad: bool = False
    """Leave out files that cannot be read, instead of refusing to start."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a run."""

    geometry: Geometry = field(default_factory=Geometry)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)

    def __post_init__(self) -> None:
        check_settings(self)


def to_toml(config: TrainConfig) -> str:
    """The settings as a TOML text; a setting that is None is left out."""
    return tomli_w.dumps(_without_none(asdict(config)))


def from_toml(text: str, where: str) -> TrainConfig:
    """The settings that a TOML text holds; what it leaves out has its default.

    Raises:
        ConfigError: the text is not TOML, or names a setting that does not exist or has another type.
    """
    try:
        values = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: numbers of thousands of digits, too
        raise ConfigError(f"{where} must be a TOML file, but it is not: {error}.") from error
    parts: dict[str, Any] = {}
    for name, part in values.items():
        settings = getattr(TrainConfig(), name, None)
        if not is_dataclass(settings) or isinstance(settings, type):
            known = [entry.name for entry in fields(TrainConfig)]
            raise ConfigError(f"{where} has no setting {name!r} here; {meant(name, known)}")
        if not isinstance(part, Mapping):
            raise ConfigError(f"{where}: {name} must be a table of settings, but is {part!r}.")
        try:
            parts[name] = changed(settings, part)
        except ConfigError as error:
            raise ConfigError(f"In {where}, table {name}: {error}") from error
    return TrainConfig(**parts)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return str(value) if isinstance(value, Path) else value
