"""How full micro-batches are, and whether any exceeds the budget: MAMe's shapes, planned and then really run.

First the fill in pixels. A micro-batch "should be full" if the same step planned without a budget would have made it
larger than the budget, that is where time asks for more than memory gives. Next to its fill is what whole images of its
canvas could fill at most. Then a network is probed within a budget in bytes, an epoch is planned, and its largest
micro-batches and random ones are trained on: the peak resident memory of each over the budget.

    python benchmarks/memory_fill.py shared/data/mame/MAMe_dataset.csv --out benchmarks/results/memory_fill-DATE.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets them
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch

from unsquare.capacity.fallbacks import Prober, Workload, measure_profiles
from unsquare.capacity.probes import measure, train_probe
from unsquare.index.scan import scan_source
from unsquare.memory.amounts import parse_bytes
from unsquare.memory.cache import MeasurementCache, cache_folder
from unsquare.network.classifier import Classifier
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.network.device import launch
from unsquare.network.engine import Engine
from unsquare.plan.analysis.table import PlanTable
from unsquare.plan.config import Limits, PlanConfig, StepForm
from unsquare.plan.planner import plan_epoch
from unsquare.runs.memory_profile import ProbeRange
from unsquare.shapes import Geometry, Shape, Sizes

CAPS = (250_000, 1_000_000, 4_000_000, 16_000_000)
BUDGETS = (4_000_000, 8_000_000, 16_000_000, 32_000_000, 64_000_000)
FACTORS = (2.3, 3.3, 4.7, 6.6, 9.3, 13.2)
"""Further budgets as multiples of the largest image, since budgets in bytes give no round numbers of pixels."""
UNBOUNDED = 1 << 50
FORMS: tuple[StepForm, ...] = ("mixed", "b2b")


def fills(sizes: Sizes, steps: StepForm, budget: int, launch_pixels: int) -> dict[str, Any]:
    """Fill of micro-batches that should be full, and of all; in `b2b`, all should be: only memory limits them."""
    limits = Limits(budget_pixels=budget, launch_pixels=launch_pixels)
    config = PlanConfig(steps=steps, step_images=256 if steps == "mixed" else None)
    bound = PlanTable.of_plan(plan_epoch(sizes, config, limits, 0))
    should = np.ones(len(bound.count), dtype=bool)
    if steps == "mixed":
        free = replace(limits, budget_pixels=UNBOUNDED)
        unbound = PlanTable.of_plan(plan_epoch(sizes, config, free, 0))
        wished = np.zeros(len(sizes))
        wished[unbound.images] = unbound.computed_pixels[unbound.batch_of_image]
        should = np.maximum.reduceat(wished[bound.images], bound.start) > budget
    canvas = bound.canvas.prod(axis=1)
    fill, possible = limits.fill(bound.computed_pixels), budget // canvas * canvas / budget
    return {
        "micro_batches": len(fill),
        "should_be_full": float(should.mean()),
        "median_fill": float(np.median(fill[should])) if should.any() else None,
        "median_possible": float(np.median(possible[should])) if should.any() else None,
        "median_share_of_possible": float(np.median((fill / possible)[should])) if should.any() else None,
        "highest_fill": float(fill.max()),
    }


def peaks(sizes: Sizes, backbone: str, budget: int, steps: StepForm, number: int) -> dict[str, Any]:
    """Real peaks of an epoch's largest micro-batches and of random ones, over the budget."""
    torch.manual_seed(0)
    engine = Engine(launch(DeviceConfig()), Classifier(ModelConfig(backbone=backbone), 29), OptimizerConfig())
    prober = Prober(engine, {"benchmark": "fill", "model": backbone}, MeasurementCache(cache_folder()))
    need = ProbeRange.of(sizes, 256, most_images=256 if steps == "mixed" else None)
    profile, _ = measure_profiles(prober, Workload(training=need, evaluation=need, budget_bytes=budget))
    limits = profile.limits(profile.launch_pixels, 1)
    table = PlanTable.of_plan(plan_epoch(sizes, PlanConfig(steps=steps), limits, 0))
    order = np.argsort(-limits.fill(table.computed_pixels), kind="stable")
    rng = np.random.default_rng(5)
    chosen = [*order[: number // 2], *rng.choice(len(order), number - number // 2, replace=False)]
    engine.model.train()
    rows = []
    for place in chosen:
        canvas, images = Shape(*map(int, table.canvas[place])), int(table.count[place])
        measured = profile.strategy_for(images * canvas.pixels)
        probe = measure(engine, train_probe, images, canvas, measured.strategy)
        predicted = measured.memory.peak_bytes(probe.pixels, images)
        rows.append({**asdict(probe), "strategy": measured.name, "predicted_bytes": predicted})
    shares = np.array([row["peak_bytes"] for row in rows]) / budget
    errors = np.array([row["predicted_bytes"] / row["peak_bytes"] - 1 for row in rows])
    return {
        "backbone": backbone,
        "steps": steps,
        "budget_bytes": budget,
        "limits": asdict(limits),
        "median_fill": float(np.median(limits.fill(table.computed_pixels))),
        "highest_peak": float(shares.max()),
        "median_peak_of_largest": float(np.median(shares[: number // 2])),
        "p95_error": float(np.quantile(abs(errors), 0.95)),
        "rows": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metadata", type=Path, help="MAMe's table of shapes")
    parser.add_argument("--memory", default="6GiB")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--cap", type=int, default=4_000_000, help="pixels of the largest image that is really run")
    parser.add_argument("--number", type=int, default=32, help="micro-batches that are really run")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    parser.add_argument("--child", choices=FORMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    shapes = scan_source(given.metadata).of_split("train").sizes
    if given.child:
        sizes = Geometry(max_pixels=given.cap).resize(shapes)
        print(json.dumps(peaks(sizes, given.backbone, parse_bytes(given.memory), given.child, given.number)))
        return
    results: dict[str, Any] = {
        "setting": {"machine": f"{platform.machine()}, {torch.get_num_threads()} threads", "torch": torch.__version__},
        "fills": [],
        "peaks": [],
    }
    print("steps   cap   launch   budget  should be full   fill  possible  share  highest")
    settings = [*product(FORMS, CAPS, (1 << 17, 1 << 20), BUDGETS)]
    settings += [(steps, cap, 1 << 20, int(factor * cap)) for steps, cap, factor in product(FORMS, CAPS, FACTORS)]
    for steps, cap, launch_pixels, budget in settings:
        sizes = Geometry(max_pixels=cap).resize(shapes)
        if budget < sizes.prod(axis=1).max():
            continue
        found = fills(sizes, steps, budget, launch_pixels)
        setting = {"steps": steps, "cap": cap, "launch_pixels": launch_pixels, "budget_pixels": budget}
        results["fills"].append({**setting, **found})
        if found["should_be_full"] >= 0.01:
            print(
                f"{steps:5} {cap / 1e6:6.2f} {launch_pixels / 1e6:8.2f} {budget / 1e6:8.0f} "
                f"{found['should_be_full']:15.0%} "
                f"{found['median_fill']:6.2f} {found['median_possible']:9.2f} "
                f"{found['median_share_of_possible']:6.2f} {found['highest_fill']:8.4f}",
                flush=True,
            )
    for steps in FORMS:  # each in a fresh process
        words = [sys.executable, __file__, *sys.argv[1:], "--child", steps]
        done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        results["peaks"].append(found)
        print(
            f"{given.backbone}, {steps}, {given.memory}: median fill {found['median_fill']:.2f}; highest peak "
            f"{found['highest_peak']:.3f} of the budget, median of the largest {found['median_peak_of_largest']:.3f}; "
            f"error p95 {found['p95_error']:.2%}",
            flush=True,
        )
    if given.out is not None:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
