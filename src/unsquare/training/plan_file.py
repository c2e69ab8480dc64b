"""`plan.json`: the plan of an epoch at full size, and what about it may keep a network from learning well."""

from __future__ import annotations

from dataclasses import asdict, replace

import numpy as np
from torch import nn

from unsquare.index.table import ShapeIndex
from unsquare.plan.analysis.ledger import ledger
from unsquare.plan.analysis.table import PlanTable
from unsquare.plan.config import Limits
from unsquare.plan.epoch import EpochPlan
from unsquare.progress import Say
from unsquare.runs.folder import RunFolder
from unsquare.runs.schemas import PLAN_VERSION
from unsquare.training.config import TrainConfig

FEW_IMAGES = 4
"""Images of a micro-batch below which batch norms are remarked on."""
WRITTEN_STEPS = 2048
"""Most steps of an epoch that are written, of half a million images: some seconds of planning in mixed, two minutes
where micro-batches have a least number of images."""


def write_plan(
    run: RunFolder,
    config: TrainConfig,
    plan: EpochPlan,
    limits: Limits,
    index: ShapeIndex,
    *,
    model: nn.Module,
    remarks: list[str],
    say: Say,
) -> None:
    """Write the plan of an epoch with remarks; for a very long one only its first steps, so that training starts
    sooner.

    Args:
        run: the run.
        config: its settings.
        plan: the plan of an epoch at full size.
        limits: what it keeps to.
        index: the training pictures.
        model: the network.
        remarks: what else to know about the run.
        say: told of the plan and the remarks.
    """
    num_steps = len(plan.steps)
    plan = replace(plan, steps=plan.steps[:WRITTEN_STEPS])
    table = PlanTable.of_plan(plan)
    labels = index.labels if index.task == "classification" else None
    figures = ledger(plan, config.plan, limits, labels, len(index.classes), table=table)
    remarks = [*remarks, *plan_remarks(model, int(np.median(table.count)))]
    content = {
        "version": PLAN_VERSION,
        "config": asdict(config.plan),
        "limits": asdict(limits),
        "steps_of_epoch": num_steps,
        "ledger": figures.to_dict(),
        "micro_batches": np.column_stack([table.count, table.canvas]).tolist(),
        "remarks": remarks,
    }
    run.write_json(run.plan, content)
    written = "" if figures.num_steps == num_steps else f", the first {figures.num_steps:,} of which are"
    full = " at full size" if config.resolution.chooses else ""
    say(
        f"An epoch{full} is {num_steps:,} steps{written} and {figures.num_micro_batches:,} micro-batches; padding adds "
        f"{figures.padding_overhead:.1%}."
    )
    for remark in remarks:
        say(remark)


def plan_remarks(model: nn.Module, usual_images: int) -> list[str]:
    """What about a plan may keep a network from learning well; `usual_images` are those of its median micro-batch."""
    own = any(isinstance(module, nn.BatchNorm2d) and module.training for module in model.train().modules())
    if not own or usual_images >= FEW_IMAGES:
        return []
    return [
        f"Batch norms learn from the images of one micro-batch, but half of the micro-batches have at most "
        f"{usual_images}; use --norm frozen with pretrained weights or --norm group without, give more --memory, or "
        "raise --min-images."
    ]
