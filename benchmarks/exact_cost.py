"""What exactness costs: a training step of the exact network against the stock network on the same padded batch.

In one run, alternating, so that ratios hold on a machine whose speed drifts: the stock network on the padded batch
(whose answers are wrong: it is the limit, not an alternative), the exact network, the exact network with masks over
whole tensors, and the stock network on each image alone (right, and what exactness saves). Then the peak memory of one
step, each in a process of its own.

    python benchmarks/exact_cost.py resnet50 convnext_tiny --out benchmarks/results/exact_cost-DATE.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets it
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

import torch

from unsquare.exact import make_exact
from unsquare.memory.heap import release_unused
from unsquare.memory.meter import PeakMeter
from unsquare.torchvision_guard import import_timm

timm = import_timm()

CANVAS = (256, 320)
SIZES = [(256, 320), (250, 316), (256, 306), (244, 320), (250, 312), (244, 310), (256, 300), (240, 320)]
VARIANTS = ("stock", "exact", "masks", "alone")


def batch(device: torch.device, scale: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (N, 3, H, W) of the canvas, and sizes (N, 2), all sides times a scale."""
    canvas = [scale * side for side in CANVAS]
    pixels = torch.randn(len(SIZES), 3, *canvas, generator=torch.Generator().manual_seed(0))
    return pixels.to(device).contiguous(memory_format=torch.channels_last), scale * torch.tensor(SIZES)


def step(
    name: str, variant: str, device: torch.device, dtype: torch.dtype, compiled: bool, scale: int = 1
) -> Callable[[], None]:
    """One forward and backward pass of a variant."""
    torch.manual_seed(0)
    model: Any = timm.create_model(name).to(device, memory_format=torch.channels_last).train()
    if variant in ("exact", "masks"):
        model = make_exact(model)
        model.exact_passes.by_masks = variant == "masks"
    if compiled:
        model = torch.compile(model)
    pixels, sizes = batch(device, scale)
    groups: list[tuple[torch.Tensor, ...]] = [(pixels, sizes)]
    if variant == "stock":
        groups = [(pixels,)]
    if variant == "alone":
        alone = (pixels[i : i + 1, :, :h, :w] for i, (h, w) in enumerate(sizes.tolist()))
        groups = [(image.contiguous(memory_format=torch.channels_last),) for image in alone]

    def run() -> None:
        for inputs in groups:
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = model(*inputs).float().square().mean()
            loss.backward()
        model.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def seconds(run: Callable[[], None]) -> float:
    """How long one step takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def peak_bytes(words: list[str]) -> int:
    """How much a step raises a process's memory at its peak, measured in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *words], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


def print_peak(name: str, variant: str, device: torch.device, dtype: torch.dtype, scale: int) -> None:
    """The child's part: three steps, the last measured from a trimmed heap."""
    run, meter = step(name, variant, device, dtype, False, scale), PeakMeter(device)
    peaks = []
    for _ in range(3):
        release_unused()
        meter.start()
        run()
        peaks.append(meter.stop())
    print(peaks[-1])


def measured(name: str, given: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Times, ratios and peaks of a network's variants."""
    runs = {variant: step(name, variant, device, dtype, given.compile, given.scale) for variant in VARIANTS}
    for _ in range(2):
        for run in runs.values():
            run()
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    for _ in range(given.rounds):
        for variant, run in runs.items():
            times[variant].append(seconds(run))
    del runs
    found: dict[str, Any] = {}
    for variant, own in times.items():
        ratios = [one / stock for one, stock in zip(own, times["stock"])]
        found[variant] = {"seconds": statistics.median(own), "ratio": statistics.quantiles(ratios, n=4)}
    for variant in ("stock", "exact", "masks"):
        words = [name, "--peak", variant, "--device", given.device, "--dtype", given.dtype, "--scale", str(given.scale)]
        found[variant]["peak_bytes"] = statistics.median(peak_bytes(words) for _ in range(given.peaks))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peaks", type=int, default=3, help="processes per measured peak")
    parser.add_argument("--scale", type=int, default=1, help="sides of all images times this")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--compile", action="store_true", help="torch.compile every variant")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    given = parser.parse_args()
    device, dtype = torch.device(given.device), getattr(torch, given.dtype)
    if given.peak:
        print_peak(given.models[0], given.peak, device, dtype, given.scale)
        return
    real = sum(height * width for height, width in SIZES)
    setting = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads" if device.type == "cpu" else
        torch.cuda.get_device_name(device),
        "torch": torch.__version__,
        "dtype": given.dtype,
        "compiled": given.compile,
        "rounds": given.rounds,
        "canvas": [len(SIZES), *(given.scale * side for side in CANVAS)],
        "padding": len(SIZES) * CANVAS[0] * CANVAS[1] / real - 1,
    }  # fmt: skip
    print(*(f"{name}: {value}" for name, value in setting.items()), sep="\n")
    print(f"{'model':16} {'variant':8} {'seconds':>8} {'ratio':>7} {'quartiles':>15} {'peak MiB':>9} {'ratio':>7}")
    results: dict[str, Any] = {"setting": setting, "models": {}}
    for name in given.models:
        found = results["models"][name] = measured(name, given, device, dtype)
        for variant, numbers in found.items():
            low, middle, high = numbers["ratio"]
            peak = numbers.get("peak_bytes")
            memory = f"{peak / 2**20:9.0f} {peak / found['stock']['peak_bytes']:7.3f}" if peak else ""
            print(
                f"{name:16} {variant:8} {numbers['seconds']:8.3f} {middle:7.3f} {low:7.3f}-{high:.3f}   {memory}",
                flush=True,
            )
    if given.out is not None:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
