"""Each layer that looks sideways finds, at a region's edge, what it finds at the edge of the image alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from unsquare.exact import make_exact, output_regions


def _check(
    references: SimpleNamespace, layer: nn.Module, images: list[Tensor], extra: tuple[int, int] = (3, 2)
) -> None:
    """Values and input gradients of a layer between two mixing convolutions equal those of each image alone."""
    torch.manual_seed(0)
    channels = images[0].shape[0]
    before, after = nn.Conv2d(channels, channels, 1), nn.Conv2d(channels, channels, 3, padding=1)
    stock = nn.Sequential(before, layer, after).double()
    exact = make_exact(stock)
    pixels, sizes = references.padded(images, extra=extra)
    pixels.requires_grad_()
    output = exact(pixels, sizes)
    output.square().sum().backward()
    for index, (image, region) in enumerate(zip(images, output_regions(exact, sizes).tolist())):
        unpadded = image[None].clone().requires_grad_()
        expected = stock(unpadded)
        expected.square().sum().backward()
        height, width = region
        assert expected.shape[2:] == (height, width)
        torch.testing.assert_close(output[index, :, :height, :width], expected[0], rtol=1e-10, atol=1e-12)
        inside = pixels.grad[index, :, : image.shape[1], : image.shape[2]]
        torch.testing.assert_close(inside, unpadded.grad[0], rtol=1e-9, atol=1e-11)


_KERNELS = st.integers(1, 4).flatmap(
    lambda kernel: st.tuples(
        st.just(kernel), st.integers(1, 3), st.integers(0, kernel // 2), st.booleans(), st.booleans()
    )
)
_SIZES = st.lists(st.tuples(st.integers(4, 14), st.integers(4, 14)), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(window=_KERNELS, sizes=_SIZES)
def test_average_pools(
    references: SimpleNamespace, window: tuple[int, int, int, bool, bool], sizes: list[tuple[int, int]]
) -> None:
    """An average pool divides by the unpadded image's count, for every kernel, stride, padding, rounding and rule."""
    kernel, stride, padding, ceil_mode, include = window
    pool = nn.AvgPool2d(kernel, stride, padding, ceil_mode=ceil_mode, count_include_pad=include)
    _check(references, pool, references.unpadded_images(sizes, channels=2))


@settings(max_examples=60, deadline=None)
@given(window=_KERNELS, sizes=_SIZES, dilation=st.integers(1, 2))
def test_max_pools(
    references: SimpleNamespace,
    window: tuple[int, int, int, bool, bool],
    sizes: list[tuple[int, int]],
    dilation: int,
) -> None:
    """A max-pool sees minus infinity outside: over negative activations zero would win."""
    kernel, stride, padding, ceil_mode, _ = window
    if dilation * (kernel - 1) + 1 > 4:
        dilation = 1
    pool = nn.MaxPool2d(kernel, stride, padding, dilation, ceil_mode=ceil_mode)
    images = [image - 10 for image in references.unpadded_images(sizes, channels=2)]
    _check(references, pool, images)


@settings(max_examples=40, deadline=None)
@given(window=_KERNELS, sizes=_SIZES)
def test_convolutions(
    references: SimpleNamespace, window: tuple[int, int, int, bool, bool], sizes: list[tuple[int, int]]
) -> None:
    """A convolution's zero padding begins at each image's own edge, also where a stride floors one image only."""
    kernel, stride, padding, bias, _ = window
    conv = nn.Conv2d(2, 2, kernel, stride, padding, bias=bias)
    _check(references, conv, references.unpadded_images(sizes, channels=2))


@pytest.mark.parametrize("padding", ["same", "valid", (2, 0)])
def test_other_paddings_of_convolutions(references: SimpleNamespace, padding: str | tuple[int, int]) -> None:
    """'same' of an odd kernel, 'valid', and padding along one axis are exact."""
    conv = nn.Conv2d(2, 2, (5, 3), padding=padding, dilation=(1, 2))
    _check(references, conv, references.unpadded_images([(9, 12), (14, 7)], channels=2))


