"""Layers whose maps exceed 2^31 bytes and 2^31 elements: are they right, and as fast per pixel as on small maps?

Every kind of layer runs forward and backward over one channels-last map, each case in a process of its own that is
stopped when it takes four times as long as it should. Values and the map's gradient at the far end are compared with a
crop of the map run alone; gradients of weights by the adjoint identity <g, f(x)> = <w, dw> + <b, db>, with f(x) summed
in float64; norms with statistics summed in float64. The price is seconds per pixel over those of a small map, which
runs before and after in the same process: the minimum of four runs each. With "cut", layers run as the package runs
them, where that is not the stock call.

    python benchmarks/past_int32.py --out benchmarks/results/past_int32-DATE.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets them
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unsquare.exact.ops.splitting import CutConvolutions
from unsquare.exact.pool.pyramid import SpatialPyramidPool
from unsquare.memory.heap import keep_freed, release_unused

CHANNELS, WIDTH = 64, 4096
SIZES = {  # elements of the map given, by name, given the bytes of an element
    "small": lambda size: 1 << 27,
    "2^31 bytes +": lambda size: int(1.05 * 2**31) // size,
    "2^31 elements -": lambda size: int(0.97 * 2**31),
    "2^31 elements +": lambda size: int(1.03 * 2**31),
}
DTYPES = ("float32", "bfloat16")
TIMES_SMALL = 4.0
"""A case is stopped when it takes this many times as long as the small one per pixel, and a minute more."""
SHRINKING = ("conv 3x3 /2", "conv 2x2 /2", "average pool", "bilinear /2", "nearest /2", "pyramid pool")
"""Kinds whose maps fit into 24 GiB in float32 at 2^31 elements, forward and backward."""
KEEPS_OUTPUT = ("relu",)
"""Kinds whose backward pass looks at the map returned, so that its memory cannot serve for the gradient."""
RUNS = 4
"""Of which the fastest counts: the first ones touch fresh memory, which is slow on some machines."""
CROP = 64
"""Rows at the far end that are compared."""
HALO = 8


class Pyramid(nn.Module):
    """The package's pyramid pool over the whole map."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = SpatialPyramidPool((1, 2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x, torch.tensor([x.shape[2:]]))


class Scaled(nn.Module):
    """Interpolation to twice or half the size; half gives a map that memory holds."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        self.mode = mode

    def forward(self, x: Tensor) -> Tensor:
        return F.interpolate(x, scale_factor=0.5, mode=self.mode)


C = CHANNELS
LAYERS: dict[str, Callable[[], nn.Module]] = {
    "conv 3x3": lambda: nn.Conv2d(C, C, 3, padding=1),
    "conv 3x3 /2": lambda: nn.Conv2d(C, C, 3, 2, 1),
    "conv 2x2 /2": lambda: nn.Conv2d(C, C, 2, 2),
    "conv 1x1": lambda: nn.Conv2d(C, C, 1),
    "depthwise 3x3": lambda: nn.Conv2d(C, C, 3, padding=1, groups=C),
    "depthwise 7x7": lambda: nn.Conv2d(C, C, 7, padding=3, groups=C),
    "batch norm": lambda: nn.BatchNorm2d(C),
    "group norm": lambda: nn.GroupNorm(8, C),
    "max pool": lambda: nn.MaxPool2d(3, 2, 1),
    "average pool": lambda: nn.AvgPool2d(2),
    "pyramid pool": Pyramid,
    "bilinear /2": lambda: Scaled("bilinear"),
    "nearest /2": lambda: Scaled("nearest"),
    "relu": nn.ReLU,
    "gelu": nn.GELU,
}
WINDOWED = ("conv 3x3", "conv 3x3 /2", "conv 2x2 /2", "depthwise 3x3")
CUT = {(kind, dtype): (False, True) for kind in WINDOWED for dtype in DTYPES}
CUT[("depthwise 7x7", "float32")] = (False, True)
CUT[("depthwise 7x7", "bfloat16")] = (True,)  # whole, its workspace alone is 33 times the map
GLOBAL = ("batch norm", "group norm", "pyramid pool")


def filled(height: int, dtype: torch.dtype) -> Tensor:
    """A map (1, C, H, W) of numbers in [-1, 1), written in parts."""
    x = torch.empty((1, C, height, WIDTH), dtype=dtype, memory_format=torch.channels_last)
    rows = x.permute(0, 2, 3, 1)[0]
    block = (torch.rand(64, WIDTH, C) * 2 - 1).to(dtype)
    for top in range(0, height, 64):
        part = rows[top : top + 64]
        part.copy_(block[: len(part)].roll(top // 64 % 61, dims=1))
    return x


def total(y: Tensor) -> float:
    """The sum in float64, computed in parts."""
    if y.ndim != 4:
        return float(y.double().sum())
    return sum(float(y[:, :, top : top + 64].double().sum()) for top in range(0, y.shape[2], 64))


def moments(x: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each group of channels, in float64."""
    sums = torch.zeros(2, C, dtype=torch.float64)
    for top in range(0, x.shape[2], 64):
        part = x[:, :, top : top + 64].double()
        sums[0] += part.sum((0, 2, 3))
        sums[1] += part.square().sum((0, 2, 3))
    sums = sums.view(2, groups, -1).mean(2) / (x.shape[2] * x.shape[3])
    return sums[0], sums[1] - sums[0].square()


