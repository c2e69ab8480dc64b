"""Functional calls within a module's code give each image what they give it alone, as layers do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from unsquare.errors import ExactError
from unsquare.exact import make_exact, output_regions
from unsquare.torchvision_guard import import_timm

timm = import_timm()

SIZES = [(9, 12), (14, 7), (11, 11)]


class _Step(nn.Module):
    """A module whose code is one function of a map, between two convolutions of its own."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before = nn.Conv2d(channels, channels, 3, padding=1)
        self.function = function
        self.after = nn.LazyConv2d(3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.function(self.before(x)))


def _check(
    references: SimpleNamespace, stock: nn.Module, sizes: list[tuple[int, int]], extra: tuple[int, int] = (3, 2)
) -> None:
    """Values and gradients of a padded batch equal those of each image alone, whatever comes out."""
    stock = stock.double()
    images = references.unpadded_images(sizes, channels=2)
    with torch.no_grad():
        stock(images[0][None])  # lazy layers take shape
    exact = make_exact(stock)
    pixels, regions = references.padded(images, extra=extra)
    pixels.requires_grad_()
    output = exact(pixels, regions)
    output.square().sum().backward()
    for index, image in enumerate(images):
        unpadded = image[None].clone().requires_grad_()
        expected = stock(unpadded)
        expected.square().sum().backward()
        actual = output[index]
        if expected.ndim == 4 and expected.shape[2:] != output.shape[2:]:
            height, width = output_regions(exact, regions)[index].tolist()
            assert expected.shape[2:] == (height, width)
            assert not actual[:, height:].any()
            assert not actual[:, :, width:].any()
            actual = actual[:, :height, :width]
        torch.testing.assert_close(actual, expected[0], rtol=1e-10, atol=1e-12)
        inside = pixels.grad[index, :, : image.shape[1], : image.shape[2]]
        torch.testing.assert_close(inside, unpadded.grad[0], rtol=1e-9, atol=1e-11)
    for one, other in zip(exact.parameters(), stock.parameters()):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-11)


WEIGHT = torch.linspace(-1, 1, 2 * 2 * 4 * 3, dtype=torch.float64).view(2, 2, 4, 3)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.max_pool2d(x - 10, 3, 2, 1),
        lambda x: F.max_pool2d(x - 10, kernel_size=(3, 2), stride=2, ceil_mode=True),
        lambda x: torch.max_pool2d(x - 10, 2),
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        lambda x: F.avg_pool2d(x, 3, stride=1, padding=1),
        lambda x: F.avg_pool2d(x, [2], ceil_mode=True),
        lambda x: F.conv2d(x, WEIGHT, stride=2, padding=(1, 0)),
        lambda x: F.conv2d(x, WEIGHT[:, :, :3], padding="same"),
        lambda x: F.conv2d(x, WEIGHT, None, 1, "valid", dilation=2),
        lambda x: F.pad(x, (1, 2, 0, 1)),
        lambda x: F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=float("-inf")), 2, 2),
        lambda x: F.pad(x, (0, 1, 1, 0), value=3.0),
        lambda x: F.pad(x, (-1, 1, -1, 1)),
        lambda x: F.pad(x, (0, 0, 0, 0, 0, 3)),
        lambda x: F.pad(x, (1, 2, 3, 1), mode="reflect"),
        lambda x: F.pad(x, (2, 1, 1, 3), mode="replicate"),
        lambda x: F.interpolate(x, scale_factor=2),
        lambda x: F.interpolate(x, scale_factor=(3, 2), mode="bilinear"),
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True),
        lambda x: x * F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:]),
        lambda x: x * F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear", align_corners=False),
        lambda x: x * x.mean((2, 3), keepdim=True),
        lambda x: x * torch.mean(x, dim=[3, 2])[:, :, None, None],
        lambda x: x * x.sum(dim=(-1, -2), keepdim=True),
        lambda x: x * x.amax((2, 3), True),
        lambda x: x.permute(0, 2, 3, 1).mean((1, 2))[:, :, None, None] * x,
        lambda x: x * x.mean((2, 3), keepdim=True, dtype=torch.float64),
        lambda x: x * x.mean(axis=(2, 3), keepdims=True),
        lambda x: x * torch.amax(x, axis=(2, 3), keepdim=True) * x.sum(axis=(2, 3), keepdims=True),
        lambda x: x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt(),
        lambda x: x * ((x * x).sum(1, keepdim=True).clamp(min=1e-6)).pow(-0.5),
        lambda x: x.pow(3) + x.relu().pow(1.5) + (x.var(1, correction=0, keepdim=True) + 1e-3).sqrt(),
        lambda x: F.avg_pool2d(x.clamp(min=1e-6).pow(3 + WEIGHT[0, :, :1, :1].to(x.device)), 2).pow(2),
        lambda x: x * F.adaptive_avg_pool2d(x, 1),
        lambda x: F.group_norm(x, 2),
        lambda x: F.group_norm(x, 1, WEIGHT[0, :, 0, 0].to(x.device), WEIGHT[1, :, 0, 0].to(x.device), eps=1e-3),
        lambda x: F.adaptive_avg_pool2d(x, (3, 3)),
        lambda x: F.adaptive_max_pool2d(x - 10, 3),
        lambda x: x[:, :, 1::2, ::2],
        lambda x: x[:, :, :-1, 1:],
        lambda x: torch.cat([part * k for k, part in enumerate(x.chunk(2, dim=1))] + [x], dim=1),
        lambda x: torch.stack([x, F.avg_pool2d(x, 3, 1, 1)], dim=1).sum(1),
        lambda x: x.unflatten(1, (1, 2)).transpose(1, 2).flatten(1, 2) * x.softmax(dim=1),
        lambda x: torch.stack(x.unbind(1), dim=1) - x[:, 0][:, None],
    ],
)
def test_steps_of_a_module(references: SimpleNamespace, function: Callable[[Tensor], Tensor]) -> None:
    """A module that calls functions of its own agrees with itself on each image alone."""
    _check(references, nn.Sequential(_Step(function)), SIZES)


