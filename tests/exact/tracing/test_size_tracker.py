"""A number read from a map's size may shape tensors; where it could change a value, the network is refused."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import suppress

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unsquare.errors import ExactError
from unsquare.exact import make_exact

Step = Callable[[nn.Module, Tensor, Tensor], Tensor]


class _Net(nn.Module):
    """A network that makes one vector per image by a step: of itself, its first map and its pixels."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1)
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self, self.first(x), x)


def _mean(y: Tensor) -> Tensor:
    return y.mean((2, 3))


@pytest.mark.parametrize(
    "step",
    [
        lambda net, y, x: y.sum((2, 3)) / torch.tensor(float(y.shape[2] * y.shape[3])),
        lambda net, y, x: y.sum((2, 3)) / x.new_ones(y.shape[2:]).sum(),
        lambda net, y, x: _mean(y) * x.new_tensor([[y.shape[2], y.shape[3]]]).sum(),
        lambda net, y, x: _mean(y) * torch.full((1,), y.shape[2]).to(x),
        lambda net, y, x: _mean(y) * torch.arange(y.shape[3], device=x.device).to(x).mean(),
        lambda net, y, x: _mean(y) * torch.linspace(0, y.shape[2], 2, device=x.device).sum(),
        lambda net, y, x: y.sum((2, 3)) / y.numel(),
        lambda net, y, x: y.sum((2, 3)) / x.new_ones(1).expand_as(y).sum(),
        lambda net, y, x: _mean(y) * (torch.arange(y.shape[3], device=x.device).to(x).mean() > 10_000),
        lambda net, y, x: _mean(y) * (y.stride(1) / 100),
        lambda net, y, x: _mean(y) * (y.shape[2] / 100 if net.training else 1),
        lambda net, y, x: _mean(y) * torch.ones(1).to(x).expand(y.shape[2]).sum(),
        lambda net, y, x: _mean(y) * torch.arange(10_000).to(x)[y.shape[2] // 5000],
        lambda net, y, x: _mean(y) * torch.arange(10_000).to(x)[: y.shape[2]].sum(),
        lambda net, y, x: _mean(F.interpolate(y, scale_factor=1 + y.shape[2] // 5000)),
        lambda net, y, x: torch.ones(1).to(x) * torch.arange(y.shape[3]).to(x).sum(),
    ],
)
def test_a_size_enters_no_value(step: Step) -> None:
    """A number of the canvas, or a tensor made of it, that meets what comes of the images is refused."""
    with pytest.raises(ExactError, match="canvas's size"):
        make_exact(_Net(step))


@pytest.mark.parametrize(
    "step",
    [
        lambda net, y, x: _mean(y) * (3 if y.shape[2] > y.shape[3] else 1),
        lambda net, y, x: _mean(y) * (3 if y.shape[2] == y.shape[3] else 1),
        lambda net, y, x: _mean(y) * (3 if x.shape[3] < 100 else 1),
        lambda net, y, x: _mean(y) * (3 if x.shape[2] > 50_000 else 1),
        lambda net, y, x: _mean(y) * (3 if x.shape[2] % 7 == 0 else 1),
        lambda net, y, x: _mean(y) * (math.sqrt(x.shape[2] * x.shape[3]) > 50_000),
        lambda net, y, x: sum(_mean(y) for _ in range(1 + x.shape[2] // 50_000)),
        lambda net, y, x: _mean(y) * (2 if net.training and y.shape[2] > y.shape[3] else 1),
        lambda net, y, x: _mean(y) * (2 if 0.5 * y.shape[2] > 50_000 else 1),
        lambda net, y, x: _mean(y) * (2 if torch.zeros(y.shape[2]).shape[0] > 50_000 else 1),
        lambda net, y, x: _mean(y) * (2 if len(torch.arange(y.shape[2])) > 50_000 else 1),
        lambda net, y, x: _mean(y) * (2 if y.new_ones(1).expand_as(y).numel() > 10**12 else 1),
        lambda net, y, x: _mean(y) * (2 if torch.is_grad_enabled() and y.shape[2] > 50_000 else 1),
        lambda net, y, x: _mean(y) * (2 if y.requires_grad and y.shape[2] > 50_000 else 1),
        lambda net, y, x: _mean(y) * (2 if str(y.shape[2]) == "50000" else 1),
        lambda net, y, x: _mean(y) * {"50000 x 1": 2}.get(f"{y.shape[2]} x {y.shape[3]}", 1),
    ],
)
def test_a_size_decides_nothing(step: Step) -> None:
    """A branch on a size is refused with its place, however far its bound lies from any canvas that is followed."""
    with pytest.raises(ExactError, match=r"canvas's size \(test_size_tracker.py, line \d+\)"):
        make_exact(_Net(step))


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda net, y, x: _mean(y) * (2 if repr(y.shape) == "" else 1), "makes a string from"),
        (lambda net, y, x: _mean(y) * (2 if type(y.shape[2]) is int and y.shape[2] > 999 else 1), "steps depend"),
        (
            lambda net, y, x: (
                _mean(y) * (2 if net.training and isinstance(y.shape[2], int) and y.shape[2] > 999 else 1)
            ),
            "steps depend on the canvas's size",
        ),
        (lambda net, y, x: _mean(y) * {50_000: 2}.get(y.shape[2], 1), "looks something up by the canvas's size"),
        (
            lambda net, y, x: _mean(y) * (2 if y.untyped_storage().nbytes() > 10**12 else 1),
            "reads the untyped_storage",
        ),
        (
            lambda net, y, x: _mean(y) * (2 if y[:, :, 1:].storage_offset() > 50_000 else 1),
            "reads the storage_offset",
        ),
    ],
)
def test_a_size_decides_by_no_other_way(step: Step, message: str) -> None:
    """A size as text, as a key, or read from where a map's values lie is refused as well."""
    with pytest.raises(ExactError, match=message):
        make_exact(_Net(step))


def _check_small(y: Tensor) -> None:
    if y.shape[2] > 50_000:
        raise ValueError("too large")


def _caught(net: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    try:
        assert y.shape[2] <= 50_000
    except AssertionError:
        return 2 * _mean(y)
    return _mean(y)


def _caught_above(net: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    try:
        _check_small(y)
    except ValueError:
        return 2 * _mean(y)
    return _mean(y)


def _suppressed(net: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    with suppress(ValueError):
        _check_small(y)
        return 2 * _mean(y)
    return _mean(y)


@pytest.mark.parametrize("step", [_caught, _caught_above, _suppressed])
def test_an_assertion_whose_error_is_caught_is_a_branch(step: Step) -> None:
    """Where the network goes on after the error, the assertion decides by which way."""
    with pytest.raises(ExactError, match="branches on the canvas's size"):
        make_exact(_Net(step))


def test_a_refusal_that_the_network_catches_stays_one() -> None:
    """Code that catches every exception does not hide what it did."""

    def step(net: nn.Module, y: Tensor, x: Tensor) -> Tensor:
        try:
            return _mean(y) * (2 if y.shape[2] > 50_000 else 1)
        except Exception:
            return _mean(y)

    with pytest.raises(ExactError, match="branches on the canvas's size"):
        make_exact(_Net(step))


@pytest.mark.parametrize(
    "step",
    [
        lambda net, y, x: _mean(y) * x.shape[0],
        lambda net, y, x: _mean(y) * (2 if x.shape[0] > 7 else 1),
        lambda net, y, x: _mean(y) * (2 if _mean(y).shape[0] > 7 else 1),
        lambda net, y, x: _mean(y) * torch.sym_max(1, x.shape[0] - 7),
        lambda net, y, x: _mean(y) * (1.0 + x.shape[0] // 7),
    ],
)
def test_the_number_of_images_enters_no_value(step: Step) -> None:
    """What a network does may not depend on how many images share the batch."""
    with pytest.raises(ExactError, match="the number of images in a batch"):
        make_exact(_Net(step))


@pytest.mark.parametrize(
    "step",
    [
        lambda net, y, x: _mean(y).softmax(0) if len(y) % 2 == 0 else _mean(y),
        lambda net, y, x: _mean(y).roll(1, 0) if net.training and len(x) % 2 == 0 else _mean(y),
        lambda net, y, x: _mean(y) * len(_mean(y).unbind(0)),
        lambda net, y, x: _mean(y)[torch.randperm(len(y))] if net.training else _mean(y),
        lambda net, y, x: _mean(y)[:2],
    ],
)
def test_a_plain_number_of_images_changes_no_step(step: Step) -> None:
    """Python's `len` gives a plain number, so the network is followed with two images and with three."""
    with pytest.raises(ExactError, match=r"or on the number of images|without one row for each image"):
        make_exact(_Net(step))


def _telling(net: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    logging.getLogger(__name__).debug(f"a map of {y.shape[2]} x {y.shape[3]}")
    torch._assert(y.shape[2] > 0, f"no map of height {y.shape[2]}")
    if y.shape[2] < 1:
        raise ValueError(f"no map of {y.shape}")
    return _mean(y)


def _asserting(net: nn.Module, y: Tensor, x: Tensor) -> Tensor:
    assert y.shape[2] > 3, y.shape
    torch._assert(y.shape[3] > 3, "too small")
    if y.shape[2] < 2:
        raise ValueError("too small")
    return _mean(y)


@pytest.mark.parametrize(
    "step",
    [
        _asserting,
        _telling,
        lambda net, y, x: _mean(y.view(y.shape[0], 4, y.shape[2], y.shape[3])),
        lambda net, y, x: (lambda n, c, h, w: _mean(y.reshape(n, 2, c // 2, h, w).flatten(1, 2)))(*y.shape),
        lambda net, y, x: _mean(y + F.interpolate(F.avg_pool2d(y, 2, ceil_mode=True), size=y.shape[-2:])),
        lambda net, y, x: _mean(y) if y.numel() > 0 else _mean(y) * 0,
        lambda net, y, x: _mean(y + net.second(y)) if net.second(y).shape == y.shape else _mean(y),
        lambda net, y, x: y.sum((2, 3)) / torch.ones_like(y).sum((2, 3)),
        lambda net, y, x: _mean(y) * y.new_ones((y.shape[0], 1)),
        lambda net, y, x: _mean(y) + torch.zeros(1, 4).to(x).expand(y.shape[0], -1),
    ],
)
def test_sizes_may_shape_and_assert(step: Step) -> None:
    """Views, assertions, and questions that every canvas answers alike change no value, and pass."""
    make_exact(_Net(step))


def test_a_branch_for_maps_that_no_image_makes_passes() -> None:
    """A step for maps below a window's size is never taken where the window, which comes next, needs as much."""

    class Padded(nn.Module):
        def __init__(self, least: int) -> None:
            super().__init__()
            self.conv, self.least = nn.Conv2d(3, 4, 7), least

        def forward(self, x: Tensor) -> Tensor:
            if x.shape[2] < self.least or x.shape[3] < self.least:
                x = F.adaptive_avg_pool2d(x, self.least)
            return _mean(self.conv(x))

    make_exact(Padded(7))
    with pytest.raises(ExactError, match="branches on the canvas's size"):
        make_exact(Padded(8))
