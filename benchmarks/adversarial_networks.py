"""Networks that use sizes, branches, hooks, or backward passes of their own: exact, refused, or silently wrong?

Each network is made exact and, if it is not refused, compared with the reference, each image alone, in float64: several
shapes and canvases, outputs and gradients, in evaluation and in training. A network that cannot be exact must be
refused at conversion; one that can must be accepted. What depends on an image's size shows only on some shapes, so some
networks branch at sizes that no image here has: they count as wrong if they are accepted.

    python benchmarks/adversarial_networks.py --json benchmarks/results/adversarial_networks-DATE.json
"""

from __future__ import annotations

import argparse
import json
import math
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import unsquare.exact  # first, so that a torchvision that does not fit torch can be imported
from unsquare.errors import ExactError

BATCHES = (
    (((40, 30), (20, 30)), (64, 80)),
    (((90, 33), (45, 33)), (91, 120)),
    (((64, 64), (32, 64)), (70, 64)),
    (((110, 95), (55, 95)), (130, 230)),
)
"""Heights and widths of images, and the canvas that they share."""


def mean(y: Tensor) -> Tensor:
    return y.mean((2, 3))


class RollsBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad.roll(1, 3) * 2


class CentersBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad - grad.mean((2, 3), keepdim=True)


class FillsBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad + 1


class PlainBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad * 2


def hooked(y: Tensor) -> Tensor:
    if y.requires_grad:
        y.register_hook(lambda grad: grad.roll(1, 3))
    return y


def swallowed(y: Tensor) -> Tensor:
    try:
        return mean(y) * (2 if y.shape[2] > 2000 else 1)
    except Exception:
        return mean(y)


def checked(y: Tensor) -> Tensor:
    if y.shape[2] < 1:
        raise ValueError("too small")
    assert y.shape[3] > 0, y.shape
    torch._assert(y.shape[2] > 0, "too small")
    return mean(y)


def rolled(v: Tensor) -> Tensor:
    return v.roll(1, 0)


def noisy(v: Tensor) -> Tensor:
    return v + 1e-12 * torch.randn_like(v)


def multiples(x: Tensor, y: Tensor) -> Tensor:
    assert x.shape[2] % 4 == 0
    return y


def large(x: Tensor, y: Tensor) -> Tensor:
    if x.shape[2] < 300:
        raise ValueError("too small")
    return y


