"""The settings of a run: one tree of frozen dataclasses, the same for flags, TOML and Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any

import tomli_w

from unsquare.data.augment import AugmentConfig
from unsquare.errors import ConfigError
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.plan.config import MOST_STEP, PlanConfig
from unsquare.runs import upgrades
from unsquare.settings import MOST_EPOCHS, Range, changed, check_settings, meant
from unsquare.shapes import Geometry
from unsquare.toml import tomllib
from unsquare.training.resolution import ResolutionConfig
from unsquare.training.schedule import LearningRateConfig


@dataclass(frozen=True, kw_only=True)
class SavingConfig:
    """Evaluation and checkpoint settings.

    Example:
        >>> unsquare.SavingConfig(checkpoint_every_s=60).validation_fraction
        0.2
    """

    validation_fraction: Annotated[float, Range(above=0, below=1)] = 0.2
    """Fraction of the training images to validate on where the source has no val split. Held out class by class."""
    evaluate_every: Annotated[int, Range(1, MOST_EPOCHS)] = 1
    """Epochs between evaluations on the val split. The last epoch is always evaluated."""
    patience: Annotated[int, Range(1, MOST_EPOCHS)] | None = None
    """End after this many epochs without improvement on val (default: never). They count from the first epoch at full
    size on. The schedule of the learning rate stays that of all `epochs`."""
    checkpoint_every_s: Annotated[float, Range(0, 1e9)] = 600.0
    """Seconds between checkpoints within an epoch. One is always written at the end of an epoch; 1e9 seconds are thirty
    years."""
    checkpoint_every_steps: Annotated[int, Range(0, MOST_STEP)] = 0
    """Steps between checkpoints within an epoch; 0 goes by the clock alone."""
    skip_bad: bool = False
    """Skip files that cannot be read instead of refusing to start."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a run.

    Example:
        >>> model = unsquare.ModelConfig(backbone="convnext_tiny", pretrained="hub")
        >>> config = unsquare.TrainConfig(model=model, geometry=unsquare.Geometry(max_pixels=16_000_000))
        >>> config.geometry.max_pixels
        16000000
    """

    geometry: Geometry = field(default_factory=Geometry)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    learning_rate: LearningRateConfig = field(default_factory=LearningRateConfig)
    resolution: ResolutionConfig = field(default_factory=ResolutionConfig)
    device: DeviceConfig = field(default_factory=DeviceConfig)
    saving: SavingConfig = field(default_factory=SavingConfig)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.plan.sampling == "balanced" and self.optimizer.class_weights == "balanced":
            raise ConfigError("sampling and class_weights both make up for rare classes; let one of them be balanced.")

    @property
    def epochs(self) -> int:
        """Passes over the training images, once a recipe has settled them."""
        assert self.optimizer.epochs is not None, "a recipe has settled the epochs"
        return self.optimizer.epochs


def to_toml(config: TrainConfig) -> str:
    """The settings as a TOML text; a setting that is None is left out."""
    return tomli_w.dumps(_without_none(asdict(config)))


def from_toml(text: str, where: str) -> TrainConfig:
    """The settings in a TOML text, with defaults for those that are missing.

    Raises:
        ConfigError: the text is not TOML, or names a setting that does not exist or has another type.
    """
    try:
        values = upgrades.settings(tomllib.loads(text))
    except (ValueError, RecursionError) as error:  # ValueError: also numbers of thousands of digits
        raise ConfigError(f"{where} must be a TOML file, but it is not: {error}.") from error
    parts: dict[str, Any] = {}
    for name, part in values.items():
        known = [entry.name for entry in fields(TrainConfig)]
        if name not in known:
            raise ConfigError(f"{where} has no setting {name!r} here; {meant(name, known)}")
        if not isinstance(part, Mapping):
            raise ConfigError(f"{where}: {name} must be a table of settings, but is {part!r}.")
        try:
            parts[name] = changed(getattr(TrainConfig(), name), part)
        except ConfigError as error:
            raise ConfigError(f"In {where}, table {name}: {error}") from error
    return TrainConfig(**parts)


def _without_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    return str(value) if isinstance(value, Path) else value