def test_a_mean_has_the_type_asked_for(references: SimpleNamespace) -> None:
    """A mean in float64 of a float32 map has float64's digits, with sizes and without."""
    exact = make_exact(nn.Sequential(_Mean()))
    images = [image + 1000 for image in references.unpadded_images(SIZES, torch.float32)]
    output = exact(*references.padded(images))
    expected = torch.stack([image.double().mean((1, 2)) for image in images])
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=0)
    assert exact(images[0][None]).dtype == torch.float64


class _Mean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3), dtype=torch.float64)


@pytest.mark.parametrize("size", [(8, 12), (16, 8)])
def test_pixels_to_channels_and_back(references: SimpleNamespace, size: tuple[int, int]) -> None:
    """Blocks of pixels become channels, and channels blocks, for sizes that the stock call takes."""
    step = _Step(lambda x: F.pixel_shuffle(F.avg_pool2d(F.pixel_unshuffle(x, 4), 3, 1, 1), 2))
    stock = nn.Sequential(step).double()
    images = references.unpadded_images([size, (12, 12)], channels=2)
    stock(images[0][None])
    pixels, sizes = references.padded(images, extra=(4, 4))
    output = make_exact(stock)(pixels, sizes)
    for actual, image in zip(output, images):
        expected = stock(image[None])[0]
        torch.testing.assert_close(actual[:, : expected.shape[1], : expected.shape[2]], expected)


_SAME = st.tuples(st.integers(1, 5), st.integers(1, 4))
_LENGTHS = st.lists(st.tuples(st.integers(5, 14), st.integers(5, 14)), min_size=1, max_size=3)


@settings(max_examples=40, deadline=None)
@given(window=_SAME, dilation=st.integers(1, 2), sizes=_LENGTHS)
def test_same_padding_follows_each_image(
    references: SimpleNamespace, window: tuple[int, int], dilation: int, sizes: list[tuple[int, int]]
) -> None:
    """TensorFlow's 'same' pads each image by its own size, though neighbours need other amounts."""
    kernel, stride = window
    conv = timm.layers.Conv2dSame(2, 2, kernel, stride, dilation=dilation)
    _check(references, nn.Sequential(nn.Conv2d(2, 2, 1), conv, nn.Conv2d(2, 2, 3, padding=1)), sizes)


