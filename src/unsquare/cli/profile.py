"""`unsquare profile`: where the memory goes, and how large a batch really fits."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unsquare.api import compare, profile
from unsquare.cli.arguments import ProfileArguments
from unsquare.cli.output import print_json
from unsquare.errors import ConfigError
from unsquare.memory.amounts import format_bytes
from unsquare.profiling.sweep import MOST_IMAGES
from unsquare.runs.schemas import ComparedPlan, ComparisonResult, PlanComparison, PlannedMemory, ProfileResult
from unsquare.shapes import Shape, checked_shape

_LAYERS_SHOWN = 12


def run(given: ProfileArguments) -> int:
    """Run the command."""
    found: ProfileResult | ComparisonResult
    if given.against is not None:
        found = compare(Path(given.subject), given.against, given.out)
    else:
        device = given.device.given() | ({"strategy": given.strategy} if given.strategy else {})
        found = profile(
            given.subject,
            _canvas(given.canvas),
            given.out,
            num_classes=given.num_classes,
            norm=given.norm,
            say=lambda line: print(line, file=sys.stderr),
            **device,
        )
    if given.json:
        print_json(found.to_dict())
    elif isinstance(found, ComparisonResult):
        _print_comparison(found)
    else:
        _print_profile(found)
    print(f"Wrote the figures to {found.page}.", file=sys.stderr if given.json else sys.stdout)
    return 0


def _canvas(text: str | None) -> Shape | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,12})x(\d{1,12})", text)
    if match is None:
        raise ConfigError(f"--canvas must be a height and a width such as 768x1024, but is {text!r}.")
    return checked_shape((int(match[1]), int(match[2])), f"A side of --canvas {text}")


def _print_profile(found: ProfileResult) -> None:
    console = Console()
    sweep, attribution = found.sweep, found.attribution
    table = Table("images", "peak", "predicted", "error", "s per step", box=None)
    for column in table.columns:
        column.justify = "right"
    for row in sweep.rows:
        table.add_row(
            f"{row.images:,}",
            format_bytes(int(row.peak_bytes)),
            format_bytes(int(row.predicted_bytes)),
            f"{row.predicted_bytes / row.peak_bytes - 1:+.1%}",
            f"{row.seconds:.2f}",
        )
    console.print(table)
    height, width = sweep.canvas
    console.print(
        f"\nUp to {sweep.largest_images:,} images of {height} x {width} fit {format_bytes(int(found.budget_bytes))}; "
        f"{sweep.predicted_images:,} were predicted."
    )
    if found.run is not None:
        console.print(_of_run(found.run, height * width))
    if attribution is None:
        return
    console.print(
        f"\nMeasured by layer with {attribution.images:,} of the {sweep.largest_images:,} images that fit (which "
        f"takes memory, too): the peak, {format_bytes(int(attribution.peak_bytes))}, is reached "
        f"{'between passes' if not attribution.phase else 'in ' + attribution.phase} at "
        f"{attribution.at or 'the input'}."
    )
    kinds = Table(show_header=False, box=None)
    for name, num_bytes in attribution.kinds:
        kinds.add_row(name, format_bytes(int(num_bytes)), f"{num_bytes / attribution.peak_bytes:.0%}")
    console.print(kinds)
    layers = Table("layer", "type", "activations", "weights", box=None)
    for layer in attribution.layers[:_LAYERS_SHOWN]:
        layers.add_row(layer.name, layer.type, format_bytes(int(layer.activations)), format_bytes(int(layer.weights)))
    console.print()
    console.print(layers)


def _of_run(run: PlannedMemory, pixels: int) -> str:
    """What the run's plans hold, which is less than what fits, and why."""
    images = min(run.held_pixels // pixels, run.most_images or MOST_IMAGES)
    number = f"run up to {images:,} such images at once" if images else "run such an image alone, by a fallback"
    found = [f"The run's plans {number}, within {format_bytes(run.budget_bytes)}"]
    if run.reserved_bytes:
        found.append(f"{format_bytes(run.reserved_bytes)} of it are reserved for decoding")
    if run.keeps_heap:
        found.append("its heap keeps freed memory, which is faster and may take twice the memory")
    return "; ".join(found) + "."


def _print_comparison(found: PlanComparison) -> None:
    before, after = found.plans
    table = Table("", before.name, after.name, box=None)
    for words, values in (
        ("budget", [_bytes(plan.budget_bytes) for plan in found.plans]),
        ("micro-batches", [f"{len(plan.micro_batches):,}" for plan in found.plans]),
        ("padding", [f"{plan.ledger['padding_overhead']:.2%}" for plan in found.plans]),
        ("median fill", [f"{sorted(plan.fills)[len(plan.fills) // 2]:.0%}" for plan in found.plans]),
        ("highest predicted peak", [_bytes(max(plan.predicted_bytes or [0])) for plan in found.plans]),
        ("highest measured peak", [_bytes(_highest(plan)) for plan in found.plans]),
        ("predicted seconds of an epoch", [f"{plan.seconds:.1f}" for plan in found.plans]),
    ):
        table.add_row(words, *values)
    Console().print(table)


def _highest(plan: ComparedPlan) -> float:
    return max((row[3] for row in plan.measured_bytes), default=0)


def _bytes(number: float | None) -> str:
    return format_bytes(int(number)) if number else "not measured"
