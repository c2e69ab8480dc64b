"""Steps that keep pixels apart give each image what it gives alone; what is much like them is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact import make_exact

SIZES = [(9, 12), (14, 7), (11, 11)]

Step = Callable[[Any, Tensor, Tensor], Tensor]


class _Net(nn.Module):
    """A network one of whose steps is a function: of itself, a map (N, 4, H, W), and the map's means (N, 4, 1, 1)."""

    def __init__(self, step: Step, after: nn.Module) -> None:
        super().__init__()
        self.before, self.after = nn.Conv2d(2, 4, 3, padding=1), after
        self.register_buffer("order", torch.tensor([2, 0, 3]))
        self.plane = nn.Parameter(torch.ones(4, 1, 1))
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(x)
        return self.after(self.step(self, x, x.mean((2, 3), keepdim=True))).square().mean((2, 3))


def _check(step: Step, references: SimpleNamespace) -> None:
    """Values and gradients of a batch padded with NaN equal those of lone images."""
    torch.manual_seed(0)
    stock = _Net(step, nn.LazyConv2d(3, 3, padding=1)).double()
    images = references.lone_images(SIZES, channels=2)
    with torch.no_grad():
        stock(images[0][None])  # the lazy layer takes shape
    exact = make_exact(stock)
    pixels, sizes = references.padded(images, extra=(3, 2))
    pixels.requires_grad_()
    output = exact(pixels, sizes)
    output.sum().backward()
    for index, image in enumerate(images):
        lone = image[None].clone().requires_grad_()
        expected = stock(lone)
        expected.sum().backward()
        torch.testing.assert_close(output[index], expected[0], rtol=1e-10, atol=1e-12)
        inside = pixels.grad[index, :, : image.shape[1], : image.shape[2]]
        torch.testing.assert_close(inside, lone.grad[0], rtol=1e-9, atol=1e-11)
    for one, other in zip(exact.parameters(), stock.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-11)


def _refused(step: Step, message: str) -> None:
    with pytest.raises(ExactError, match=message):
        make_exact(_Net(step, nn.Conv2d(4, 3, 3, padding=1)))


@pytest.mark.parametrize(
    "step",
    [
        lambda net, x, v: x * v.sigmoid().expand_as(x),
        lambda net, x, v: x * v.expand(-1, -1, x.shape[2], x.shape[3]),
        lambda net, x, v: torch.cat([x, v.expand(-1, -1, x.shape[2], x.shape[3])], 1),
        lambda net, x, v: torch.cat([v.expand_as(x), x], 1),
        lambda net, x, v: torch.stack([x, v.expand_as(x)], 2).flatten(1, 2),
        lambda net, x, v: torch.where(x > 0, x, v.expand_as(x)),
        lambda net, x, v: x.permute(0, 2, 3, 1).add(v.expand_as(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
    ],
)
def test_vectors_may_be_expanded_over_a_map(step: Step, references: SimpleNamespace) -> None:
    """A vector of each image that is expanded along height and width is the same in all places, and joins a map."""
    _check(step, references)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda net, x, v: x * v.repeat(1, 1, *x.shape[2:]), "canvas's size"),
        (lambda net, x, v: x * (v.expand_as(x) + 1), "values that differ from place to place"),
        (lambda net, x, v: x * net.plane.expand_as(x), "canvas's size"),
        (lambda net, x, v: x * x.new_zeros(x.shape), "values that differ from place to place"),
        (lambda net, x, v: x * v.new_zeros(x.shape[2], 1).expand(x.shape[2:]), "values that differ from place"),
        (lambda net, x, v: torch.cat([x, x.new_zeros(x.shape)], 1), "values that differ from place to place"),
    ],
)
def test_other_planes_join_no_map(step: Step, message: str) -> None:
    """What is written out over the canvas, or along one side alone, may differ from place to place."""
    _refused(step, message)
