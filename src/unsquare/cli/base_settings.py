"""The settings that flags change: those of the file or run that --config or --resume names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from unsquare.errors import ConfigError
from unsquare.files import read_regular
from unsquare.runs.folder import RunFolder
from unsquare.runs.folds import refuse_folds
from unsquare.runs.reading import reason
from unsquare.training.config import TrainConfig, from_toml
from unsquare.training.other_run import settings_of_run


def base_settings(arguments: Sequence[str]) -> TrainConfig:
    """The settings that these arguments name; those by default where a flag lacks its value, which parsing names."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    finder.add_argument("--config", type=Path)
    finder.add_argument("--resume", type=Path)
    try:
        named = finder.parse_known_args(arguments)[0]
    except argparse.ArgumentError:
        return TrainConfig()
    if named.resume is not None:
        refuse_folds(named.resume)
        return settings_of_run(RunFolder.open(named.resume))
    path = named.config
    if path is None:
        return TrainConfig()
    try:
        text = read_regular(path).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"The settings in {path} cannot be read ({reason(error)}); check the path.") from error
    return from_toml(text, str(path))
