"""Prepares everything that a run works with before its first step, and checks what could stop it later."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import torch
from lightning_fabric import Fabric

from unsquare.capacity.limits import (
    apply_heap,
    describe,
    identity_of,
    measure_limits,
    memory_flag,
    pictures_workload,
    pinned_limits,
    remember,
    require_budget,
    verified,
)
from unsquare.capacity.recovery import Recovery
from unsquare.data.loader import BatchLoader
from unsquare.errors import ConfigError, PlanError, SourceError
from unsquare.index.copies import find_copies
from unsquare.index.folds import with_folds
from unsquare.index.holdout import with_validation
from unsquare.index.remarks import row_remarks
from unsquare.index.scan import scan_source
from unsquare.index.table import Remark, ShapeIndex
from unsquare.index.text import shown
from unsquare.index.trainable import check_groups, check_targets, check_trainable
from unsquare.memory.amounts import format_bytes
from unsquare.memory.watch import Watch
from unsquare.network.engine import Engine
from unsquare.network.losses import Objective
from unsquare.network.norms import learns_statistics
from unsquare.plan.buckets.form import form_buckets
from unsquare.plan.config import Limits
from unsquare.plan.draw import class_weights
from unsquare.plan.epoch import EpochPlan
from unsquare.plan.planner import naming, plan_epoch
from unsquare.runs.folder import RunFolder
from unsquare.runs.memory_profile import MemoryProfile, ProbeRange, RunLimits
from unsquare.runs.schemas import Origin
from unsquare.shapes import Geometry, Sizes
from unsquare.training.components import DEFAULT, Components
from unsquare.training.config import TrainConfig
from unsquare.training.console import Console
from unsquare.training.epochs import Epochs, TrainingStage
from unsquare.training.evaluate import Evaluator, check_sides, check_statistics
from unsquare.training.loop import Session
from unsquare.training.other_run import take_head, trained_before
from unsquare.training.plan_file import write_plan
from unsquare.training.resolution import size_text, stage_geometry
from unsquare.training.sizes import size_search


def precision_name(fabric: Fabric) -> Any:
    """The precision that is used."""
    return fabric.strategy.precision.precision


def trainable_index(source: Path, config: TrainConfig, console: Console) -> ShapeIndex:
    """The source's index, checked, with a val split."""
    index = scan_source(source, task=config.task, progress=console.progress("reading headers"))
    _say(index.notes, console)
    num_bad = len(index.problems)
    index = check_trainable(index, skip_bad=config.saving.skip_bad)
    if num_bad:
        console.say(f"Left out {num_bad} files that cannot be read (--skip-bad); `unsquare scan` lists them.")
    saving, seed = config.saving, config.plan.seed
    copies = find_copies(index)
    if saving.folds is not None:
        index = with_folds(index, saving.folds, seed, copies.groups)[(saving.fold or 1) - 1]
    check_groups(index)
    if saving.validation_fraction == 0 and np.any(index.splits == "val"):
        console.say(
            "The source has a val split of its own, which is held out although --validation-fraction is 0; to train on "
            "all pictures, put those of val into train."
        )
    index = with_validation(index, saving.validation_fraction, seed, copies.groups)
    for split in ("train", "val") if saving.validation_fraction else ("train",):
        if not np.any(index.splits == split):
            raise SourceError(
                f"Training needs images in the splits train and val, but {source} has none in {split}; put some there, "
                "give each class more than one training image, so that some can be held out, or hold none out with "
                "--validation-fraction 0."
            )
    check_targets(index)
    _say(row_remarks(index, copies), console)
    return index


def _say(remarks: tuple[Remark, ...], console: Console) -> None:
    """Print the important remarks on a source."""
    for remark in remarks:
        if remark.important:
            console.say(remark.text)


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """What a run is to do, and in which folder."""

    run: RunFolder
    config: TrainConfig
    fabric: Fabric
    console: Console
    components: Components = DEFAULT