def difference(found: Tensor, wanted: Tensor) -> float:
    """The largest difference over the largest expected value."""
    wanted = wanted.double()
    return float((found.double() - wanted).abs().max() / wanted.abs().max().clamp_min(1e-9))


def errors(kind: str, layer: nn.Module, x: Tensor, y: Tensor, grad: Tensor) -> dict[str, float]:
    """How far values and gradients are from those of a crop, or from sums in float64."""
    found = {}
    with torch.no_grad():
        if kind == "batch norm" or kind == "group norm":
            groups = C if kind == "batch norm" else 8
            mean, variance = (part.repeat_interleave(C // groups).view(1, C, 1, 1) for part in moments(x, groups))
            end = x[:, :, -CROP:].double()
            found["value"] = difference(y[:, :, -CROP:], (end - mean) / (variance + 1e-5).sqrt())
        elif kind == "pyramid pool":
            quarter = torch.stack([x[0, :, top : top + 64].amax((1, 2)) for top in range(0, x.shape[2], 64)]).amax(0)
            found["value"] = difference(y.view(-1)[:: y.numel() // C][:C], quarter) if y.numel() == C else 0.0
            found["value"] = difference(y.amax(), quarter.amax())
    if kind not in GLOBAL:
        end = x.detach()[:, :, -(CROP + 2 * HALO) :].clone(memory_format=torch.channels_last).requires_grad_()
        alone = layer(end)
        rows = CROP * alone.shape[2] // end.shape[2]
        found["value"] = difference(y.detach()[:, :, -rows:], alone.detach()[:, :, -rows:])
        alone.backward(torch.ones_like(alone))
        assert end.grad is not None
        found["gradient"] = difference(grad[:, :, -CROP:], end.grad[:, :, -CROP:])
    return found


def make(kind: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return LAYERS[kind]().to(dtype).to(memory_format=torch.channels_last)


def height_of(size: str, dtype: torch.dtype) -> int:
    return SIZES[size](dtype.itemsize) // (C * WIDTH) // 2 * 2


def gradient_of(y: Tensor, kind: str) -> Tensor:
    """A gradient of ones, in the memory of the returned map if that is not read again."""
    if kind in KEEPS_OUTPUT:
        return torch.ones((), dtype=y.dtype).expand(y.shape)
    with torch.no_grad():
        return y.detach().fill_(1.0)


def timed(kind: str, layer: nn.Module, x: Tensor, cut: bool) -> tuple[float, Tensor, float]:
    """The minimum of the seconds of forward and backward; the end of the map returned, and its sum."""
    seconds = []
    for run in range(RUNS):
        layer.zero_grad()
        x.grad = None
        started = time.perf_counter()
        with CutConvolutions() if cut else nullcontext():
            y = layer(x)
        forward = time.perf_counter() - started
        if run == RUNS - 1:  # what is checked is what is timed
            summed = total(y.detach())
            kept = y.detach()[:, :, -CROP:].clone() if y.ndim == 4 else y.detach().clone()
        gradient = gradient_of(y, kind)
        started = time.perf_counter()
        y.backward(gradient)
        seconds.append(forward + time.perf_counter() - started)
        del y, gradient
    return min(seconds), kept, summed


def small_seconds(kind: str, dtype: torch.dtype, cut: bool) -> float:
    """Seconds per row of the small map."""
    height = height_of("small", dtype)
    return timed(kind, make(kind, dtype), filled(height, dtype).requires_grad_(), cut)[0] / height


def print_case(kind: str, dtype_name: str, size: str, cut: bool) -> None:
    """The child's part."""
    keep_freed()  # returned pages are not used again
    dtype = getattr(torch, dtype_name)
    height = height_of(size, dtype)
    before = small_seconds(kind, dtype, cut)
    print(json.dumps({"small_seconds": before * height}), flush=True)  # the parent may stop this process
    release_unused()
    layer = make(kind, dtype)
    x = filled(height, dtype).requires_grad_()
    seconds, kept, summed = timed(kind, layer, x, cut)
    found: dict[str, Any] = {"elements": x.numel(), "megapixels": height * WIDTH / 1e6, "seconds": seconds}
    if isinstance(layer, nn.Conv2d):
        weight, bias = layer.weight, layer.bias
        assert weight.grad is not None
        assert bias is not None
        assert bias.grad is not None
        by_weights = float((weight.double() * weight.grad.double()).sum() + (bias.double() * bias.grad.double()).sum())
        found["adjoint"] = abs(by_weights - summed) / max(abs(summed), 1e-3 * x.numel() ** 0.5)
    layer.zero_grad()
    assert x.grad is not None
    found |= errors(kind, layer, x.detach(), kept, x.grad)
    del x
    release_unused()
    after = small_seconds(kind, dtype, cut)
    print(json.dumps({**found, "small_seconds": min(before, after) * height}))


def sizes_of(kind: str, dtype: str) -> list[str]:
    """The maps of a kind that this machine holds."""
    fits = dtype == "bfloat16" or kind in SHRINKING
    return ["2^31 bytes +", *(["2^31 elements -", "2^31 elements +"] if fits else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kinds", nargs="*", default=list(LAYERS))
    parser.add_argument("--dtypes", nargs="*", default=DTYPES)
    parser.add_argument("--cut", action="store_true", help="where a layer is cut, skip the stock call")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON; rows already in it stay")
    parser.add_argument("--child", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        kind, dtype, size, cut = given.child
        print_case(kind, dtype, size, cut == "True")
        return
    results: dict[str, Any] = {"rows": {}}
    if given.out is not None and given.out.exists():
        results = json.loads(given.out.read_text())
    results["setting"] = {
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "channels": CHANNELS,
    }
    print(f"{'layer':16} {'dtype':9} {'map':16}   MP/s  price  value    gradient adjoint")
    for kind in given.kinds:
        for dtype in given.dtypes:
            for cut in CUT.get((kind, dtype), (False,))[-1 if given.cut else 0 :]:
                for size in sizes_of(kind, dtype):
                    found = case(kind, dtype, size, cut)
                    results["rows"][f"{kind}{', cut' if cut else ''} | {dtype} | {size}"] = found
                    show(kind + (", cut" if cut else ""), dtype, size, found)
                    if given.out is not None:
                        given.out.write_text(json.dumps(results, indent=1) + "\n")


def show(kind: str, dtype: str, size: str, found: dict[str, Any]) -> None:
    if "failed" in found:
        print(f"{kind:16} {dtype:9} {size:16} {found['failed']}", flush=True)
        return
    numbers = [f"{found[name]:8.1e}" if name in found else " " * 8 for name in ("value", "gradient", "adjoint")]
    rate = found["megapixels"] / found["seconds"]
    print(f"{kind:16} {dtype:9} {size:16} {rate:6.1f} {found['price']:6.2f} {' '.join(numbers)}", flush=True)


def case(kind: str, dtype: str, size: str, cut: bool) -> dict[str, Any]:
    """The result of one process, or why it has none."""
    words = [sys.executable, __file__, "--child", kind, dtype, size, str(cut)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    first = child.stdout.readline()
    patience = 60.0 + RUNS * TIMES_SMALL * json.loads(first)["small_seconds"] if first else None
    try:
        printed, complaints = child.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return {"failed": f"not done after {patience:.0f} s"}
    if child.returncode:
        reason = (complaints.strip().splitlines() or ["no message"])[-1]
        return {"failed": "killed (out of memory)" if child.returncode == -9 else reason[:120]}
    found: dict[str, Any] = json.loads(printed.splitlines()[-1])
    return {**found, "price": found["seconds"] / found["small_seconds"]}


if __name__ == "__main__":
    main()
