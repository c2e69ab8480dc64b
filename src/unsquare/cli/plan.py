"""`unsquare plan`: how an epoch would be batched, and what padding costs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unsquare.cli.assumed import Assumed, assumed_limits
from unsquare.cli.parsing import parse, print_json, progress_bar
from unsquare.errors import RunError, SourceError, UsageError
from unsquare.index.scan import scan_source
from unsquare.index.table import ShapeIndex, shown
from unsquare.plan.analysis.ledger import Ledger, ledger
from unsquare.plan.analysis.policies import PolicyFigures, figures_of
from unsquare.plan.analysis.table import PlanTable
from unsquare.plan.baselines.peers import PEERS, Peer
from unsquare.plan.config import EpochNumber, Limits, PlanConfig, StepForm
from unsquare.plan.draw import Weights, class_weights
from unsquare.plan.epoch import EpochPlan
from unsquare.plan.planner import naming, plan_epoch
from unsquare.report.plan_page import PlanView, write_plan_page
from unsquare.runs.reading import read_json
from unsquare.runs.schemas import PlanFile
from unsquare.shapes import Geometry, Sizes

EXAMPLE = "unsquare plan photos --steps b2b --buckets 32 --max-pixels 16e6 --budget-pixels 64e6"


@dataclass(frozen=True, kw_only=True)
class LimitsArguments:
    """What the machine allows. Left out, as training measured it on this machine last, else an accelerator's; the
    output says which."""

    budget_pixels: int | None = None
    """The most computed pixels of one micro-batch, a hard bound. Given alone, a launch costs 500,000 pixels, as in
    `unsquare train --budget-pixels`."""
    launch_pixels: int | None = None
    """What one more micro-batch costs, as computed pixels: much on an accelerator, little on a CPU."""
    pixels_per_s: int | None = None
    """Pixels that a rank computes in a second: makes seconds of costs, and changes no plan."""
    world_size: int | None = None
    """Number of ranks (processes) that share each step; left out, one."""

    def given(self) -> dict[str, int]:
        """The fields of `Limits` that were given."""
        return {name: value for name, value in vars(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True)
class PlanArguments:
    """Show how an epoch of training would be cut into steps and micro-batches, and what of it is padding."""

    index: tyro.conf.Positional[Path]
    """An index made by `unsquare scan`, or any source that it accepts."""
    split: str | None = None
    """The split to plan: train, val or test; left out, train where there is one, else all images."""
    epoch: EpochNumber = 0
    """Which epoch; another one has another order."""
    turns: bool = False
    """Plan for random quarter turns."""
    limits_of: Path | None = None
    """Take the limits that this run's machine was measured to have, fallbacks for larger images included, instead of
    flags for limits."""
    json: bool = False
    """Print one JSON object on standard output and nothing else there."""
    html: Path | None = None
    """Write a page here that shows the plan, and what other choices would cost."""
    geometry: Geometry = field(default_factory=Geometry)
    plan: PlanConfig = field(default_factory=PlanConfig)
    limits: LimitsArguments = field(default_factory=LimitsArguments)


def run(arguments: Sequence[str]) -> int:
    """Run the command."""
    given = parse(PlanArguments, arguments, command="plan", example=EXAMPLE)
    if given.limits_of is not None and given.limits.given():
        raise UsageError("Limits come from --limits-of or from flags of their own, but got both; leave one out.")
    own = None if given.limits_of is None else _limits_of(given.limits_of)
    with progress_bar("reading headers") as progress:
        index = scan_source(given.index, progress=progress)
    if index.problems:
        print(
            f"Left out files that cannot be read: {len(index.problems)}; `unsquare scan` lists them.", file=sys.stderr
        )
    split = given.split or ("train" if np.any(index.splits == "train") else None)
    there = sorted({name for name in index.splits.tolist() if name})
    if split is not None:
        index = index.of_split(split)
    if not len(index):
        where = f" in the split {split!r}" if split else ""
        raise SourceError(f"There are no images to plan{where}; the splits are {', '.join(there) or 'none'}.")
    sizes = given.geometry.crop(given.geometry.resize(index.sizes))
    weights = class_weights(index.labels) if given.plan.sampling == "balanced" else None
    if weights is not None and index.labels.max() < 0:
        raise SourceError("Balanced sampling needs labels, but these images have none; leave --sampling out.")
    assumed = own or assumed_limits(given.limits.given(), int(sizes.prod(axis=1).max()))
    raised = "raise --budget-pixels" if given.limits_of is None else "give that run more memory"
    with naming(index.keys, lambda pixels: raised):
        plan = plan_epoch(sizes, given.plan, assumed.limits, given.epoch, turns=given.turns, weights=weights)
    with progress_bar("planning") as progress:
        table = PlanTable.of_plan(plan, progress)
        figures = ledger(plan, given.plan, assumed.limits, index.labels, len(index.classes), table=table)
    bounded = given.plan.canvases is not None
    price = _price_of_bound(figures, sizes, given, assumed.limits, weights) if bounded else None
    # The page first: a reader of the table who has seen enough may close the pipe.
    page = None if given.html is None else _write_page(given.html, given, assumed, index, split, plan, table, figures)
    if given.json:
        about = {"limits": asdict(assumed.limits), "limits_source": assumed.source}
        print_json(figures.to_dict() | about | ({"price_of_canvases": price} if price else {}))
    else:
        _print(figures, assumed, price)
    if page is not None:
        print(f"The plan's page is {page}", file=sys.stderr if given.json else sys.stdout)
    return 0


def _limits_of(run: Path) -> Assumed:
    if not (run / "plan.json").is_file():
        raise RunError(f"Limits are read from a run's plan.json, but {run} has none; give the folder that --out named.")
    plan = read_json(run / "plan.json", PlanFile, "give the folder of another run")
    return Assumed(limits=Limits.from_dict(plan["limits"]), source=f"those of the run {shown(run.resolve().name)}")


def _write_page(
    path: Path,
    given: PlanArguments,
    assumed: Assumed,
    index: ShapeIndex,
    split: str | None,
    plan: EpochPlan,
    table: PlanTable,
    figures: Ledger,
) -> Path:
    sizes = given.geometry.crop(given.geometry.resize(index.sizes))
    policies = [_other_form(plan, given, assumed.limits, index)]
    with progress_bar("other ways to batch") as progress:
        for number, peer in enumerate(PEERS, 1):
            policies.append(_figures_of(peer, sizes, assumed.limits, given.plan.seed, index))
            progress(number, len(PEERS))
    view = PlanView(
        name=given.index.resolve().name + (f", {split}" if split else ""),
        plan=plan,
        table=table,
        ledger=figures,
        config=given.plan,
        limits=assumed.limits,
        limits_source=assumed.source,
        labels=index.labels.astype(np.int64),
        classes=index.classes,
        policies=policies,
        rules=[(peer.name, peer.rule, peer.source) for peer in PEERS],
    )
    with progress_bar("planning other choices") as progress:
        return write_plan_page(path, view, progress)


def _figures_of(peer: Peer, sizes: Sizes, limits: Limits, seed: int, index: ShapeIndex) -> PolicyFigures:
    """What the same images cost when batched by another rule."""
    table = peer.batches(sizes, limits, seed)
    return figures_of(peer.name, peer.shuffled, table, limits, index.labels)


def _other_form(plan: EpochPlan, given: PlanArguments, limits: Limits, index: ShapeIndex) -> PolicyFigures:
    """What the same images cost in steps of the other form."""
    form: StepForm = "b2b" if given.plan.steps == "mixed" else "mixed"
    config = replace(given.plan, steps=form, sampling="once")
    upright = np.where(plan.turns[:, None] % 2 == 1, plan.sizes[:, ::-1], plan.sizes)
    other = plan_epoch(upright, config, limits, given.epoch, turns=given.turns)
    return figures_of(f"unsquare, {form}", True, PlanTable.of_plan(other), limits, index.labels)


def _price_of_bound(
    figures: Ledger, sizes: Sizes, given: PlanArguments, limits: Limits, weights: Weights | None
) -> dict[str, float]:
    """What bounding the canvases adds to computed pixels and predicted time, as parts of those of free canvases."""
    config = replace(given.plan, canvases=None)
    plan = plan_epoch(sizes, config, limits, given.epoch, turns=given.turns, weights=weights)
    with progress_bar("planning without the bound") as progress:
        free = ledger(plan, config, limits, progress=progress)
    return {
        "computed_pixels": figures.computed_pixels / free.computed_pixels - 1,
        "predicted_s": figures.predicted_s / free.predicted_s - 1,
        "free_canvases": free.num_canvases,
    }


def _print(figures: Ledger, assumed: Assumed, price: dict[str, float] | None) -> None:
    console = Console()
    summary = Table(show_header=False, box=None)
    for name, value in figures.rows():
        summary.add_row(name, value)
        if name == "padding overhead":  # which depends on them more than on anything else
            summary.add_row("limits", escape(f"{assumed.words()}: {assumed.source}"))
    if price:
        summary.add_row(
            "price of few canvases",
            f"{price['computed_pixels']:+.1%} pixels, {price['predicted_s']:+.1%} time, against "
            f"{price['free_canvases']:,} canvases",
        )
    heading, *rows = figures.bucket_rows()
    table = Table(*heading, box=None)
    for row in rows:
        table.add_row(*row)
    console.print(summary)
    console.print()
    console.print(table)
    if figures.num_hidden_rows:
        console.print(
            f"These {len(rows)} of {len(figures.buckets):,} buckets pad the most pixels; --json lists all. Canvases "
            "are height x width."
        )
    else:
        console.print("Canvases are height x width.")