def test_a_divisor_of_ones_own(references: SimpleNamespace) -> None:
    """With divisor_override an average pool divides by that."""
    pool = nn.AvgPool2d(3, 2, 1, ceil_mode=True, divisor_override=5)
    _check(references, pool, references.unpadded_images([(9, 12), (14, 7)], channels=2))


def test_one_pixel_beside_a_large_image(references: SimpleNamespace) -> None:
    """A region of one pixel keeps its value, with windows that lie wholly outside it all around."""
    images = references.unpadded_images([(1, 1), (12, 12)], channels=2)
    for layer in (nn.MaxPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1), nn.Conv2d(2, 2, 3, 2, 1)):
        _check(references, layer, images, extra=(9, 9))


@pytest.mark.parametrize("activation", [nn.Sigmoid(), nn.Tanh(), nn.ReLU(), nn.ReLU(inplace=True), nn.Hardswish()])
def test_activations_that_keep_their_output(references: SimpleNamespace, activation: nn.Module) -> None:
    """Filling outside an activation's output disturbs no gradient, whether it saved its output or its input."""
    layers = nn.Sequential(nn.Conv2d(2, 2, 1), activation, nn.MaxPool2d(3, 2, 1), activation, nn.Conv2d(2, 2, 3))
    _check(references, layers, references.unpadded_images([(9, 12), (14, 7)], channels=2))


def test_a_second_derivative_is_right(references: SimpleNamespace) -> None:
    """Differentiating twice through the cleaning agrees with the image alone."""
    torch.manual_seed(0)
    stock = nn.Sequential(nn.Conv2d(2, 2, 3, padding=1), nn.Tanh(), nn.Conv2d(2, 2, 3, padding=1)).double()
    exact = make_exact(stock)
    image = references.unpadded_images([(6, 7)], channels=2)[0]

    def twice(model: nn.Module, pixels: Tensor, *sizes: Tensor) -> Tensor:
        pixels = pixels.clone().requires_grad_()
        (first,) = torch.autograd.grad(model(pixels, *sizes).square().sum(), pixels, create_graph=True)
        return torch.autograd.grad(first.square().sum(), pixels)[0]

    actual = twice(exact, *references.padded([image], extra=(3, 3)))[:, :, :6, :7]
    torch.testing.assert_close(actual, twice(stock, image[None]), rtol=1e-9, atol=1e-11)


def test_narrow_strided_points_do_not_overrun(references: SimpleNamespace) -> None:
    """Kernels of one pixel with a stride over three channels agree; PyTorch's own crashes channels-last in float32."""
    _check(references, nn.Conv2d(3, 3, 1, 2), references.unpadded_images([(9, 12), (14, 7)], channels=3))
    exact = make_exact(nn.Sequential(nn.Conv2d(3, 48, 1, 2)))
    for _ in range(8):
        exact(torch.randn(3, 3, 160, 132), torch.tensor([[160, 132], [150, 131], [131, 100]])).sum().backward()


def test_a_map_that_a_norm_and_a_convolution_read(references: SimpleNamespace) -> None:
    """A convolution keeps its input for backward; a batch norm that reads the same map later does not spoil it."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 2, 3, padding=1), nn.BatchNorm2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x) - self.norm(x)

    torch.manual_seed(0)
    stock = nn.Sequential(nn.Conv2d(2, 2, 1), Branches(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().train()
    exact = make_exact(stock)
    images = references.unpadded_images([(9, 12), (14, 7)], channels=2)
    weights = torch.tensor([[1.0, -2.0], [3.0, 0.5]], dtype=torch.float64)
    references.run_ragged(stock, images, weights)
    (exact(*references.padded(images, extra=(3, 5))) * weights).sum().backward()
    assert max(references.gradient_errors(exact, stock).values()) < 1e-10
