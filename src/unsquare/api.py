"""The library's front door for whole runs: what the commands do, from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from unsquare.errors import ConfigError, SourceError
from unsquare.report import write_report
from unsquare.training import start
from unsquare.training.config import TrainConfig
from unsquare.training.metrics import Evaluation
from unsquare.training.predictor import Prediction, Predictor


def train(
    source: Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    *,
    quiet: bool = False,
    **settings: Any,
) -> Path:
    """Train a classifier on a source of pictures, evaluate it and write the report.

    Args:
        source: a folder of class folders, a manifest, MAMe's folder, or an index.
        out: the run folder, new or empty.
        config: the settings; None takes the defaults.
        quiet: print no progress.
        **settings: single settings by the names of their flags, such as `backbone="resnet50"` or `epochs=50`.

    Returns:
        The run folder.

    Raises:
        UnsquareError: something that can be mended; the message says how.
        Stopped: Ctrl-C or SIGTERM stopped the run, which is saved.
    """
    run = start.train(source, out, with_settings(config or TrainConfig(), settings), quiet=quiet)
    return _reported(run)


def resume(run: Path | str, *, quiet: bool = False) -> Path:
    """Go on with a run from its last checkpoint, as if it had never stopped; raises what `train` raises."""
    return _reported(start.resume(run, quiet=quiet))


def evaluate(run: Path | str, source: Path | str, split: str | None = None, *, quiet: bool = False) -> Evaluation:
    """Accuracy of a run's best weights on a source's pictures; see `Predictor.evaluate`."""
    return Predictor(run, quiet=quiet).evaluate(source, split)


def predict(run: Path | str, paths: Sequence[Path | str], top: int = 5, *, quiet: bool = True) -> list[Prediction]:
    """The most probable classes of pictures, in the order given.

    Raises:
        SourceError: one of the files cannot be read.
    """
    predictions, problems = Predictor(run, quiet=quiet).predict(paths, top)
    if problems:
        raise SourceError(f"Every file must be a picture, but '{problems[0].key}' {problems[0].reason}; leave it out.")
    return predictions


def with_settings(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    """The settings with some changed, each named as its flag is.

    Raises:
        ConfigError: there is no setting of that name, or it may not have that value.
    """
    parts = {part.name: getattr(config, part.name) for part in fields(config)}
    for name, value in settings.items():
        owner = next((part for part in parts if name in {f.name for f in fields(parts[part])}), None)
        if owner is None:
            raise ConfigError(f"There is no setting {name!r}; `unsquare train --help` lists them.")
        parts[owner] = replace(parts[owner], **{name: value})
    return TrainConfig(**parts)


def _reported(run: Path) -> Path:
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun the first rank alone writes
        write_report(run)
    return run