Step = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""From the network, its first map y (N, 4, h, w) and its pixels x to one vector per image."""

STEPS: dict[str, dict[str, Step]] = {
    "size by a tensor": {
        "tensor": lambda s, y, x: y.sum((2, 3)) / torch.tensor(float(y.shape[2] * y.shape[3])),
        "new_ones": lambda s, y, x: y.sum((2, 3)) / x.new_ones(y.shape[2:]).sum(),
        "new_tensor": lambda s, y, x: mean(y) * x.new_tensor([[y.shape[2], y.shape[3]]]).sum(),
        "full": lambda s, y, x: mean(y) * torch.full((1,), y.shape[2]),
        "new_full": lambda s, y, x: mean(y) * x.new_full((1,), y.shape[2]),
        "arange": lambda s, y, x: mean(y) * torch.arange(y.shape[3]).to(x).mean(),
        "meshgrid": lambda s, y, x: (
            mean(y) * torch.meshgrid(torch.arange(y.shape[2]), torch.arange(y.shape[3]), indexing="ij")[0].to(x).mean()
        ),
        "linspace": lambda s, y, x: mean(y) * torch.linspace(0, y.shape[2], 2).to(x).sum(),
        "numel": lambda s, y, x: y.sum((2, 3)) / torch.tensor(y.numel()),
        "as_tensor": lambda s, y, x: mean(y) * torch.as_tensor(y.shape[-1]),
        "constructor": lambda s, y, x: mean(y) * torch.Tensor([y.shape[2]]).to(x),
        "cumsum": lambda s, y, x: mean(y) * torch.ones(y.shape[2]).to(x).cumsum(0)[-1],
        "expand_as": lambda s, y, x: y.sum((2, 3)) / x.new_ones(1).expand_as(y).sum(),
        "broadcast": lambda s, y, x: y.sum((2, 3)) / torch.broadcast_tensors(x.new_ones(1), y)[0].sum(),
        "item": lambda s, y, x: mean(y) * torch.tensor(y.shape[2]).item(),
        "threshold of ones": lambda s, y, x: torch.where(x.new_ones(y.shape[2:]).sum() > 1e6, mean(y), mean(y) * 2),
        "threshold of arange": lambda s, y, x: mean(y) * (torch.arange(y.shape[3]).to(x).mean() > 1000),
    },
    "size by a number": {
        "product": lambda s, y, x: y.sum((2, 3)) / (y.shape[2] * y.shape[3]),
        "float": lambda s, y, x: mean(y) * float(y.shape[2]),
        "sqrt": lambda s, y, x: mean(y) * math.sqrt(y.shape[2]),
        "sqrt compared": lambda s, y, x: mean(y) * (math.sqrt(x.shape[2] * x.shape[3]) > 5000),
        "log compared": lambda s, y, x: mean(y) * int(math.log2(x.shape[2]) > 13),
        "range": lambda s, y, x: sum(mean(y) for _ in range(1 + x.shape[2] // 4000)),
        "list": lambda s, y, x: mean(y) * len([0] * (1 + y.shape[2] // 4000)),
        "string": lambda s, y, x: mean(y) * (2 if f"{y.shape[2]}" == "225" else 1),
        "stride": lambda s, y, x: mean(y) * (y.stride(1) / 100),
        "len": lambda s, y, x: mean(y) * len(y[0, 0]),
        "parity": lambda s, y, x: mean(F.pad(y, (0, y.shape[3] % 2, 0, 0))),
        "window of the map": lambda s, y, x: F.avg_pool2d(y, y.shape[2:]).flatten(1),
        "grid of the map": lambda s, y, x: F.adaptive_avg_pool2d(y, (y.shape[2] // 2,) * 2).mean((2, 3)),
        "longest side": lambda s, y, x: mean(y) * max(y.shape[2:]),
        "training alone": lambda s, y, x: mean(y) * (y.shape[2] / 100 if s.training else 1),
        "text as key": lambda s, y, x: mean(y) * {"1500 x 1500": 2}.get(f"{y.shape[2]} x {y.shape[3]}", 1),
        "key": lambda s, y, x: mean(y) * {1500: 2}.get(y.shape[2], 1),
        "storage": lambda s, y, x: mean(y) * (2 if y.untyped_storage().nbytes() > 10**8 else 1),
        "storage offset": lambda s, y, x: mean(y) * (2 if y[:, :, 1:].storage_offset() > 1500 else 1),
    },
    "branch": {
        "portrait": lambda s, y, x: mean(y) * (3 if y.shape[2] > y.shape[3] else 1),
        "square": lambda s, y, x: mean(y) * (3 if y.shape[2] == y.shape[3] else 1),
        "narrow": lambda s, y, x: mean(y) * (3 if x.shape[3] < 100 else 1),
        "small": lambda s, y, x: mean(y) * (3 if min(x.shape[2:]) < 24 else 1),
        "tall": lambda s, y, x: mean(y) * (3 if x.shape[2] > 3000 else 1),
        "area": lambda s, y, x: mean(y) * (3 if x.shape[2] * x.shape[3] > 10**7 else 1),
        "aspect": lambda s, y, x: mean(y) * (3 if x.shape[2] / x.shape[3] > 20 else 1),
        "divisible": lambda s, y, x: mean(y) * (3 if x.shape[2] % 7 == 0 else 1),
        "portrait in training": lambda s, y, x: mean(y) * (2 if s.training and y.shape[2] > y.shape[3] else 1),
        "within try": lambda s, y, x: swallowed(y),
        "tall with gradients": lambda s, y, x: mean(y) * (3 if torch.is_grad_enabled() and x.shape[2] > 3000 else 1),
        "tall if a number": lambda s, y, x: mean(y) * (3 if isinstance(x.shape[2], int) and x.shape[2] > 3000 else 1),
    },
    "batch": {
        "minus mean": lambda s, y, x: mean(y) - mean(y).mean(0),
        "softmax": lambda s, y, x: F.softmax(mean(y), 0),
        "normalize": lambda s, y, x: F.normalize(mean(y), dim=0),
        "products": lambda s, y, x: mean(y) @ mean(y).T @ mean(y),
        "times number": lambda s, y, x: mean(y) * x.shape[0],
        "branch": lambda s, y, x: mean(y) * (2 if x.shape[0] > 7 else 1),
        "rolled by two": lambda s, y, x: mean(y) + mean(y).roll(2, 0),
        "the first two": lambda s, y, x: mean(y)[:2],
        "counted in pieces": lambda s, y, x: mean(y) * (2 if len(mean(y).unbind(0)) > 4 else 1),
        "even": lambda s, y, x: mean(y).softmax(0) if len(y) % 2 == 0 else mean(y),
        "even in training": lambda s, y, x: mean(y) + rolled(mean(y)) if s.training and len(y) % 2 == 0 else mean(y),
        "mixed up": lambda s, y, x: mean(y) + mean(y)[torch.randperm(len(y))] if s.training else mean(y),
        "under noise": lambda s, y, x: noisy(mean(y) - mean(y).mean(0)) if s.training else mean(y),
        "multiples alone": lambda s, y, x: mean(multiples(x, y)).softmax(0),
        "large alone": lambda s, y, x: mean(large(x, y)).softmax(0),
        "branch on vectors": lambda s, y, x: mean(y) * (2 if mean(y).shape[0] > 7 else 1),
    },
    "way back": {
        "rolls": lambda s, y, x: mean(s.second(RollsBack.apply(y))),
        "centers": lambda s, y, x: mean(s.second(CentersBack.apply(y))),
        "fills": lambda s, y, x: mean(s.second(FillsBack.apply(y))),
        "hook in code": lambda s, y, x: mean(s.second(hooked(y))),
        "function again": lambda s, y, x: mean(checkpoint(F.max_pool2d, y, 3, 2, 1, use_reentrant=False)),
        "function again, reentrant": lambda s, y, x: mean(checkpoint(F.max_pool2d, y, 3, 2, 1, use_reentrant=True)),
    },
}
"""Must be refused."""

EXACT: dict[str, Step] = {
    "own function": lambda s, y, x: mean(s.second(PlainBack.apply(y))),
    "view": lambda s, y, x: mean(y.view(y.shape[0], 4, y.shape[2], y.shape[3])),
    "sizes unpacked": lambda s, y, x: (lambda n, c, h, w: mean(y.reshape(n, 2, c // 2, h, w).flatten(1, 2)))(*y.shape),
    "interpolate": lambda s, y, x: mean(y + F.interpolate(F.avg_pool2d(y, 2, ceil_mode=True), size=y.shape[-2:])),
    "positive": lambda s, y, x: mean(y) if y.numel() > 0 else mean(y) * 0,
    "same shape": lambda s, y, x: mean(y + s.second(y)) if s.second(y).shape == y.shape else mean(y),
    "assertions": lambda s, y, x: checked(y),
    "ones counted": lambda s, y, x: y.sum((2, 3)) / torch.ones_like(y).sum((2, 3)),
    "group norm": lambda s, y, x: mean(F.group_norm(y, 2)),
    "max pool": lambda s, y, x: mean(F.max_pool2d(y, 3, 2, 1)),
    "squeeze and excite": lambda s, y, x: mean(s.second(y * y.mean((2, 3), keepdim=True).sigmoid())),
    "concatenated": lambda s, y, x: mean(torch.cat([y, y], 1))[:, :4],
}
"""Must be accepted."""


class Net(nn.Module):
    def __init__(self, step: Step) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.step(self, self.first(x), x))


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


def with_(change: Callable[[nn.Sequential], Any]) -> nn.Module:
    net = chain()
    changed = change(net)
    return changed if isinstance(changed, nn.Module) else net


def replaced(net: nn.Sequential) -> None:
    conv = net[1]
    conv.forward = lambda x: F.conv2d(x.roll(1, 3), conv.weight, padding=1)


class Doubled(nn.Sequential):
    def __call__(self, x: Tensor, *others: Tensor) -> Tensor:
        return super().__call__(x * (2 if x.shape[2] > 3000 else 1), *others)


class Reaching(nn.Module):
    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net
        self.run = lambda x: net(x)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(x)


HOOKS: dict[str, Callable[[nn.Sequential], Any]] = {
    "forward rolls": lambda n: n[0].register_forward_hook(lambda m, i, o: o.roll(1, 3)),
    "forward flips": lambda n: n[2].register_forward_hook(lambda m, i, o: o.flip(3)),
    "forward with keywords": lambda n: n[1].register_forward_hook(lambda m, i, k, o: o.roll(1, 2), with_kwargs=True),
    "before forward rolls": lambda n: n[1].register_forward_pre_hook(lambda m, i: (i[0].roll(1, 3),)),
    "pool times size": lambda n: n[4].register_forward_hook(lambda m, i, o: o * i[0].shape[2]),
    "on the network": lambda n: n.register_forward_hook(lambda m, i, o: o * 2),
    "before the network": lambda n: n.register_forward_pre_hook(lambda m, i: (i[0] + 1,)),
    "backward": lambda n: n[1].register_full_backward_hook(lambda m, given, out: (given[0].roll(1, 3),)),
    "before backward": lambda n: n[1].register_full_backward_pre_hook(lambda m, out: (out[0].roll(1, 3),)),
    "on a parameter": lambda n: n[1].weight.register_hook(lambda grad: grad * 2),
    "forward replaced": replaced,
    "lazy layer": lambda n: nn.Sequential(nn.LazyConv2d(4, 3), *n[1:]),
    "TorchScript": lambda n: torch.jit.script(n),
    "TorchScript layer": lambda n: nn.Sequential(torch.jit.script(n[0]), *n[1:]),
    "traced": lambda n: torch.jit.trace(n, torch.randn(1, 3, 20, 20)),
    "compiled": lambda n: torch.compile(n),
    "compiled layer": lambda n: nn.Sequential(torch.compile(n[0]), *n[1:]),
    "DataParallel": lambda n: nn.DataParallel(n),
    "call of its own": lambda n: Doubled(*n),
    "layers of the original": lambda n: Reaching(n),
    "after a gradient": lambda n: n[1].weight.register_post_accumulate_grad_hook(lambda p: None),
}
"""Must be refused."""

EXACT_HOOKS: dict[str, Callable[[nn.Sequential], Any]] = {
    "forward scales": lambda n: n[0].register_forward_hook(lambda m, i, o: o * 2),
    "forward adds": lambda n: n[0].register_forward_hook(lambda m, i, o: o + 1),
    "forward looks": lambda n: n[1].register_forward_hook(lambda m, i, o: None),
    "forward pools": lambda n: n[1].register_forward_hook(lambda m, i, o: F.max_pool2d(o, 2)),
    "forward pads": lambda n: n[0].register_forward_hook(lambda m, i, o: F.pad(o, (1, 1, 1, 1))),
    "before forward adds": lambda n: n[1].register_forward_pre_hook(lambda m, i: (i[0] + 1,)),
    "weight norm": lambda n: nn.utils.parametrizations.weight_norm(n[1]) and None,
}
"""Must be accepted."""


def error_of(exact: nn.Module, stock: nn.Module) -> float:
    """The largest error of outputs and gradients over all batches, in both modes."""
    worst = 0.0
    for training in (False, True):
        exact.train(training), stock.train(training)
        for sizes, canvas in BATCHES:
            torch.manual_seed(1)
            images = [torch.randn(3, *size).double() for size in sizes]
            pixels = torch.full((2, 3, *canvas), float("nan")).double()
            for place, image in zip(pixels, images):
                place[:, : image.shape[1], : image.shape[2]] = image
            outputs = exact(pixels, torch.tensor(sizes))
            expected = torch.cat([stock(image[None]) for image in images])
            worst = max(worst, float((outputs - expected).abs().max() / expected.abs().max()))
            weights = torch.linspace(-1, 1, outputs.numel()).double().view_as(outputs)
            for model, given in ((exact, outputs), (stock, expected)):
                model.zero_grad()
                (given * weights).sum().backward()
            pairs = [(one.grad, other.grad) for one, other in zip(exact.parameters(), stock.parameters())]
            largest = max(float(grad.abs().max()) for _, grad in pairs if grad is not None)
            for one, other in pairs:
                if other is not None:
                    worst = max(worst, float((one - other).abs().max()) / largest if one is not None else math.inf)
    return worst


def outcome(make: Callable[[], nn.Module]) -> tuple[str, str]:
    """The outcome for a network, and the error or the reason."""
    net = make().double()
    try:
        exact = unsquare.make_exact(net)
    except ExactError as error:
        return "refused", str(error)
    except Exception as error:
        return "raw error", f"{type(error).__name__}: {error}"
    try:
        error = error_of(exact, net)
    except Exception as error:
        return "fails when called", f"{type(error).__name__}: {error}"
    return ("exact" if error < 1e-9 else "inexact"), f"{error:.1e}"


def cases() -> list[tuple[str, str, Callable[[], nn.Module], bool]]:
    """Kind, name, network, and whether it can be exact."""
    found = [
        (kind, name, lambda step=step: Net(step), False)
        for kind, steps in STEPS.items()
        for name, step in steps.items()
    ]
    found += [
        ("hooks and wrappers", name, lambda change=change: with_(change), False) for name, change in HOOKS.items()
    ]
    found += [("can be exact", name, lambda step=step: Net(step), True) for name, step in EXACT.items()]
    found += [("can be exact", name, lambda change=change: with_(change), True) for name, change in EXACT_HOOKS.items()]
    return found


def verdict(word: str, can_be_exact: bool) -> str:
    """Whether an outcome is right."""
    if can_be_exact:
        return {"exact": "right", "refused": "refused needlessly"}.get(word, word)
    return {"refused": "right", "exact": "accepted, wrong at other sizes", "inexact": "silently wrong"}.get(word, word)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write each network's outcome here")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = []
    for kind, name, make, can_be_exact in cases():
        word, detail = outcome(make)
        rows.append({"kind": kind, "name": name, "outcome": verdict(word, can_be_exact), "detail": detail})
        print(f"{kind:20} {name:24} {rows[-1]['outcome']:20} {detail[:110]}")
    for kind in dict.fromkeys(row["kind"] for row in rows):
        counts = Counter(row["outcome"] for row in rows if row["kind"] == kind)
        print(f"{kind}: {sum(counts.values())} networks, " + ", ".join(f"{n} {word}" for word, n in counts.items()))
    if given.json:
        given.json.write_text(json.dumps({"torch": torch.__version__, "networks": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
