"""The settings of a run: one tree of frozen dataclasses, the same for flags, TOML and Python."""

from __future__ import annotations

import types
import typing
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import tomli_w

from unsquare.data.augment import AugmentConfig
from unsquare.errors import ConfigError
from unsquare.memory.budget import parse_bytes
from unsquare.memory.way import RUNGS, RungName
from unsquare.plan.config import PlanConfig
from unsquare.shapes import Geometry
from unsquare.toml import tomllib
from unsquare.training.model import ModelConfig
from unsquare.training.scaling import LearningRateConfig

Config = TypeVar("Config")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights move."""

    epochs: int = 30
    """Passes over the training images."""
    optimizer: str = "adamw"
    """Any optimizer that timm knows by name."""
    weight_decay: float = 0.05
    """Decoupled weight decay; not applied to biases and norms."""
    clip_norm: float = 1.0
    """The gradient's norm is clipped to this; 0 leaves it."""
    label_smoothing: float = 0.0
    """Part of each label's weight spread over all classes."""

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ConfigError(f"epochs must be at least 1, but is {self.epochs}.")
        if not 0 <= self.label_smoothing < 1:
            raise ConfigError(f"label_smoothing must be at least 0 and below 1, but is {self.label_smoothing}.")
        for name in ("weight_decay", "clip_norm"):
            if not getattr(self, name) >= 0:
                raise ConfigError(f"{name} must be at least 0, but is {getattr(self, name)}.")


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
    budget_pixels: int | None = None
    """The most computed pixels of a micro-batch; None measures it. Pinned, nothing is probed and the plan is the
    same on every machine."""
    launch_pixels: int = 500_000
    """The cost of one more micro-batch as pixels, where `budget_pixels` is pinned."""
    workers: int | None = None
    """Threads that decode images; None takes one per core."""

    def __post_init__(self) -> None:
        if self.memory is not None:
            parse_bytes(self.memory, available=1)
        if RUNGS.index(self.lowest_rung) > RUNGS.index(self.highest_rung):
            raise ConfigError(
                f"highest_rung must not be below lowest_rung, but they are {self.highest_rung} and {self.lowest_rung}; "
                f"the order is {', '.join(RUNGS)}."
            )
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"workers must be at least 1, but is {self.workers}; leave it out for one per core.")


@dataclass(frozen=True, kw_only=True)
class SavingConfig:
    """What is evaluated and saved, and when."""

    validation_fraction: float = 0.2
    """Part of the training images held out, class by class, where the source has no val split."""
    evaluate_every: int = 1
    """Epochs between evaluations on the val split; the last epoch is always evaluated."""
    checkpoint_every_s: float = 600.0
    """Seconds between checkpoints in mid-epoch; one is always written at the end of an epoch."""
    checkpoint_every_steps: int = 0
    """Steps between checkpoints in mid-epoch; 0 goes by the clock alone."""
    skip_bad: bool = False
    """Leave out files that cannot be read, instead of refusing to start."""

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise ConfigError(f"validation_fraction must be between 0 and 1, but is {self.validation_fraction}.")
        if self.evaluate_every < 1:
            raise ConfigError(f"evaluate_every must be at least 1, but is {self.evaluate_every}.")


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
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} must be a TOML file, but it is not: {error}.") from error
    return _build(TrainConfig, values, where)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return str(value) if isinstance(value, Path) else value


def _build(kind: type[Config], values: Mapping[str, Any], where: str) -> Config:
    hints = typing.get_type_hints(kind)
    known = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    for name in values:
        if name not in known:
            raise ConfigError(f"{where} has no setting {name!r} here; the settings are {', '.join(known)}.")
    return kind(**{name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    """A TOML value as the type of its field."""
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table of settings, but is {value!r}.")
        return _build(hint, value, where)
    allowed = [hint]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        allowed = [option for option in typing.get_args(hint) if option is not type(None)]
    for option in allowed:
        origin = typing.get_origin(option)
        if origin is Literal and value in typing.get_args(option):
            return value
        if origin is tuple and isinstance(value, list):
            inner = typing.get_args(option)[0]
            return tuple(_convert(inner, item, where) for item in value)
        if option is Path and isinstance(value, str):
            return Path(value)
        if option is float and type(value) in (int, float):
            return float(value)
        if option is int and isinstance(value, float) and value.is_integer():
            return int(value)  # 16e6 is a float in TOML
        if isinstance(option, type) and type(value) is option:
            return value
    raise ConfigError(f"{where} must be {_name(hint)}, but is {value!r}.")


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
