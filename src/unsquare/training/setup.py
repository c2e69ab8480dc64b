"""Everything a run works with, made ready before its first step; what could stop it later is looked at here."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn

from unsquare.data.loader import BatchLoader
from unsquare.errors import SourceError
from unsquare.index.copies import find_copies
from unsquare.index.holdout import with_validation
from unsquare.index.remarks import row_remarks
from unsquare.index.scan import scan_source
from unsquare.index.table import Remark, ShapeIndex
from unsquare.index.trainable import check_trainable
from unsquare.memory.watch import Watch
from unsquare.network.engine import Engine
from unsquare.plan.buckets import form_buckets
from unsquare.plan.columns import Columns
from unsquare.plan.config import Limits
from unsquare.plan.epoch import EpochPlan
from unsquare.plan.ledger import ledger
from unsquare.plan.naming import naming
from unsquare.plan.repeats import class_weights
from unsquare.runs.folder import RunFolder
from unsquare.runs.schemas import Origin
from unsquare.training.bounds import Bounds, measure_bounds, memory_flag
from unsquare.training.config import TrainConfig
from unsquare.training.console import Console
from unsquare.training.evaluate import Evaluator, check_sides, check_statistics
from unsquare.training.loop import Session
from unsquare.training.recipes import DEFAULT, Recipe
from unsquare.training.recovery import Recovery


def precision_name(fabric: Fabric) -> Any:
    """The precision that was chosen."""
    return fabric.strategy.precision.precision


def trainable_index(source: Path, config: TrainConfig, console: Console) -> ShapeIndex:
    """The source's index, checked, with a val split."""
    index = scan_source(source, progress=console.progress("reading headers"))
    _say(index.notes, console)
    num_bad = len(index.problems)
    index = check_trainable(index, skip_bad=config.saving.skip_bad)
    if num_bad:
        console.say(f"Left out {num_bad} files that cannot be read, as --skip-bad asks; `unsquare scan` lists them.")
    copies = find_copies(index)
    index = with_validation(index, config.saving.validation_fraction, config.plan.seed, copies.groups)
    for split in ("train", "val"):
        if not np.any(index.splits == split):
            raise SourceError(
                f"Training needs images in the splits train and val, but {source} has none in {split}; "
                "put some there, or give each class more than one training image to hold out."
            )
    _say(row_remarks(index, copies), console)
    return index


def _say(remarks: tuple[Remark, ...], console: Console) -> None:
    """Say the important remarks on a source."""
    for remark in remarks:
        if remark.important:
            console.say(remark.text)


def prepare(
    run: RunFolder,
    config: TrainConfig,
    fabric: Fabric,
    console: Console,
    index: ShapeIndex,
    origin: Origin,
    bounds: Bounds | None = None,
    recipe: Recipe = DEFAULT,
    *,
    fresh: bool = True,
    auto_precision: bool = False,
) -> Session:
    """Everything a run works with; measures the device unless `bounds` hold what was measured before.

    All that could stop the run later is looked at here: shapes of every split, and whether each image fits. Of `origin`
    the bounds are filled in.
    """
    train_index, validation = index.of_split("train"), index.of_split("val")
    judged = index.of_split("test") if np.any(index.splits == "test") else validation
    sizes = config.geometry.crop(config.geometry.resize(train_index.sizes))
    torch.manual_seed(config.plan.seed)
    engine = Engine(fabric, recipe.classifier(config.model, len(index.classes), load=fresh), config.optimizer)
    check_sides(train_index, sizes, engine.model.stride)
    check_statistics(train_index, sizes, engine.model)
    console.say(_describe(run, index, config, engine))
    engine.scratch = run.path
    if bounds is None:
        bounds = measure_bounds(engine, config, index, sizes, console, auto_precision=auto_precision)
    bounds.apply_heap()
    limits = bounds.limits(fabric.world_size)
    with naming(train_index, lambda pixels: _remedies(pixels, config, engine, bounds)):
        buckets = None
        if config.plan.needs_buckets:
            buckets = form_buckets(sizes, config.plan, limits, turns=config.augment.turns)
        weights = class_weights(train_index.labels) if config.plan.sampling == "balanced" else None
        plan = recipe.plan(sizes, config.plan, limits, 0, turns=config.augment.turns, buckets=buckets, weights=weights)
    if fabric.is_global_zero:
        run.write_json(run.models, bounds.to_dict())
        _write_plan(run, config, limits, plan, train_index, console)
    return Session(
        run=run,
        origin=msgspec.structs.replace(origin, bounds=json.loads(json.dumps(bounds.to_dict()))),
        config=config,
        engine=engine,
        train=train_index,
        sizes=sizes,
        buckets=buckets,
        weights=weights,
        limits=limits,
        loader=BatchLoader(train_index, config.geometry, config.augment, config.device.workers),
        validation=_evaluator(engine, config, bounds, validation, recipe),
        judged=judged,
        judge=_evaluator(engine, config, bounds, judged, recipe),
        bounds=bounds,
        recovery=Recovery(engine, bounds, config.device.highest_rung, console.say),
        recipe=recipe,
        watch=Watch(engine.device, lambda: engine.phase),
        console=console,
    )


