"""`unsquare predict`: the most probable classes of pictures."""

from __future__ import annotations

import sys

from unsquare.cli.arguments import PredictArguments
from unsquare.cli.output import print_json
from unsquare.errors import UsageError
from unsquare.index.text import shown
from unsquare.training.predictor import Predictor


def run(given: PredictArguments) -> int:
    """Run the command; the status is 1 where any picture cannot be answered."""
    if not given.images:
        raise UsageError(f"Predicting needs one or more images, as in `{given.EXAMPLE}`.")
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
            print(shown(each.path) + (f"  {each.value:g}" if each.value is not None else ""))
            for name, probability in zip(each.classes, each.probabilities):
                print(f"  {probability:6.1%}  {shown(name)}")
    for each in problems:
        print(f"unsquare: '{shown(each.path)}' {each.problem}", file=sys.stderr)
    return 1 if problems else 0
