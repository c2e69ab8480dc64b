"""`unsquare evaluate`: a run's accuracy on pictures with labels."""

from __future__ import annotations

from unsquare.cli.arguments import EvaluateArguments
from unsquare.cli.output import print_json
from unsquare.training.predictor import Predictor


def run(given: EvaluateArguments) -> int:
    """Run the command."""
    predictor = Predictor(given.run, **given.device.given())
    evaluation = predictor.evaluate(given.source, given.split, skip_bad=given.skip_bad)
    if not predictor.is_main:
        return 0
    if given.json:
        print_json(evaluation.to_dict())
    else:
        print(
            f"{evaluation.num_images:,} images: {evaluation.describe(4)}, loss {evaluation.loss:.4f}, "
            f"{evaluation.seconds:.1f} s"
        )
    return 0