def prepare(
    job: TrainingJob,
    index: ShapeIndex,
    origin: Origin,
    limits: RunLimits | None = None,
    *,
    fresh: bool = True,
    auto_precision: bool = False,
) -> Session:
    """Prepare everything that a run works with; measures the device unless `limits` hold earlier measurements.

    All that could stop the run later is checked here: shapes of every split, and whether each image fits. The limits in
    `origin` are filled in.
    """
    run, config, fabric, components = job.run, job.config, job.fabric, job.components
    known = _known_to_other_run(config, index)
    train_index, validation = index.of_split("train"), index.of_split("val")
    evaluated = index.of_split("test") if np.any(index.splits == "test") else validation
    _require_val_for_patience(config, validation)
    sizes = config.geometry.crop(config.geometry.resize(train_index.sizes))
    engine = _engine(job, index, fresh)
    check_sides(train_index, sizes, engine.model.stride)
    for max_pixels, _ in config.resolution.stages:
        geometry = stage_geometry(config.geometry, max_pixels, engine.model.stride)
        check_statistics(train_index, geometry.crop(geometry.resize(train_index.sizes)), engine.model, max_pixels)
    job.console.say(_describe(run, index, config, engine))
    engine.scratch = run.path
    if limits is None:
        limits = _find_limits(engine, config, index, sizes, job.console, auto_precision)
    apply_heap(limits)

    def evaluator(geometry: Geometry, index: ShapeIndex) -> Evaluator:
        return Evaluator(engine, index, geometry, limits, config.device.workers, components.plan_in_order)

    with naming(train_index.keys, lambda pixels: _remedies(pixels, config, engine, limits)):
        on_val = partial(evaluator, index=validation) if len(validation) else None
        stage_of = _stage_maker(engine, config, train_index, limits.limits(fabric.world_size), on_val)
        epochs = _epochs(job, train_index, stage_of, limits.limits(fabric.world_size))
        plan = epochs.plan(next(epoch for epoch, stage in enumerate(epochs.stages) if stage.max_pixels is None))
    if len(evaluated):
        evaluator(config.geometry, evaluated)  # raises where a picture cannot be evaluated
    if fabric.is_global_zero:
        run.write_json(run.models, limits.to_dict())
        write_plan(
            run, config, plan, epochs.limits, train_index, model=engine.model, remarks=known, say=job.console.say
        )
    device = config.device
    return Session(
        run=run,
        origin=msgspec.structs.replace(origin, bounds=limits.to_dict()),
        config=config,
        engine=engine,
        epochs=epochs,
        limits=limits,
        loader=lambda geometry: BatchLoader(train_index, geometry, config.augment, device.workers),
        sizes=size_search(config.geometry, config.resolution, engine.model.stride, on_val, job.console.progress),
        final_evaluator=partial(evaluator, index=evaluated) if len(evaluated) else None,
        recovery=Recovery(engine, limits, device.max_strategy),
        watch=Watch(engine.device, lambda: engine.phase),
        console=job.console,
    )


def _known_to_other_run(config: TrainConfig, index: ShapeIndex) -> list[str]:
    """A remark where images that judge the run trained the weights that it starts from.

    Raises:
        ConfigError: they are folds, none of which would then be judged by images that its weights have not seen.
    """
    judging = index.take(index.splits != "train")
    known = int(trained_before(judging, config.model.from_run).sum())
    if not known:
        return []
    words = (
        f"The run in {config.model.from_run} was trained on {known:,} of the {len(judging):,} images that judge this"
    )
    if config.saving.folds is not None:
        raise ConfigError(f"{words} fold, so its figures would say little; leave --from-run or --folds out.")
    return [f"{words} run, so its figures say little about new ones; keep the split of that run, or judge by others."]


def _require_val_for_patience(config: TrainConfig, validation: ShapeIndex) -> None:
    if config.saving.patience is not None and not len(validation):
        raise ConfigError(
            "patience ends a run by its figures on val, but no images are held out; leave --patience out, or hold some "
            "out with --validation-fraction."
        )


def _engine(job: TrainingJob, index: ShapeIndex, fresh: bool) -> Engine:
    """The network on its device; a fresh one has the weights that the run starts from."""
    config = job.config
    torch.manual_seed(config.plan.seed)
    classifier = job.components.classifier(config.model, len(index.classes), load=fresh)
    if fresh and config.model.from_run is not None:
        take_head(classifier, config.model, index, job.console.say)
    return Engine(job.fabric, classifier, config.optimizer, Objective.of(index, config.optimizer))


def _stage_maker(
    engine: Engine,
    config: TrainConfig,
    index: ShapeIndex,
    limits: Limits,
    evaluator: Callable[[Geometry], Evaluator] | None,
) -> Callable[[int | None], TrainingStage]:
    """A function that gives the stage of a size, made once; `evaluator` makes that of val, if any."""

    @functools.cache
    def stage(max_pixels: int | None) -> TrainingStage:
        geometry = stage_geometry(config.geometry, max_pixels, engine.model.stride)
        if max_pixels is not None and geometry == config.geometry:
            return stage(None)
        sizes = geometry.crop(geometry.resize(index.sizes))
        needed, turns = config.plan.needs_buckets, config.augment.turns
        return TrainingStage(
            max_pixels=max_pixels,
            geometry=geometry,
            sizes=sizes,
            buckets=form_buckets(sizes, config.plan, limits, turns=turns) if needed else None,
            validation=None if evaluator is None else evaluator(geometry),
        )

    return stage


