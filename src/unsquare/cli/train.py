"""`unsquare train`: a folder of pictures in, a trained run out."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from unsquare.api import resume, train
from unsquare.cli.arguments import TrainArguments
from unsquare.errors import ConfigError, UsageError
from unsquare.files import read_regular
from unsquare.network.ranks import is_first
from unsquare.runs.folder import RunFolder
from unsquare.runs.reading import reason
from unsquare.training.config import from_toml
from unsquare.training.loop import Stopped
from unsquare.training.other_run import settings_of_run


def run(given: TrainArguments) -> int:
    """Run the command."""
    folder = given.resume or given.out
    try:
        if given.resume is not None:
            if given.source is not None or given.out is not None or given.config is not None:
                raise UsageError("--resume takes the run's own source and settings; leave out SOURCE, --out, --config.")
            folder = resume(given.resume, given.settings, changed_pictures=given.changed_pictures)
        else:
            if given.source is None or given.out is None:
                raise UsageError(f"Training needs a source and a run folder, as in `{given.EXAMPLE}`.")
            folder = train(given.source, given.out, given.settings, changed_pictures=given.changed_pictures)
        if is_first():
            print(f"The report is {folder / 'report.html'}.")
    except Stopped as stop:
        if is_first():
            print(
                f"Stopped and saved after step {stop.step}; `unsquare train --resume {folder}` continues.",
                file=sys.stderr,
            )
        return 128 + (stop.signal_number or signal.SIGTERM)
    return 0


def defaults(arguments: Sequence[str]) -> TrainArguments:
    """What flags change: the settings of the run or file that --resume or --config names."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path)
    finder.add_argument("--resume", type=Path)
    try:
        named = finder.parse_known_args(arguments)[0]
    except argparse.ArgumentError:  # a flag without its value, which parsing names
        return TrainArguments()
    if named.resume is not None:
        return TrainArguments(settings=settings_of_run(RunFolder.open(named.resume)))
    path = named.config
    try:
        text = read_regular(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings in {path} cannot be read ({reason(error)}); check the path.") from error
    return TrainArguments(settings=from_toml(text, str(path)))
