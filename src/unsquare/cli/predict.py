"""`unsquare predict`: the most probable classes of pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from unsquare.cli.parsing import DeviceArguments, parse, print_json
from unsquare.errors import ConfigError
from unsquare.training.predictor import Predictor

EXAMPLE = "unsquare predict runs/photos one.jpg another.png --top 3"


@dataclass(frozen=True, kw_only=True)
class PredictArguments:
    """Name the most probable classes of pictures, each seen whole."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files."""
    top: int = 5
    """Number of classes for each picture."""
    json: bool = False
    """Print one JSON object on standard output and nothing else there."""
    device: DeviceArguments = field(default_factory=DeviceArguments)


def run(arguments: Sequence[str]) -> int:
    """Run the command; the status is 1 where any file could not be read."""
    given = parse(PredictArguments, arguments, command="predict", example=EXAMPLE)
    if not given.images:
        raise ConfigError(f"Predicting needs one or more images, as in `{EXAMPLE}`.")
    predictions, problems = Predictor(given.run, **given.device.given()).predict(given.images, given.top)
    if given.json:
        listed = [{"path": problem.key, "reason": problem.reason} for problem in problems]
        print_json({"predictions": [each.to_dict() for each in predictions], "problems": listed})
    else:
        for each in predictions:
            print(each.path)
            for name, probability in zip(each.classes, each.probabilities):
                print(f"  {probability:6.1%}  {name}")
    for problem in problems:
        print(f"unsquare: '{problem.key}' {problem.reason}", file=sys.stderr)
    return 1 if problems else 0
