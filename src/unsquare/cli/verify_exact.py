"""`unsquare verify-exact`: how far padded batches are from each image alone, exact and naive, for any network."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import nn

from unsquare.cli.arguments import VerifyExactArguments
from unsquare.cli.output import print_json
from unsquare.errors import ConfigError, UnsquareError, UsageError
from unsquare.exact.verify.verification import ROUNDING_LIMITS, ExactnessErrors, Verification, named_model, verify_exact
from unsquare.named import named_object, words_of_failure
from unsquare.torchvision_guard import explanation

_WIDTH = 110  # where the output goes to a file, or the terminal is narrower than the table


def run(given: VerifyExactArguments) -> int:
    """Run the command; the status is 1 where a network is not exact, or none could be measured."""
    if not given.models:
        raise UsageError(f"Verifying needs one or more networks, as in `{given.EXAMPLE}`.")
    sizes = None if given.sizes is None else _parsed_sizes(given.sizes)
    console = Console(stderr=True)
    found: list[Verification] = []
    problems: list[str] = []
    for name in given.models:
        with console.status(f"measuring {name}"):
            try:
                measured = verify_exact(
                    _resolved(name, given.seed, pretrained=given.pretrained),
                    sizes=sizes,
                    num_images=given.images,
                    max_side=given.max_side,
                    seed=given.seed,
                    dtype=given.dtype,
                    tolerance=given.tolerance,
                    training=given.training,
                )
                found.append(replace(measured, model=name))
            except UnsquareError as error:
                problems.append(f"{name}: {error}")
    if given.json:
        print_json({"models": [each.to_dict() for each in found], "problems": problems})
    elif found:
        _print(found)
    for problem in problems:
        print(f"unsquare: {problem}", file=sys.stderr)
    failed = any(not each.exact and not each.refused for each in found)
    return 1 if failed or problems or all(each.refused for each in found) else 0


def _parsed_sizes(text: str) -> list[tuple[int, int]]:
    words = re.split(r"[\s,]+", text.strip())
    if not all(re.fullmatch(r"[1-9]\d{0,5}x[1-9]\d{0,5}", word) for word in words):
        raise ConfigError(f"--sizes must be heights and widths such as 97x131,128x160, but are {text!r}.")
    return [(int(height), int(width)) for height, width in (word.split("x") for word in words)]


def _resolved(name: str, seed: int, *, pretrained: bool) -> nn.Module | str:
    """A name of timm's, built where trained weights are asked for; package.module:function called, with this seed."""
    if ":" not in name:
        return named_model(name, pretrained=True) if pretrained else name
    torch.manual_seed(seed)
    try:
        made = named_object(name)
        if not isinstance(made, nn.Module):
            made = made()
    except Exception as error:  # of any kind, since it is the user's code that runs
        raise ConfigError(
            "A network of your own is given as package.module:function, which needs no arguments, but making this one "
            f"fails: {words_of_failure(error)}. {explanation(error)}".rstrip()
        ) from error
    if not isinstance(made, nn.Module):
        raise ConfigError(f"{name!r} must make a torch.nn.Module, but makes a {type(made).__name__}.")
    return made


def _print(found: list[Verification]) -> None:
    console = Console()
    console.width = max(console.width, _WIDTH)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("network", no_wrap=True)
    table.add_column("status")
    for mode in ("eval", "train") if any(each.training for each in found) else ("eval",):
        for kind in ("outputs", "gradients", "rounding", "naive"):
            table.add_column(f"{mode}\n{kind}", justify="right", no_wrap=True)
    for each in found:
        numbers = [*_numbers(each.evaluation), *_numbers(each.training)][: len(table.columns) - 2]
        style = {"exact": "green", "refused": "yellow"}.get(each.status, "red")
        table.add_row(each.model, f"[{style}]{each.status}", *numbers)
    console.print(table)
    exact = next((each for each in found if not each.refused), None)
    if exact is not None:
        images = ", ".join(f"{height}x{width}" for height, width in exact.sizes)
        console.print(
            f"Relative errors in {exact.dtype} against each image alone ({images}). Exact is at most "
            f"{exact.tolerance:g}, or 10 times `rounding` and at most {ROUNDING_LIMITS[exact.dtype]:g}; rounding is "
            "how far the images alone move when each pixel is rounded otherwise. `naive` is the stock network on the "
            "padded batch."
        )
        others = [each for each in found if not each.refused and each.sizes != exact.sizes]
        for each in others:
            console.print(f"{each.model}: {', '.join(f'{height}x{width}' for height, width in each.sizes)}.")
    for each in found:
        if each.refused:
            console.print(f"{each.model} is refused: {each.refused}", highlight=False)
        if each.status == "inexact" and each.dtype == "float32":
            console.print(
                f"{each.model}: float32 rounds where a ReLU opens by chance; judge in float64.", highlight=False
            )
        if each.moving:
            console.print(
                f"{each.model} has state that changes with every call in training ({', '.join(each.moving[:3])}): "
                "images of one batch meet another state than images one after another, so no batch is exact there.",
                highlight=False,
            )
        if each.status == "ill-conditioned":
            fix = "use other weights, such as trained ones" if each.dtype == "float64" else "judge it in float64"
            console.print(
                f"{each.model} is ill-conditioned: rounding moves even images alone so far that a leak could not be "
                f"detected; {fix}.",
                highlight=False,
            )


def _numbers(errors: ExactnessErrors | None) -> list[Any]:
    if errors is None:
        return ["", "", "", ""]
    rounding = max(errors.own_outputs, errors.own_gradients)
    return [f"{value:.1e}" for value in (errors.outputs, errors.gradients, rounding, errors.naive_outputs)]
