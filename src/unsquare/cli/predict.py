"""`unsquare predict`: the most probable classes of pictures."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from unsquare.cli.parsing import DeviceArguments, parse, print_json
from unsquare.errors import UsageError
from unsquare.index.table import shown
from unsquare.training.predictor import Predictor

EXAMPLE = "unsquare predict runs/photos one.jpg another.png --top 3"


@dataclass(frozen=True, kw_only=True)
class PredictArguments:
    """Name the most probable classes of pictures, each seen whole."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    images: tyro.conf.Positional[tuple[Path, ...]]
    """Image files, or folders of them."""
    top: int = 5
    """Number of classes for each picture."""
    json: bool = False
    """Print one JSON object on standard output and nothing else there."""
    device: DeviceArguments = field(default_factory=DeviceArguments)


def run(arguments: Sequence[str]) -> int:
    """Run the command; the status is 1 where any picture cannot be answered."""
    given = parse(PredictArguments, arguments, command="predict", example=EXAMPLE)
    if not given.images:
        raise UsageError(f"Predicting needs one or more images, as in `{EXAMPLE}`.")
    predictor = Predictor(given.run, **given.device.given())
    found = predictor.predict(given.images, given.top, on_error="keep")
    answers = [each for each in found if not each.problem]
    problems = [each for each in found if each.problem]
    if not predictor.is_main:
        return 1 if problems else 0
    if given.json:
        listed = [{"path": each.path, "reason": each.problem} for each in problems]
        print_json({"predictions": [each.to_dict() for each in answers], "problems": listed})
    else:
        for each in answers:
            print(shown(each.path))
            for name, probability in zip(each.classes, each.probabilities):
                print(f"  {probability:6.1%}  {shown(name)}")
    for each in problems:
        print(f"unsquare: '{shown(each.path)}' {each.problem}", file=sys.stderr)
    return 1 if problems else 0
