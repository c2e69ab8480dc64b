"""Steps that keep pixels apart give each image what it gives alone; what is much like them is refused."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

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
    """Values and gradients of a batch padded with NaN equal those of unpadded images."""
    torch.manual_seed(0)
    stock = _Net(step, nn.LazyConv2d(3, 3, padding=1)).double()
    images = references.unpadded_images(SIZES, channels=2)
    with torch.no_grad():
        stock(images[0][None])  # the lazy layer takes shape
    exact = make_exact(stock)
    pixels, sizes = references.padded(images, extra=(3, 2))
    pixels.requires_grad_()
    output = exact(pixels, sizes)
    output.sum().backward()
    for index, image in enumerate(images):
        unpadded = image[None].clone().requires_grad_()
        expected = stock(unpadded)
        expected.sum().backward()
        torch.testing.assert_close(output[index], expected[0], rtol=1e-10, atol=1e-12)
        inside = pixels.grad[index, :, : image.shape[1], : image.shape[2]]
        torch.testing.assert_close(inside, unpadded.grad[0], rtol=1e-9, atol=1e-11)
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
        (lambda net, x, v: x * (v.expand_as(x) + 1), "values that depend on the position"),
        (lambda net, x, v: x * net.plane.expand_as(x), "canvas's size"),
        (lambda net, x, v: x * x.new_zeros(x.shape), "values that depend on the position"),
        (lambda net, x, v: x * v.new_zeros(x.shape[2], 1).expand(x.shape[2:]), "values that depend on the position"),
        (lambda net, x, v: torch.cat([x, x.new_zeros(x.shape)], 1), "values that depend on the position"),
    ],
)
def test_other_planes_join_no_map(step: Step, message: str) -> None:
    """What is written out over the canvas, or along one side alone, may depend on the position."""
    _refused(step, message)


@pytest.mark.parametrize(
    "step",
    [
        lambda net, x, v: x.abs(),
        lambda net, x, v: x * x.sgn() + x.sign(),
        lambda net, x, v: x.sin() + x.cos(),
        lambda net, x, v: x.atan() + torch.erf(x) + torch.erfc(2 * x),
        lambda net, x, v: x + x.round() + x.floor() + x.ceil() + x.trunc() + x.frac(),
        lambda net, x, v: x * (x > 0.1) + x * (x <= v) + x * x.lt(0.3) + x * (x >= x.mean(1, keepdim=True)),
        lambda net, x, v: x + x.eq(0).to(x) + x.ne(v).to(x),
        lambda net, x, v: x * (~(x > 0) & (x < v) | (x > 0.4)),
        lambda net, x, v: x * torch.logical_and(torch.logical_not(x > 0), torch.logical_or(x < v, x > -0.1)),
        lambda net, x, v: x.masked_fill(x > 0.2, 0.5),
        lambda net, x, v: x.masked_fill(v > 0, 0.5),
        lambda net, x, v: v.masked_fill(x > 0, 0.5),
        lambda net, x, v: (2 * x).masked_fill_(x.mean(1, keepdim=True) > 0, 1),
        lambda net, x, v: F.threshold(x, 0.1, -2.0),
        lambda net, x, v: F.hardshrink(x, 0.2) + F.softshrink(x, 0.2) + F.tanhshrink(x),
        lambda net, x, v: F.logsigmoid(x),
        lambda net, x, v: torch.nan_to_num(x, 1.0),
        lambda net, x, v: F.glu(x, 1),
        lambda net, x, v: F.glu(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2),
        lambda net, x, v: F.log_softmax(x, 1),
        lambda net, x, v: (2 * x).abs_().neg_().sin_().cos_().atan_().erf_(),
        lambda net, x, v: (2 * x).nan_to_num_().add_((2 * x).floor_()).add_((2 * x).sign_()),
    ],
)
def test_pixelwise_steps_agree(step: Step, references: SimpleNamespace) -> None:
    """Steps of which each output pixel knows one input pixel are exact as they are."""
    _check(step, references)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            lambda net, x, v: x.masked_fill(torch.ones(x.shape[2:], device=x.device) > 0, 0),
            "canvas's size|on the position",
        ),
        (lambda net, x, v: x.masked_fill(x.new_ones(x.shape) > 0, 0.0), "depend on the position"),
        (lambda net, x, v: x.masked_fill(x > 0, float("-inf")), "with infinity or with a tensor"),
        (lambda net, x, v: x.masked_fill(x > 0, net.plane[0, 0, 0]), "with infinity or with a tensor"),
        (lambda net, x, v: x.cumsum(2), "uses cumsum"),
        (lambda net, x, v: x.cumsum(3), "uses cumsum"),
        (lambda net, x, v: F.glu(torch.cat([x, x], 1), 3), "uses glu"),
        (lambda net, x, v: F.log_softmax(x, 2), "uses _log_softmax"),
        (lambda net, x, v: F.log_softmax(x, 0), "uses _log_softmax"),
        (lambda net, x, v: x * x.sort(3)[0], "uses sort"),
    ],
)
def test_steps_along_a_side_or_without_bound_are_refused(step: Step, message: str) -> None:
    """What reads other pixels, differs from place to place, or may become infinite outside the regions, is refused."""
    _refused(step, message)


@pytest.mark.parametrize(
    "step",
    [
        lambda net, x, v: x[:, [2, 1, 0]],
        lambda net, x, v: x[:, net.order],
        lambda net, x, v: x.permute(0, 2, 3, 1)[..., net.order].permute(0, 3, 1, 2),
        lambda net, x, v: x.index_select(1, net.order),
        lambda net, x, v: x.flip(1) + torch.flip(x.unflatten(1, (2, 2)), [1, -3]).flatten(1, 2),
        lambda net, x, v: torch.roll(x, 1, 1) + x.roll((1, 2), (1, -3)),
        lambda net, x, v: x.repeat(1, 2, 1, 1),
        lambda net, x, v: x.repeat_interleave(2, 1),
        lambda net, x, v: F.channel_shuffle(x, 2),
        lambda net, x, v: nn.ChannelShuffle(2)(x),
    ],
)
def test_channels_may_change_places(step: Step, references: SimpleNamespace) -> None:
    """Channels may be picked, turned round, repeated and shuffled."""
    _check(step, references)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda net, x, v: x[:, :, net.order], "picks images or pixels by index"),
        (lambda net, x, v: x[net.order[:2] // 2], "picks images or pixels by index"),
        (lambda net, x, v: x[:, net.order, net.order], "picks images or pixels by index"),
        (lambda net, x, v: x.index_select(3, net.order), "picks images or pixels by index"),
        (lambda net, x, v: x[:, v.argmax(1).flatten()], "something other than a fixed list"),
        (lambda net, x, v: x.index_select(1, v.argmax(1).flatten()), "something other than a fixed list"),
        (lambda net, x, v: x[:, net.order[None]].flatten(1, 2), "something other than a fixed list"),
        (lambda net, x, v: x.flip((1, 3)), "uses flip"),
        (lambda net, x, v: x.flip(0), "uses flip"),
        (lambda net, x, v: torch.roll(x, 1, 2), "uses roll"),
        (lambda net, x, v: torch.roll(x, (1, 1), (1, -1)), "uses roll"),
        (lambda net, x, v: torch.roll(x, 1), "uses view|reshapes|uses roll"),
        (lambda net, x, v: x.repeat(1, 1, 2, 1), "uses repeat"),
        (lambda net, x, v: x.repeat(2, 1, 1, 1), "uses repeat"),
        (lambda net, x, v: F.channel_shuffle(x.permute(0, 2, 3, 1), 2), "uses channel_shuffle|canvas"),
    ],
)
def test_pixels_and_images_may_not_change_places(step: Step, message: str) -> None:
    """The same along height, width or images, or by indices that come from the images, is refused."""
    _refused(step, message)


def _layer_norm(net: Any, x: Tensor, v: Tensor) -> Tensor:
    """As in ConvNeXt's own code."""
    u = x.mean(1, keepdim=True)
    s = (x - u).pow(2).mean(1, keepdim=True)
    return net.plane * ((x - u) / torch.sqrt(s + 1e-6))


