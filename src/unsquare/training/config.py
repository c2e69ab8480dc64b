"""The settings of a run: one tree of frozen dataclasses, the same for flags, TOML and Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import tomli_w

from unsquare.data.augment import AugmentConfig
from unsquare.errors import ConfigError
from unsquare.index.targets import TaskConfig
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.plan.config import MOST_STEP, PlanConfig
from unsquare.runs import upgrades
from unsquare.settings import MOST_EPOCHS, Range, changed, check_settings, meant
from unsquare.shapes import Geometry
from unsquare.toml import tomllib
from unsquare.training.resolution import ResolutionConfig
from unsquare.training.schedule import LearningRateConfig

MOST_FOLDS = 1000
"""Each is a run of its own."""


@dataclass(frozen=True, kw_only=True)
class SavingConfig:
    """Evaluation and checkpoint settings.

    Example:
        >>> unsquare.SavingConfig(checkpoint_every_s=60).validation_fraction
        0.2
    """

    validation_fraction: Annotated[float, Range(0, below=1)] = 0.2
    """Fraction of the training images to validate on where the source has no val split. Held out class by class, from
    all images alike for labels and values, and in whole groups where the source has groups. 0 trains on all of them,
    for a final model: no epoch is the best then, and the last one's weights are the result."""
    folds: Annotated[int, Range(2, MOST_FOLDS)] | None = None
    """Train so many runs, each judged on another part of the images (cross-validation). All images but those of a test
    split are dealt out, class by class, in whole groups; the figures are means and standard deviations."""
    fold: Annotated[int, Range(1, MOST_FOLDS)] | None = None
    """Train the run of this fold alone, from 1 (default: one after the other)."""
    evaluate_every: Annotated[int, Range(1, MOST_EPOCHS)] = 1
    """Epochs between evaluations on the val split. The last epoch is always evaluated."""
    patience: Annotated[int, Range(1, MOST_EPOCHS)] | None = None
    """End after this many epochs without improvement on val (default: never). They count from the first epoch at full
    size on, and need images that are held out. The schedule of the learning rate stays that of all `epochs`."""
    checkpoint_every_s: Annotated[float, Range(0, 1e9)] = 600.0
    """Seconds between checkpoints within an epoch. One is always written at the end of an epoch; 1e9 seconds are thirty
    years."""
    checkpoint_every_steps: Annotated[int, Range(0, MOST_STEP)] = 0
    """Steps between checkpoints within an epoch; 0 goes by the clock alone."""
    skip_bad: bool = False
    """Skip files that cannot be read instead of refusing to start."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.fold is not None and self.fold > (self.folds or 0):
            there = f"there are {self.folds}" if self.folds else "folds is not set"
            raise ConfigError(f"fold must be one of the folds, but is {self.fold} and {there}.")
        if self.patience is not None and self.folds is not None:
            raise ConfigError(
                "patience ends a run by the images that cross-validation judges it on, which would make its figures "
                "optimistic; leave --patience or --folds out."
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings of a run.

    Example:
        >>> model = unsquare.ModelConfig(backbone="convnext_tiny", pretrained="hub")
        >>> config = unsquare.TrainConfig(model=model, geometry=unsquare.Geometry(max_pixels=16_000_000))
        >>> config.geometry.max_pixels
        16000000
    """

    task: TaskConfig = field(default_factory=TaskConfig)
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
        self._check_task()
        if self.resolution.grow == "while-better" and self.saving.folds is not None:
            raise ConfigError(
                "grow while-better chooses the size by the images that cross-validation judges a fold on, which would "
                "make its figures optimistic; give --grow always, or leave --folds out."
            )
        if self.plan.sampling == "balanced" and self.optimizer.class_weights == "balanced":
            raise ConfigError("sampling and class_weights both make up for rare classes; let one of them be balanced.")

    def _check_task(self) -> None:
        """Refuse what needs classes where there are none."""
        task = self.task.task
        if self.plan.sampling == "balanced" and task != "classification":
            raise ConfigError(
                f"sampling balanced uses classes equally often, but the task {task} has none; leave --sampling out."
            )
        if self.optimizer.class_weights == "balanced" and task != "classification":
            raise ConfigError(
                f"class_weights balanced weighs images by their class, but the task {task} has none; leave "
                "--class-weights out."
            )
        if self.optimizer.focal and task == "regression":
            raise ConfigError(
                "focal counts what is classified well less, but the task regression classifies nothing; leave --focal "
                "out."
            )

    @property
    def epochs(self) -> int:
        """Passes over the training images, once a recipe has settled them."""
        assert self.optimizer.epochs is not None, "a recipe has settled the epochs"
        return self.optimizer.epochs


def with_settings(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    """The settings with some of them changed, each named like its flag.

    Raises:
        ConfigError: there is no such setting, or the value is not allowed.
    """
    parts = {part.name: getattr(config, part.name) for part in fields(config)}
    owners = {field.name: part for part in parts for field in fields(parts[part])}
    for name in settings:
        if name not in owners:
            raise ConfigError(f"There is no setting {name!r}; {meant(name, owners)}")
    of_part = {part: {name: settings[name] for name in settings if owners[name] == part} for part in parts}
    return TrainConfig(**{part: changed(parts[part], of_part[part]) for part in parts})


def to_toml(config: TrainConfig) -> str:
    """The settings as a TOML text; a setting that is None is left out."""
    return tomli_w.dumps(_without_none(asdict(replace(config, augment=config.augment.by_name()))))


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
