"""Fallbacks at work: one image of each size within a budget, by the first strategy that holds it.

Each row is a process of its own that measures strategies as a run does, trains on the image once by the chosen one, and
reads its peak from the operating system's high-water mark (VmHWM, everything counted). The gradient's error is that of
the same strategy against the plain network, in float32 on an image that the plain network can hold: the largest
difference over the largest gradient, of the worst parameter.

    python benchmarks/memory_fallbacks.py --out benchmarks/results/memory_fallbacks-DATE.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets them
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch

from unsquare.capacity.fallbacks import Prober, Workload, measure_profiles
from unsquare.capacity.probes import held_bytes, synthetic_batch
from unsquare.execution.strategy import PLAIN, Strategy
from unsquare.memory.amounts import parse_bytes
from unsquare.memory.cache import MeasurementCache, cache_folder
from unsquare.memory.meter import PeakMeter
from unsquare.network.classifier import Classifier
from unsquare.network.config import DeviceConfig, ModelConfig, OptimizerConfig
from unsquare.network.device import launch
from unsquare.network.engine import Engine
from unsquare.runs.memory_profile import ProbeRange
from unsquare.shapes import Shape

ROWS = (  # network, norms, budget, height, width
    ("convnext_atto", "own", "8GiB", 4096, 4096),
    ("convnext_atto", "own", "8GiB", 8000, 8000),
    ("convnext_atto", "own", "4GiB", 8000, 8000),
    ("resnet18", "frozen", "8GiB", 8000, 8000),
    ("resnet18", "frozen", "4GiB", 8000, 8000),
    ("resnet18", "own", "20GiB", 12000, 12000),
    ("convnext_atto", "own", "20GiB", 21600, 17280),
    ("resnet18", "frozen", "20GiB", 21600, 17280),
)
COMPARED = Shape(2400, 2200)
"""Where gradients are compared."""


def engine_of(name: str, norm: Any, precision: Any) -> Engine:
    torch.manual_seed(0)
    model = Classifier(ModelConfig(backbone=name, norm=norm), 29)
    return Engine(launch(DeviceConfig(precision=precision)), model, OptimizerConfig())


def gradient_error(name: str, norm: str, strategy: Strategy) -> float:
    """The largest difference from the plain network's gradient, over the largest gradient of that parameter."""
    engine = engine_of(name, norm, "32-true")
    own = replace(strategy, bf16=False)
    if strategy.tiles:  # tiles of at most half the compared image's side, so that there are several
        parts = [replace(s, tile_side=min(s.tile_side, 1000)) if s.how == "tile" else s for s in strategy.segments]
        own = replace(own, segments=tuple(parts))
    kept: list[list[torch.Tensor]] = []
    for each in (PLAIN, own):
        engine.forget_gradients()
        state = {key: value.clone() for key, value in engine.model.state_dict().items()}
        engine.accumulate(synthetic_batch(1, COMPARED), 1.0, each)
        kept.append([p.grad.clone() for p in engine.model.parameters() if p.grad is not None])
        engine.model.load_state_dict(state)
    plain, found = kept
    return max(float((a - b).abs().max() / a.abs().max().clamp_min(1e-12)) for a, b in zip(plain, found))


def print_row(name: str, norm: str, budget: int, canvas: Shape) -> None:
    """The child's part."""
    engine = engine_of(name, norm, "auto")
    started = time.perf_counter()
    prober = Prober(engine, {"benchmark": "fallbacks", "model": name, "norm": norm}, MeasurementCache(cache_folder()))
    need = ProbeRange(canvas.pixels, canvas.pixels, canvas.pixels, 1)
    profile, _ = measure_profiles(prober, Workload(training=need, evaluation=need, budget_bytes=budget))
    measuring_s = time.perf_counter() - started
    measured = profile.strategy_for(canvas.pixels)
    held_bytes(engine)
    batch = synthetic_batch(1, canvas)
    meter = PeakMeter(engine.device)
    meter.start()
    started = time.perf_counter()
    loss, _ = engine.accumulate(batch, 1.0, measured.strategy)
    engine.update(1e-4)
    seconds = time.perf_counter() - started
    segments = [(s.how, s.stop - s.start, s.tile_side) for s in measured.strategy.segments]
    print(
        json.dumps(
            {
                "name": measured.name,
                "strategy": measured.strategy.to_dict(),
                "segments": segments,
                "holds_pixels": dict(zip((each.name for each in profile.strategies), profile.most_pixels)),
                "price": measured.time.s_per_pixel / profile.base.time.s_per_pixel,
                "predicted_bytes": measured.memory.peak_bytes(canvas.pixels),
                "peak_bytes": meter.stop(),
                "seconds": seconds,
                "loss": loss,
                "measuring_s": measuring_s,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, nargs="*", default=range(len(ROWS)), help="which rows, by number")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON; rows already in it stay")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--error", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        name, norm, budget, height, width = given.child
        print_row(name, norm, parse_bytes(budget), Shape(int(height), int(width)))
        return
    if given.error:
        name, norm, strategy = given.error
        print(gradient_error(name, norm, Strategy.from_dict(json.loads(strategy))))
        return
    results: dict[str, Any] = {"rows": []}
    if given.out is not None and given.out.exists():
        results = json.loads(given.out.read_text())
    results["setting"] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    print(f"{'network':22} {'MP':>6} {'budget':>7}  strategy    predicted   peak GiB  seconds  MP/s  gradient error")
    for number in given.rows:
        words = [str(word) for word in ROWS[number]]
        found = json.loads(child(["--child", *words]))
        found["gradient_error"] = float(child(["--error", *words[:2], json.dumps(found["strategy"])]))
        name, norm, budget, height, width = ROWS[number]
        setting = {"network": name, "norm": norm, "budget": budget, "height": height, "width": width}
        results["rows"] = [row for row in results["rows"] if {k: row[k] for k in setting} != setting]
        results["rows"].append(setting | found)
        print(
            f"{name + ' ' + norm:22} {height * width / 1e6:6.0f} {budget:>7}  {found['name']:10} "
            f"{found['predicted_bytes'] / 2**30:10.2f} {found['peak_bytes'] / 2**30:10.2f} {found['seconds']:8.1f} "
            f"{height * width / 1e6 / found['seconds']:5.2f}  {found['gradient_error']:.1e}",
            flush=True,
        )
        if given.out is not None:
            given.out.write_text(json.dumps(results, indent=1) + "\n")


def child(words: list[str]) -> str:
    """The last line that a child process prints."""
    done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{words}: status {done.returncode}\n{done.stderr[-2000:]}")
    return done.stdout.splitlines()[-1]


if __name__ == "__main__":
    main()