@settings(max_examples=30, deadline=None)
@given(window=_SAME, sizes=_LENGTHS)
def test_same_pools_follow_each_image(
    references: SimpleNamespace, window: tuple[int, int], sizes: list[tuple[int, int]]
) -> None:
    """'Same' pools of negative values agree, average and maximum."""
    kernel, stride = window
    for kind in ("avg", "max"):
        pool = timm.layers.create_pool2d(kind, kernel, stride, padding="same")
        _check(references, nn.Sequential(nn.Conv2d(2, 2, 1), pool, nn.Conv2d(2, 2, 3, padding=1)), sizes)


@settings(max_examples=30, deadline=None)
@given(pads=st.tuples(*[st.integers(0, 4)] * 4), mode=st.sampled_from(["reflect", "replicate"]), sizes=_LENGTHS)
def test_mirrored_padding_takes_the_images_own_edge(
    references: SimpleNamespace, pads: tuple[int, ...], mode: str, sizes: list[tuple[int, int]]
) -> None:
    """Reflect and replicate padding repeat the pixels at each image's own edge."""
    _check(references, nn.Sequential(_Step(lambda x: F.pad(x, pads, mode=mode))), sizes)


def test_reflect_padding_wider_than_the_image_is_refused(references: SimpleNamespace) -> None:
    """An image that the stock layer could not pad alone is named, though the canvas would do."""
    exact = make_exact(nn.Sequential(nn.Conv2d(2, 2, 5, padding=4, padding_mode="reflect")).double())
    with pytest.raises(ExactError, match="Reflect padding by 4 pixels needs larger maps"):
        exact(*references.padded(references.unpadded_images([(3, 9), (12, 12)], channels=2)))


@pytest.mark.parametrize("mode", ["reflect", "replicate"])
def test_padding_modes_of_convolutions(references: SimpleNamespace, mode: str) -> None:
    """A convolution that mirrors or repeats its edge is exact."""
    _check(references, nn.Sequential(nn.Conv2d(2, 3, 3, 2, 1, padding_mode=mode), nn.Conv2d(3, 2, 3)), SIZES)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_even_kernels_pad_lopsidedly(references: SimpleNamespace) -> None:
    """'same' of an even kernel pads one side more, the same for every image."""
    _check(references, nn.Sequential(nn.Conv2d(2, 3, (4, 2), padding="same"), nn.Conv2d(3, 2, 3)), SIZES)


def test_one_layer_at_several_depths(references: SimpleNamespace) -> None:
    """One pool used after every stage, and one convolution used twice, know at which depth they are."""
    torch.manual_seed(0)
    pool, conv = nn.MaxPool2d(3, 2, 1), nn.Conv2d(2, 2, 3, padding=1)
    _check(references, nn.Sequential(conv, pool, conv, nn.ReLU(), pool, conv), [(19, 24), (28, 17)])


class _Halves(nn.Module):
    """Calls functions on a map, and lets a layer and a part with calls of its own do the same in between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.point = nn.Conv2d(2, 2, 1)
        self.part = _Step(lambda x: F.max_pool2d(x, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.point(F.avg_pool2d(self.conv(x), 2))
        x = self.part(x) + x.mean((2, 3), keepdim=True)[:, :1]
        return F.max_pool2d(self.part(x[:, :2]), 2) if self.training else F.avg_pool2d(self.part(x[:, :2]), 2)


def test_calls_of_parts_are_told_apart(references: SimpleNamespace) -> None:
    """Calls inside layers and parts are not taken for the module's own, in training and in evaluation."""
    for training in (True, False):
        torch.manual_seed(0)
        _check(references, nn.Sequential(_Halves().train(training)), [(19, 24), (28, 17)])


def test_another_number_of_calls_is_refused(references: SimpleNamespace) -> None:
    """A module that makes other calls than when it was followed is named, not replaced wrongly."""
    times = [1]

    def pools(x: Tensor) -> Tensor:
        for _ in range(times[0]):
            x = F.max_pool2d(x, 3, 1, 1)
        return x

    stock = nn.Sequential(_Step(pools)).double()
    images = references.unpadded_images(SIZES, channels=2)
    stock(images[0][None])
    exact = make_exact(stock)
    times[0] = 2
    with pytest.raises(ExactError, match="same functional calls in each pass, but call 2 was max_pool2d"):
        exact(*references.padded(images))


