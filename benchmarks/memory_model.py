"""How well probe steps predict memory: peaks of micro-batches that were not probed, against the model.

For each network a process of its own probes as a run does, and then trains on held-out shapes and counts: wide, tall,
one large image, many small ones. A peak is the operating system's high-water mark of the whole process. The model
allows for kernels that the library compiles for new shapes, so 64 other small shapes run in between, as in a run's
first seconds. For comparison there is the prediction from three probes of one shape only.

    python benchmarks/memory_model.py --out benchmarks/results/memory_model-DATE.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets them
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import msgspec
import numpy as np
import torch

from unsquare.capacity.fallbacks import Prober, Workload, measure_profiles
from unsquare.capacity.probes import measure, train_probe
from unsquare.memory.cache import MeasurementCache
from unsquare.network.classifier import Classifier
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.network.device import launch
from unsquare.network.engine import Engine
from unsquare.runs.memory_profile import ProbeRange
from unsquare.shapes import Shape

NETWORKS = ("resnet18", "resnet50", "convnext_atto", "efficientnet_b0", "regnety_004")
BUDGET = 10 << 30
NEED = ProbeRange(largest_image=4_000_000, usual_pixels=4_000_000, smallest_image=10_000, most_images=None)


def held_out(largest_pixels: int, number: int) -> list[tuple[int, Shape]]:
    """Counts and canvases that differ from all probes: log-uniform pixels, aspects to 30:1, up to 300 images."""
    rng = np.random.default_rng(7)
    found: list[tuple[int, Shape]] = []
    while len(found) < number:
        total = np.exp(rng.uniform(np.log(150_000), np.log(largest_pixels)))
        images = int(rng.choice([1, 1, 2, 3, 5, 9, 30, 120, 300]))
        aspect = np.exp(rng.uniform(-np.log(30), np.log(30)) * rng.choice([0.3, 1.0]))
        height, width = (int(side) for side in (np.sqrt(total / images / aspect), np.sqrt(total / images * aspect)))
        if min(height, width) >= 48:
            found.append((images, Shape(height, width)))
    return found


def print_peaks(name: str, number: int) -> None:
    """The child's part: probe, then run held-out micro-batches."""
    torch.manual_seed(0)
    fabric = launch(DeviceConfig())
    engine = Engine(fabric, Classifier(ModelConfig(backbone=name), 29), OptimizerConfig())
    started = time.perf_counter()
    workload = Workload(training=NEED, evaluation=NEED, budget_bytes=BUDGET, most="plain")
    profile, _ = measure_profiles(Prober(engine, {}, MeasurementCache(None)), workload)
    probing_s = time.perf_counter() - started
    measured = profile.base
    few = [p for p in measured.probes if p.images == 1 and p.height == p.width][:3]
    slope = (few[-1].peak_bytes - few[0].peak_bytes) / (few[-1].pixels - few[0].pixels)
    for height, width in np.random.default_rng(1).integers(48, 145, (64, 2)).tolist():
        train_probe(engine, 1, Shape(height, width), measured.strategy)
    rows = []
    largest = int(measured.memory.largest_pixels(int(0.8 * BUDGET)))
    for images, canvas in held_out(min(largest, 8_000_000), number):
        probe = measure(engine, train_probe, images, canvas, measured.strategy)
        rows.append(
            {
                "images": images,
                "height": canvas.height,
                "width": canvas.width,
                "peak_bytes": probe.peak_bytes,
                "predicted_bytes": measured.memory.peak_bytes(probe.pixels, images),
                "by_three_squares": few[0].peak_bytes + slope * (probe.pixels - few[0].pixels),
                "seconds": probe.seconds,
            }
        )
    engine_facts = {"precision": str(fabric.strategy.precision.precision), "probing_s": probing_s}
    print(json.dumps({**engine_facts, "measured": msgspec.to_builtins(measured), "rows": rows}))


def errors(rows: list[dict[str, Any]], column: str = "predicted_bytes") -> np.ndarray:
    """Relative errors of predictions, above 0 where the prediction is too high."""
    return np.array([row[column] / row["peak_bytes"] - 1 for row in rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=NETWORKS)
    parser.add_argument("--number", type=int, default=24, help="held-out micro-batches of each network")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print_peaks(given.models[0], given.number)
        return
    results: dict[str, Any] = {
        "setting": {
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "budget_bytes": BUDGET,
            "number": given.number,
        },
        "models": {},
    }
    print(f"{'model':16}  probing bytes/px  median    p95   least    most 3 squares p95")
    for name in given.models:
        words = [sys.executable, __file__, name, "--child", "--number", str(given.number)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        found = results["models"][name] = json.loads(done.stdout.splitlines()[-1])
        own, few = errors(found["rows"]), errors(found["rows"], "by_three_squares")
        found |= {"median_error": float(np.median(abs(own))), "p95_error": float(np.quantile(abs(own), 0.95))}
        print(
            f"{name:16} {found['probing_s']:7.1f}s {found['measured']['memory']['bytes_per_pixel']:8.0f} "
            f"{found['median_error']:7.2%} {found['p95_error']:6.2%} {own.min():+7.2%} {own.max():+7.2%} "
            f"{np.quantile(abs(few), 0.95):13.2%}",
            flush=True,
        )
    if given.out is not None:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
