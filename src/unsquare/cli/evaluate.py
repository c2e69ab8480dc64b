"""`unsquare evaluate`: a run's accuracy on pictures with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from unsquare.cli.parsing import DeviceArguments, parse, print_json
from unsquare.training.predictor import Predictor

EXAMPLE = "unsquare evaluate runs/photos photos --split val"


@dataclass(frozen=True, kw_only=True)
class EvaluateArguments:
    """Measure a run's accuracy on pictures with labels, each picture whole."""

    run: tyro.conf.Positional[Path]
    """The run folder."""
    source: tyro.conf.Positional[Path]
    """A source with the run's classes."""
    split: str | None = None
    """train, val, test or all; left out, test where there is one, else val, else all."""
    skip_bad: bool = False
    """Leave out files that cannot be read."""
    json: bool = False
    """Print one JSON object on standard output and nothing else there."""
    device: DeviceArguments = field(default_factory=DeviceArguments)


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    given = parse(EvaluateArguments, arguments, command="evaluate", example=EXAMPLE)
    predictor = Predictor(given.run, **given.device.given())
    evaluation = predictor.evaluate(given.source, given.split, skip_bad=given.skip_bad)
    if not predictor.is_main:
        return 0
    if given.json:
        print_json(evaluation.to_dict())
    else:
        print(
            f"{evaluation.num_images:,} images: accuracy {evaluation.accuracy:.4f}, mean per class "
            f"{evaluation.mean_per_class_accuracy:.4f}, loss {evaluation.loss:.4f}, {evaluation.seconds:.1f} s"
        )
    return 0