def test_paths_of_different_stride_that_meet(references: SimpleNamespace) -> None:
    """Sizes at which the stock model fails alone are named with what suits; others agree."""

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Conv2d(2, 2, 3, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.down(x) + F.avg_pool2d(x, 2)

    stock = nn.Sequential(Fork(), Fork())
    _check(references, stock, [(12, 8), (16, 20)], extra=(4, 8))
    with pytest.raises(ExactError, match=r"An image of 9 x 12 pixels .* meet at 0 \(Fork\).*multiples of 4"):
        make_exact(stock)(torch.zeros(2, 2, 16, 16, dtype=torch.float64), torch.tensor([[9, 12], [16, 16]]))
    with pytest.raises(ExactError, match=r"A canvas of 18 x 16 pixels"):
        make_exact(stock)(torch.zeros(1, 2, 18, 16, dtype=torch.float64), torch.tensor([[8, 12]]))


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(3, 2, 1, count_include_pad=False),
        nn.AvgPool2d(3, 2, ceil_mode=True),
        nn.ReflectionPad2d(1),
        nn.ReplicationPad2d((0, 2, 1, 0)),
        timm.layers.AvgPool2dSame(3, 2),
        timm.layers.Conv2dSame(4, 4, 3, 2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_one_layer_at_two_depths(references: SimpleNamespace, layer: nn.Module) -> None:
    """A layer that notes places or counts for a map keeps those of two maps apart, the second larger or smaller."""
    torch.manual_seed(0)
    around = [nn.Conv2d(2, 4, 3, padding=1), layer, nn.Conv2d(4, 4, 3, padding=1), layer, nn.Conv2d(4, 3, 3, padding=1)]
    _check(references, copy.deepcopy(nn.Sequential(*around)), [(19, 22), (24, 17)])
    larger = [*around[:2], nn.Upsample(scale_factor=2), *around[2:]]
    _check(references, nn.Sequential(*larger), [(19, 22), (24, 17)])


class _Root(nn.Module):
    """Its own code makes a call that needs no replacing, around layers that do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x).sum(1, keepdim=True)


class _Pooled(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(self.inner(x), 2)


class _Shared(nn.Module):
    """A layer that stands below two modules, one of which makes calls of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Conv2d(2, 2, 1)
        self.first = nn.Sequential(self.inner, nn.Conv2d(2, 2, 3, padding=1))
        self.second = _Pooled(self.inner)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))


@pytest.mark.parametrize("network", [_Root, _Shared])
def test_calls_are_matched_where_they_are_made(references: SimpleNamespace, network: type[nn.Module]) -> None:
    """Calls of layers below a module, however these are shared, are not taken for the module's own."""
    _check(references, network(), SIZES)


@pytest.mark.parametrize(
    "function",
    [lambda x: x[:, 0], lambda x: x.permute(0, 2, 3, 1), lambda x: x.unflatten(1, (1, 3)).transpose(1, 2)],
    ids=["no channels", "channels last", "five axes"],
)
def test_maps_of_any_layout_are_returned_clean(
    references: SimpleNamespace, function: Callable[[Tensor], Tensor]
) -> None:
    """A returned map is the unpadded image's inside its region and zero outside, wherever height and width stand."""

    class Net(_Root):
        def forward(self, x: Tensor) -> Tensor:
            return function(self.body(x)[:, :3])

    stock = Net().double()
    images = references.unpadded_images(SIZES, channels=2)
    pixels, sizes = references.padded(images, extra=(3, 2))
    exact = make_exact(stock)
    output = exact(pixels, sizes)
    (found,) = exact.exact_methods["forward"].outputs[True]
    regions = output_regions(exact, sizes)
    for index, image in enumerate(images):
        expected = stock(image[None])
        whole = torch.zeros_like(output[index : index + 1])
        height, width = regions[index].tolist()
        whole.narrow(found.axes[0], 0, height).narrow(found.axes[1], 0, width).copy_(expected)
        torch.testing.assert_close(output[index : index + 1], whole, rtol=1e-10, atol=1e-12)