@pytest.mark.parametrize(
    "step",
    [
        _layer_norm,
        lambda net, x, v: x / (1 + x.abs()),
        lambda net, x, v: F.softsign(x),
        lambda net, x, v: 1 / (x.square() + 0.1),
        lambda net, x, v: (x.abs() + 0.1).reciprocal(),
        lambda net, x, v: v / (x.sigmoid() + 0.1),
        lambda net, x, v: x / (x.norm(dim=1, keepdim=True) + 1e-6),
        lambda net, x, v: x / (x.norm(p=1, dim=1, keepdim=True) + 1e-6),
        lambda net, x, v: F.normalize(x),
        lambda net, x, v: x / x.abs().clamp(min=1e-3),
        lambda net, x, v: x / (x.abs() + x.relu() + 0.5).amax(1, keepdim=True),
        lambda net, x, v: x / ((x.square() + 1e-6).sqrt() + x.abs()),
        lambda net, x, v: (2 * x).div_(1 + x.abs()),
    ],
)
def test_maps_above_zero_may_divide(step: Step, references: SimpleNamespace) -> None:
    """A quotient is exact where the divisor is known to stay above zero outside the regions as well."""
    _check(step, references)


@pytest.mark.parametrize(
    "divisor",
    [
        lambda x: 2 * x,
        lambda x: x + 1,
        lambda x: x.abs(),
        lambda x: x.norm(dim=1, keepdim=True),
        lambda x: x.abs() + 1e-20,
        lambda x: x.abs() + 1 - 1,
        lambda x: (x.abs() + 1) * x,
        lambda x: (x.abs() + 1e-5).pow(4),
        lambda x: (x.square() + 1).rsqrt(),
        lambda x: 1 - x.abs(),
        lambda x: x.abs().max(1, keepdim=True)[0] + 1,
        lambda x: torch.add(x.abs(), 1, alpha=-1),
    ],
)
def test_other_maps_may_not_divide(divisor: Callable[[Tensor], Tensor]) -> None:
    """A divisor that may be zero, or all but zero, outside the regions is refused."""
    _refused(lambda net, x, v: x / divisor(x), "divides by a feature map, which may be zero")


