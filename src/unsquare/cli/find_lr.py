"""`unsquare find-lr`: a learning rate for pictures and settings, by a short test."""

from __future__ import annotations

from unsquare.api import find_lr
from unsquare.cli.arguments import FindLrArguments
from unsquare.cli.output import print_json
from unsquare.report.rates import rate_text, rate_words


def run(given: FindLrArguments) -> int:
    """Run the command."""
    found = find_lr(
        given.source,
        given.settings,
        out=given.out,
        num_steps=given.num_steps,
        lowest=given.lowest,
        highest=given.highest,
        quiet=given.json,
    )
    if given.json:
        print_json(found.to_dict())
        return 0
    print(rate_words(found))
    if found.suggested is not None:
        print(f"Train with --lr {rate_text(found.suggested)}.")
    print(f"The picture is {found.page}.")
    return 0
