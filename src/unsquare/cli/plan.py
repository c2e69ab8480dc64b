"""`unsquare plan`: how an epoch would be batched, and what padding costs."""

from __future__ import annotations

import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from unsquare.cli.arguments import PlanArguments
from unsquare.cli.assumed import Assumed, assumed_limits
from unsquare.cli.output import print_json, progress_bar
from unsquare.errors import RunError, SourceError, UsageError
from unsquare.index.scan import scan_source
from unsquare.index.table import ShapeIndex
from unsquare.index.text import shown
from unsquare.plan.analysis.ledger import Ledger, ledger
from unsquare.plan.analysis.policies import PolicyFigures, figures_of
from unsquare.plan.analysis.table import PlanTable
from unsquare.plan.baselines.peers import PEERS, Peer
from unsquare.plan.config import Limits, StepForm
from unsquare.plan.draw import Weights, class_weights
from unsquare.plan.epoch import EpochPlan
from unsquare.plan.planner import naming, plan_epoch
from unsquare.runs.reading import read_json
from unsquare.runs.schemas import PlanFile
from unsquare.shapes import Sizes


def run(given: PlanArguments) -> int:
    """Run the command."""
    if given.limits_of is not None and given.limits.given():
        raise UsageError("Limits come from --limits-of or from flags for limits, but got both; leave one out.")
    own = None if given.limits_of is None else _limits_of(given.limits_of)
    with progress_bar("reading headers") as progress:
        index = scan_source(given.index, progress=progress)
    if index.problems:
        num = len(index.problems)
        print(f"Skipped {num:,} unreadable file{'s' * (num > 1)}; `unsquare scan` lists them.", file=sys.stderr)
    split = given.split or ("train" if np.any(index.splits == "train") else None)
    there = sorted({name for name in index.splits.tolist() if name})
    if split is not None:
        index = index.of_split(split)
    if not len(index):
        where = f" in the split {split!r}" if split else ""
        raise SourceError(f"No images to plan were found{where}; the splits are {', '.join(there) or 'none'}.")
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
        print(f"Wrote the plan's page to {page}.", file=sys.stderr if given.json else sys.stdout)
    return 0


def _limits_of(run: Path) -> Assumed:
    if not (run / "plan.json").is_file():
        raise RunError(f"Limits are read from a run's plan.json, but {run} has none; give the folder that --out named.")
    plan = read_json(run / "plan.json", PlanFile, "give the folder of another run")
    return Assumed(limits=Limits.from_dict(plan["limits"]), source=f"measured by the run {shown(run.resolve().name)}")


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
    from unsquare.report.plan.page import PlanView, write_plan_page  # loads matplotlib, which plans do without

    sizes = given.geometry.crop(given.geometry.resize(index.sizes))
    policies = [_other_form(plan, given, assumed.limits, index)]
    with progress_bar("planning other batching rules") as progress:
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
    least = None if form == "b2b" else given.plan.min_images
    config = replace(given.plan, steps=form, sampling="once", min_scale=None, min_images=least)
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
            "cost of few canvases",
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
            f"The {len(rows)} of {len(figures.buckets):,} buckets that pad the most pixels; --json lists all. Canvases "
            "are height x width."
        )
    else:
        console.print("Canvases are height x width.")