def _epochs(
    job: TrainingJob, index: ShapeIndex, stage_of: Callable[[int | None], TrainingStage], limits: Limits
) -> Epochs:
    """The plans of a run's epochs."""
    config = job.config
    return Epochs(
        config=config.plan,
        turns=config.augment.turns,
        stages=tuple(stage_of(config.resolution.max_pixels_of(epoch, config.epochs)) for epoch in range(config.epochs)),
        limits=limits,
        weights=class_weights(index.labels) if config.plan.sampling == "balanced" else None,
        planner=job.components.plan,
        stage_of=stage_of,
    )


def _find_limits(
    engine: Engine,
    config: TrainConfig,
    index: ShapeIndex,
    sizes: Sizes,
    console: Console,
    auto_precision: bool,
) -> RunLimits:
    """The limits set by the user, or measured by probes of the real network.

    Args:
        engine: the network on its device.
        config: the settings.
        index: all images of the run.
        sizes: training shapes, (N, 2).
        console: told about progress.
        auto_precision: whether the precision is auto.
    """
    device = config.device
    pinned = pinned_limits(engine, device, auto_precision=auto_precision)
    if pinned is not None:
        return pinned
    multiple = config.plan.multiple if config.plan.canvases is not None else 1
    padded = -(-sizes // multiple) * multiple
    mixed = config.plan.steps == "mixed"
    most_images = config.plan.most_images(len(sizes))
    workload = pictures_workload(
        engine,
        device,
        index,
        config.geometry,
        training=ProbeRange.of(padded, most_images, most_images=most_images if mixed else None),
        step_images=most_images,
    )
    may_use_bf16 = auto_precision and engine.fabric.strategy.precision.precision == "32-true"
    workload = replace(workload, may_use_bf16=may_use_bf16, may_keep_freed=mixed)
    console.say(f"Measuring memory and time within {format_bytes(workload.budget_bytes)} ...")

    def first_plan(limits: Limits) -> EpochPlan | None:
        try:
            full = replace(config.plan, sampling="once", min_scale=None)
            return plan_epoch(padded, full, limits, 0, turns=config.augment.turns)
        except PlanError:  # the run's own plan raises the same error
            return None

    def checked(profile: MemoryProfile) -> MemoryProfile:
        require_budget(engine, profile, index, config.geometry)
        return verified(engine, profile, first_plan, console.say)

    identity = identity_of(config.model, len(index.classes), config.optimizer)
    limits = measure_limits(engine, device, workload, identity, checked, auto_precision=auto_precision, say=console.say)
    assert limits.training is not None
    for line in describe(limits.training):
        console.say(line)
    remember(limits, config.model.backbone, engine)
    return limits


def _remedies(pixels: int, config: TrainConfig, engine: Engine, limits: RunLimits) -> str:
    """The remedies for an image of this many pixels that does not fit."""
    profile = limits.training
    if profile is None:
        return "raise --budget-pixels"
    found = []
    if (least := profile.least_budget_bytes(pixels)) is not None:
        found.append(f"give {memory_flag(engine, least)}")
    if config.device.max_strategy != "tile":
        found.append("leave --max-strategy out")
    elif not any(each.strategy.tiles for each in profile.measured):
        own = learns_statistics(engine.model)
        found.append("try --norm frozen" if own else "try a network that can be tiled, such as convnext_atto")
    if precision_name(engine.fabric) == "32-true" and not any(each.strategy.bf16 for each in profile.measured):
        found.append("try --precision bf16-mixed")
    return ", ".join(found)


def _describe(run: RunFolder, index: ShapeIndex, config: TrainConfig, engine: Engine) -> str:
    counts = ", ".join(f"{len(index.of_split(s)):,} {s}" for s in ("train", "val", "test") if len(index.of_split(s)))
    pixels = index.sizes.prod(axis=1)
    bound = config.geometry.max_pixels
    shrunk = f", shrunk to at most {size_text(bound)}" if bound is not None and bound < pixels.max() else ""
    return (
        f"{run.path}: recipe {config.optimizer.recipe}, {config.model.backbone} on {engine.device}, "
        f"{config.device.precision}; {_learned(index)}, {counts} images of {pixels.min() / 1e6:.2f} to "
        f"{pixels.max() / 1e6:.2f} MP{shrunk}."
    )


def _learned(index: ShapeIndex) -> str:
    """What is learned, in words."""
    if index.task == "regression":
        return f"the number '{shown(index.classes[0])}'"
    return f"{len(index.classes)} {'classes' if index.task == 'classification' else 'labels'}"
