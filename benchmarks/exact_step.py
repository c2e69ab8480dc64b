"""What exactness costs: a training step of the exact network against the stock network on the same padded batch.

Both run in one process, in turn, so that the ratio holds on a machine whose speed drifts. The stock network's answers
are wrong (padding counts there); it is the limit, not an alternative.

    python benchmarks/exact_step.py resnet18 resnet50 convnext_atto > benchmarks/results/exact_step-DATE-MACHINE.txt
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

from unsquare.exact import make_exact
from unsquare.torchvision_guard import import_timm

timm = import_timm()

CANVAS = (256, 320)
SIZES = [(256, 320), (250, 316), (256, 310), (244, 320), (252, 318), (248, 312), (256, 304), (246, 320)]


def seconds(model: torch.nn.Module, *inputs: torch.Tensor) -> float:
    """Seconds of one forward and backward pass."""
    started = time.perf_counter()
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(*inputs).float().square().mean()
    loss.backward()
    model.zero_grad(set_to_none=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    sizes = torch.tensor(SIZES)
    real = int(sizes.prod(dim=1).sum())
    padding = len(SIZES) * CANVAS[0] * CANVAS[1] / real - 1
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
    )
    print(
        f"bf16 autocast, {len(SIZES)} images on {CANVAS[0]} x {CANVAS[1]}, {padding:.1%} padding, {given.rounds} rounds"
    )
    print(f"{'model':16} {'stock':>8} {'exact':>8} {'ratio':>8}  (medians; ratio: median over rounds, quartiles)")
    for name in given.models:
        torch.manual_seed(0)
        stock = timm.create_model(name).to(memory_format=torch.channels_last).train()
        exact = make_exact(stock)
        pixels = torch.randn(len(SIZES), 3, *CANVAS).contiguous(memory_format=torch.channels_last)
        pairs = [(seconds(stock, pixels), seconds(exact, pixels, sizes)) for _ in range(given.rounds + 2)][2:]
        ratios = [b / a for a, b in pairs]
        low, middle, high = statistics.quantiles(ratios, n=4)
        medians = [statistics.median(column) for column in zip(*pairs)]
        print(f"{name:16} {medians[0]:7.3f}s {medians[1]:7.3f}s {middle:8.3f}  ({low:.3f} to {high:.3f})", flush=True)


if __name__ == "__main__":
    main()
