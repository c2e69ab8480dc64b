"""Whether memory stays flat over thousands of shapes: a micro-batch on each of 2,000 canvases, in the worst order.

Canvases are distinct, MAMe's shapes at 0.04 to 0.4 MP. The largest and the smallest of the rest alternate, which is
worst for an allocator. Each is trained on once. Recorded are the peak resident memory during the micro-batch (the
kernel's high-water mark), the resident memory after it, what the C library counts as in use, and what the control group
is charged. `--heap default` leaves the C library's defaults, for comparison.

    python benchmarks/memory_soak.py shared/data/mame/MAMe_dataset.csv --out benchmarks/results/memory_soak-DATE.json
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets them
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import numpy as np
import torch

from unsquare.capacity.probes import train_probe
from unsquare.execution.strategy import PLAIN
from unsquare.memory import heap
from unsquare.memory.meter import PeakMeter, resident_bytes
from unsquare.network import engine as engine_module
from unsquare.network.classifier import Classifier
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.network.device import launch
from unsquare.network.engine import Engine
from unsquare.shapes import Shape

MICRO_BATCHES = 8
"""Micro-batches of a step, after which a run returns small blocks."""
LEAST_PIXELS, MOST_PIXELS = 40_000, 400_000


def canvases(path: Path, number: int) -> list[Shape]:
    """Distinct canvases: largest, smallest, second largest, second smallest, and so on."""
    with path.open(newline="") as file:
        sizes = np.array([(float(row["Height"]), float(row["Width"])) for row in csv.DictReader(file)])
    rng = np.random.default_rng(3)
    sizes = sizes[rng.permutation(len(sizes))]
    pixels = np.exp(rng.uniform(np.log(LEAST_PIXELS), np.log(MOST_PIXELS), len(sizes)))
    scaled = np.maximum((sizes * np.sqrt(pixels / sizes.prod(axis=1))[:, None]).round().astype(int), 33)
    distinct = list(dict.fromkeys(map(tuple, scaled.tolist())))[:number]
    ordered = sorted((Shape(*size) for size in distinct), key=lambda shape: shape.pixels)
    return [ordered.pop() if turn % 2 == 0 else ordered.pop(0) for turn in range(len(ordered))]


def charged_bytes() -> int | None:
    """What this control group is charged with, where it can be read."""
    for name in ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"):
        if Path(name).is_file():
            return int(Path(name).read_text())
    return None


def growth(values: np.ndarray, part: float = 0.1) -> float:
    """Median of the last tenth minus that of the second."""
    each = max(1, int(len(values) * part))
    return float(np.median(values[-each:]) - np.median(values[each : 2 * each]))


def draw(heaps: dict[str, dict[str, list[Any]]], path: Path) -> None:
    """Resident memory after each micro-batch, and the peak during it, for each heap."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    names = {"return": "freed memory is returned", "keep": "freed memory is kept", "default": "the C library's default"}
    for color, name in (("tab:blue", "return"), ("tab:orange", "keep"), ("tab:gray", "default")):
        if name not in heaps:
            continue
        shown = slice(None, None, max(1, len(heaps[name]["resident"]) // 500))
        place = np.arange(len(heaps[name]["resident"]))[shown]
        peak, resident = (np.array(heaps[name][column])[shown] / 2**20 for column in ("peak", "resident"))
        axes.plot(place, peak, ",", color=color, alpha=0.6)
        axes.plot(place, resident, color=color, linewidth=1.3, label=names[name])
    axes.set_xlabel("micro-batch, each on a canvas of its own")
    axes.set_ylabel("memory, MiB")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", title="after each (lines), highest during each (dots)")
    axes.grid(alpha=0.3)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("metadata", type=Path, help="MAMe's table of shapes")
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--number", type=int, default=2000)
    parser.add_argument("--heap", choices=("return", "keep", "default"), default="return")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON; those of other heaps stay")
    parser.add_argument("--figure", type=Path, help="draw the numbers in --out, as SVG")
    given = parser.parse_args()
    torch.manual_seed(0)
    if given.heap == "default":
        engine_module.return_freed = lambda: None  # type: ignore[assignment]
    engine = Engine(launch(DeviceConfig()), Classifier(ModelConfig(backbone=given.backbone), 29), OptimizerConfig())
    if given.heap == "keep":
        heap.keep_freed()
    meter = PeakMeter(engine.device)
    columns: dict[str, list[Any]] = {name: [] for name in ("pixels", "peak", "resident", "in_use", "charged")}
    started = time.perf_counter()
    for number, canvas in enumerate(canvases(given.metadata, given.number)):
        meter.start()
        train_probe(engine, 1, canvas, PLAIN)
        for name, value in (
            ("pixels", canvas.pixels),
            ("peak", meter.stop()),
            ("resident", resident_bytes()),
            ("in_use", heap.in_use_bytes()),
            ("charged", charged_bytes()),
        ):
            columns[name].append(value)
        if given.heap == "return" and number % MICRO_BATCHES == 0:
            heap.trim()
        if number % 100 == 99:
            print(f"{number + 1:5}  resident {columns['resident'][-1] / 2**20:6.0f} MiB", flush=True)
    resident = np.array(columns["resident"]) / 2**20
    peaks = np.array(columns["peak"]) / 2**20
    speed = sum(columns["pixels"]) / (time.perf_counter() - started) / 1e6
    print(
        f"{given.heap}: resident after each {resident.min():.0f} to {resident.max():.0f} MiB, last tenth against "
        f"second {growth(resident):+.1f} MiB; highest peak {peaks.max():.0f} MiB, at micro-batch {peaks.argmax() + 1}; "
        f"{speed:.2f} MP/s"
    )
    if given.out is not None:
        results = json.loads(given.out.read_text()) if given.out.exists() else {"heaps": {}}
        results["setting"] = {
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "torch": torch.__version__,
            "backbone": given.backbone,
        }
        results["heaps"][given.heap] = columns
        given.out.write_text(json.dumps(results) + "\n")
        if given.figure is not None:
            draw(results["heaps"], given.figure)


if __name__ == "__main__":
    main()