def test_roots_of_what_single_precision_takes_for_zero_are_refused() -> None:
    """A constant so small is lost when it is added to zero."""
    _refused(lambda net, x, v: (x.square() + 1e-50).sqrt(), "to the power 0.5")
    _refused(lambda net, x, v: (x.square() + 1e-6).pow(9).sqrt(), "to the power 0.5")


@pytest.mark.parametrize(
    "step",
    [
        lambda net, x, v: (-x.square()).exp(),
        lambda net, x, v: torch.exp(-0.5 * x.square() + 1) + torch.exp(x.relu() / -2),
        lambda net, x, v: x.clamp(max=5).exp() + x.clamp(-2, 3).exp() + x.clamp_max(2).exp(),
        lambda net, x, v: (2 * x.tanh() - 1).exp() + F.logsigmoid(x).exp() + F.relu6(x).exp(),
        lambda net, x, v: 1 / (1 + torch.exp(-x.abs())),
        lambda net, x, v: (x.square() + 1e-6).log() + (x.abs() + 0.1).log2() + (x.sigmoid() + 0.1).log10(),
        lambda net, x, v: torch.log1p(x.relu()) - torch.log(1 + (-x.abs()).exp()),
    ],
)
def test_logarithms_and_exponentials_within_bounds_agree(step: Step, references: SimpleNamespace) -> None:
    """They are exact where the map is known to stay where they are finite, outside the regions as well."""
    _check(step, references)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda net, x, v: x.exp(), "the exponential of a feature map"),
        (lambda net, x, v: (-x).exp(), "the exponential of a feature map"),
        (lambda net, x, v: x.abs().exp(), "the exponential of a feature map"),
        (lambda net, x, v: x.clamp(min=5).exp(), "the exponential of a feature map"),
        (lambda net, x, v: (20 * x.clamp(max=5)).exp(), "the exponential of a feature map"),
        (lambda net, x, v: (-x.relu() + x).exp(), "the exponential of a feature map"),
        (lambda net, x, v: (x.relu() * -1).square().exp(), "the exponential of a feature map"),
        # Zeros written outside the first map would make the second one infinite there.
        (lambda net, x, v: (x.clamp(max=-100) + 150).exp(), "the exponential of a feature map"),
        (lambda net, x, v: (2 * x).log(), "the logarithm of a feature map"),
        (lambda net, x, v: x.abs().log(), "the logarithm of a feature map"),
        (lambda net, x, v: x.log1p(), "the logarithm of a feature map"),
        (
            lambda net, x, v: (lambda y: y.log() + F.max_pool2d(y, 3, 1, 1))(x.abs() + 1),
            "takes a root of a feature map",
        ),
    ],
)
def test_logarithms_and_exponentials_without_bounds_are_refused(step: Step, message: str) -> None:
    """What may be infinite outside the regions is refused."""
    _refused(step, message)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda net, x, v: F.linear(x.permute(0, 2, 3, 1), net.plane[:, :, 0].t()), "mix channels by nn.Linear"),
        (lambda net, x, v: torch.einsum("nchw,dc->ndhw", x, net.plane[:, 0].t()), "mix channels by nn.Linear"),
        (
            lambda net, x, v: (lambda n, c, h, w: x.view(n, c, h // 2, 2, w // 2, 2).amax((3, 5)))(*x.shape),
            "blocks of pixels into channels by F.pixel_unshuffle",
        ),
    ],
)
def test_what_serves_instead_of_a_view_is_told(step: Step, message: str) -> None:
    """A view that joins or splits height and width is refused with the layer that does the same."""
    _refused(step, message)
