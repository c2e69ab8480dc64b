"""`unsquare train`: a folder of pictures in, a trained run out."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from unsquare.api import resume, train
from unsquare.cli.parsing import parse
from unsquare.errors import ConfigError, UsageError
from unsquare.files import read_regular
from unsquare.network.ranks import is_first
from unsquare.runs.folder import RunFolder
from unsquare.runs.reading import reason
from unsquare.training.config import TrainConfig, from_toml
from unsquare.training.loop import Stopped
from unsquare.training.standing import settings_of_run

EXAMPLE = "unsquare train photos --out runs/photos --backbone resnet18 --epochs 30 --memory 8GiB"


@dataclass(frozen=True, kw_only=True)
class TrainArguments:
    """Train a classifier on pictures as they are, then evaluate it and write the report."""

    source: tyro.conf.Positional[Path | None] = None
    """A folder of class folders, a CSV or Parquet manifest, MAMe's folder, or an index made by `unsquare scan`."""
    out: Path | None = None
    """The run folder to make, or to go on with: the same command continues a run that is not finished."""
    resume: Path | None = None
    """Go on with this run folder instead, with its own source and settings; more --epochs continue it further."""
    changed_pictures: bool = False
    """Where a run goes on, take pictures that were changed since it started as they are now."""
    config: Path | None = None
    """A TOML file of settings, such as a run's config.toml; flags given beside it win."""
    settings: TrainConfig = field(default_factory=TrainConfig)


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    default = TrainArguments(settings=_settings_file(arguments))
    given = parse(TrainArguments, arguments, command="train", example=EXAMPLE, default=default)
    folder = given.resume or given.out
    try:
        if given.resume is not None:
            if given.source is not None or given.out is not None or given.config is not None:
                raise UsageError("--resume takes the run's own source and settings; leave out SOURCE, --out, --config.")
            folder = resume(given.resume, given.settings, changed_pictures=given.changed_pictures)
        else:
            if given.source is None or given.out is None:
                raise UsageError(f"Training needs a source and a run folder, as in `{EXAMPLE}`.")
            folder = train(given.source, given.out, given.settings, changed_pictures=given.changed_pictures)
        if is_first():
            print(f"The report is {folder / 'report.html'}.")
    except Stopped as stop:
        if is_first():
            print(
                f"Stopped and saved after step {stop.step}; `unsquare train --resume {folder}` goes on.",
                file=sys.stderr,
            )
        return 128 + (stop.signal_number or signal.SIGTERM)
    return 0


def _settings_file(arguments: Sequence[str]) -> TrainConfig:
    """The settings of the run or file that --resume or --config names: they are the flags' defaults, so come first."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config", type=Path)
    finder.add_argument("--resume", type=Path)
    named = finder.parse_known_args(arguments)[0]
    path = named.config
    if named.resume is not None:
        return settings_of_run(RunFolder.open(named.resume))
    if path is None:
        return TrainConfig()
    try:
        return from_toml(read_regular(path).decode("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings in {path} cannot be read ({reason(error)}); check the path.") from error