def _remedies(pixels: int, config: TrainConfig, engine: Engine, bounds: Bounds) -> str:
    """What helps an image of so many pixels that does not fit."""
    capacity = bounds.capacity
    if capacity is None:
        return "raise --budget-pixels"
    found = []
    if (least := capacity.least_budget_bytes(pixels)) is not None:
        found.append(f"give {memory_flag(engine, least)}")
    if config.device.highest_rung != "stream":
        found.append("leave --highest-rung out")
    elif not any(rung.way.streams for rung in capacity.rungs):
        batch_norms = any(isinstance(module, nn.BatchNorm2d) for module in engine.model.modules())
        own = batch_norms and config.model.norm == "own"
        found.append("try --norm frozen" if own else "try a network that can run piece by piece, such as convnext_atto")
    if precision_name(engine.fabric) == "32-true" and not any(rung.way.bf16 for rung in capacity.rungs):
        found.append("try --precision bf16-mixed")
    return ", ".join(found)


def _evaluator(engine: Engine, config: TrainConfig, bounds: Bounds, index: ShapeIndex, recipe: Recipe) -> Evaluator:
    return Evaluator(engine, index, config.geometry, bounds, config.device.workers, recipe.plan_in_order)


WRITTEN_STEPS = 8192
"""Steps of the first epoch that plan.json holds at most: a minute of planning in mixed, two million images."""


def _write_plan(
    run: RunFolder, config: TrainConfig, limits: Limits, plan: EpochPlan, index: ShapeIndex, console: Console
) -> None:
    """Write the first epoch's plan; of a very long one the first steps, so that training need not wait for the rest."""
    num_steps = len(plan.steps)
    plan = replace(plan, steps=plan.steps[:WRITTEN_STEPS])
    columns = Columns.of(plan, limits)
    figures = ledger(plan, config.plan, limits, index.labels, len(index.classes), columns=columns)
    micro_batches = np.column_stack([columns.count, columns.canvas]).tolist()
    content = {"version": 1, "config": asdict(config.plan), "limits": asdict(limits), "steps_of_epoch": num_steps}
    run.write_json(run.plan, content | {"ledger": figures.to_dict(), "micro_batches": micro_batches})
    written = "" if figures.num_steps == num_steps else f", the first {figures.num_steps:,} of which are"
    console.say(
        f"An epoch is {num_steps:,} steps{written} and {figures.num_micro_batches:,} micro-batches; padding adds "
        f"{figures.padding_overhead:.1%}."
    )


def _describe(run: RunFolder, index: ShapeIndex, config: TrainConfig, engine: Engine) -> str:
    counts = ", ".join(f"{len(index.of_split(s)):,} {s}" for s in ("train", "val", "test") if len(index.of_split(s)))
    megapixels = index.sizes.prod(axis=1) / 1e6
    return (
        f"{run.path}: {config.model.backbone} on {engine.device}, {config.device.precision}; {len(index.classes)} "
        f"classes, {counts} images of {megapixels.min():.2f} to {megapixels.max():.2f} MP."
    )
