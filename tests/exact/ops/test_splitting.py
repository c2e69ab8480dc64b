"""Convolutions cut into several calls give what one call gives, and so do their gradients."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from unsquare.exact import make_exact
from unsquare.exact.ops import splitting
from unsquare.exact.verify import reference

_SMALL_BYTES = 20_000


def _gradients(run, x: Tensor, weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    """The output, and gradients of map, weights and bias for one and the same gradient of the output."""
    given = [part.detach().clone().requires_grad_() for part in (x, weight, bias) if part is not None]
    y = run(*given)
    generator = torch.Generator().manual_seed(3)
    grad = torch.randn(y.shape, generator=generator, dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, given, grad)]


@st.composite
def _cases(draw):
    """A convolution's settings, with windows that fit and paddings no wider than them, and its map."""
    kernel, stride, dilation = (tuple(draw(st.integers(1, most)) for _ in "hw") for most in (4, 3, 3))
    spans = [dilation[axis] * (kernel[axis] - 1) + 1 for axis in (0, 1)]
    padding = tuple(draw(st.integers(0, span)) for span in spans)
    lengths = [draw(st.integers(max(1, span - 2 * pad), 36)) for span, pad in zip(spans, padding)]
    groups = draw(st.sampled_from([1, 2, 3]))
    channels, out_channels = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    return SimpleNamespace(
        shape=(draw(st.integers(1, 4)), channels, *lengths),
        weight_shape=(out_channels, channels // groups, *kernel),
        has_bias=draw(st.booleans()),
        windows={"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
        channels_last=draw(st.booleans()),
        map_bytes=draw(st.sampled_from([1_000, 4_000, _SMALL_BYTES])),
    )


@settings(max_examples=150, deadline=None)
@given(case=_cases(), seed=st.integers(0, 99))
def test_cut_convolutions_equal_one_call(case: SimpleNamespace, seed: int) -> None:
    """Whatever the windows, the images, the layout and the size of a band: map and gradients agree to 1e-12."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, weight = numbers(*case.shape), numbers(*case.weight_shape)
    bias = numbers(case.weight_shape[0]) if case.has_bias else None
    if case.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    expected = _gradients(lambda *given: F.conv2d(*given, **case.windows), x, weight, bias)
    with mock.patch.object(splitting, "MAP_BYTES", case.map_bytes):
        actual = _gradients(lambda *given: splitting.conv2d(*given, **case.windows), x, weight, bias)
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12 * float(other.abs().max()))


def test_gradients_that_nobody_wants_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels without a gradient, and frozen weights, change nothing of the others' gradients."""
    monkeypatch.setattr(splitting, "MAP_BYTES", _SMALL_BYTES)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 40, 30, generator=generator, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64)
    for wants_x in (True, False):
        one, other = x.clone().requires_grad_(wants_x), weight.clone().requires_grad_(not wants_x)
        splitting.conv2d(one, other, padding=1).square().sum().backward()
        again, against = x.clone().requires_grad_(wants_x), weight.clone().requires_grad_(not wants_x)
        F.conv2d(again, against, padding=1).square().sum().backward()
        assert (one.grad is None) == (not wants_x)
        assert (other.grad is None) == wants_x
        found, expected = (one.grad, again.grad) if wants_x else (other.grad, against.grad)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-10)


@pytest.mark.parametrize("padding", [2, 3])
def test_paddings_wider_than_the_window(padding: int) -> None:
    """Rows of the map returned that see nothing but padding are the bias, also where a band holds no others."""
    x, weight = torch.ones(1, 2, 9, 9, dtype=torch.float64), torch.ones(3, 2, 1, 1, dtype=torch.float64)
    with mock.patch.object(splitting, "MAP_BYTES", 2_000):
        assert torch.equal(splitting.conv2d(x, weight, padding=padding), F.conv2d(x, weight, padding=padding))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [5, 7])
def test_wide_depthwise_weights_in_bfloat16(monkeypatch: pytest.MonkeyPatch, kernel: int, stride: int) -> None:
    """Gradients summed in float32 are those in float64, rounded once: never further from them than the stock ones."""
    monkeypatch.setattr(splitting, "WIDENED_BYTES", 5_000)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3, 16, 41, 37, generator=generator).bfloat16().contiguous(memory_format=torch.channels_last)
    weight, bias = torch.randn(16, 1, kernel, kernel, generator=generator).bfloat16(), torch.zeros(16).bfloat16()
    windows = {"stride": stride, "padding": kernel // 2, "groups": 16}
    actual = _gradients(lambda *given: splitting.conv2d(*given, **windows), x, weight, bias)
    stock = _gradients(lambda *given: F.conv2d(*given, **windows), x, weight, bias)
    exact = _gradients(lambda *given: F.conv2d(*given, **windows), x.double(), weight.double(), bias.double())
    # Both are given the same gradient, of which only the bfloat16 counts.
    generator = torch.Generator().manual_seed(3)
    grad = torch.randn(exact[0].shape, generator=generator, dtype=torch.float64).bfloat16().double()
    wide = [part.double().requires_grad_() for part in (x, weight, bias)]
    exact[1:] = torch.autograd.grad(F.conv2d(*wide, **windows), wide, grad)
    assert torch.equal(actual[0], stock[0])
    assert torch.equal(actual[1], stock[1])
    for one, other, expected in zip(actual[2:], stock[2:], exact[2:]):
        assert one.dtype == torch.bfloat16
        scale = float(expected.abs().max())
        torch.testing.assert_close(one.double(), expected, rtol=2**-8, atol=1e-5 * scale)
        errors = [reference.relative_error(values.double(), expected) for values in (one, other)]
        assert errors[0] <= errors[1] * 1.001


def test_autocast_is_that_of_one_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast the map comes in bfloat16 and gradients in the tensors' own type, as from `F.conv2d`."""
    monkeypatch.setattr(splitting, "MAP_BYTES", _SMALL_BYTES)
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((2, 8, 40, 40), (8, 8, 3, 3), (8,)))

    def run(function):
        def within(*given: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return function(*given, padding=1)

        return within

    actual = _gradients(run(splitting.conv2d), x, weight, bias)
    for one, other in zip(actual, _gradients(run(F.conv2d), x, weight, bias)):
        assert one.dtype == other.dtype
        assert reference.relative_error(one.double(), other.double()) < 2**-6


def test_gradients_of_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cut convolution can be differentiated twice."""
    monkeypatch.setattr(splitting, "MAP_BYTES", 400)
    generator = torch.Generator().manual_seed(0)
    given = [
        torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((2, 2, 7, 5), (2, 2, 3, 3), (2,))
    ]
    assert torch.autograd.gradcheck(lambda *parts: splitting.conv2d(*parts, 2, 1), given)
    assert torch.autograd.gradgradcheck(lambda *parts: splitting.conv2d(*parts, 2, 1), given)


def test_which_convolutions_must_be_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large maps, given or returned, and wide depthwise windows; not on other devices, nor small maps."""
    monkeypatch.setattr(splitting, "MAP_BYTES", 4 * 3 * 100 * 100)
    large, small = torch.empty(1, 3, 100, 100), torch.empty(1, 3, 50, 50)
    assert splitting.must_cut(nn.Conv2d(3, 3, 3), large)
    assert not splitting.must_cut(nn.Conv2d(3, 3, 3), small)
    assert splitting.must_cut(nn.Conv2d(3, 32, 3), small)  # its output is eight times as large
    assert not splitting.must_cut(nn.Conv2d(3, 8, 3, stride=2), small)
    assert not splitting.must_cut(nn.Conv2d(3, 3, 3), large.bfloat16())  # in half precision elements count
    assert not splitting.must_cut(nn.Conv2d(3, 3, 3, groups=3), large)  # narrow depthwise ones alike
    assert splitting.must_cut(nn.Conv2d(3, 3, 3), torch.cat([large, large]).bfloat16())
    assert splitting.must_cut(nn.Conv2d(3, 3, 7, groups=3), small[:, :, :9, :9])
    assert splitting.must_cut(nn.Conv2d(3, 3, (1, 5), groups=3), small[:, :, :9, :9])
    assert not splitting.must_cut(nn.Conv2d(3, 3, 3, groups=3), small[:, :, :9, :9])
    assert not splitting.must_cut(nn.Conv2d(1, 1, 7), small[:, :1, :9, :9])
    assert not splitting.must_cut(nn.Conv2d(3, 3, 3), torch.empty(1, 3, 10_000, 10_000, device="meta"))


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto"])
def test_an_exact_network_with_cut_convolutions(
    references: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A padded batch gives the same outputs and gradients whether its convolutions are cut or not."""
    model = make_exact(references.stock_model(name))
    pixels, sizes = references.padded(references.unpadded_images([(65, 50), (40, 71)]))
    one_call = splitting.conv2d
    cut: list[tuple[int, ...]] = []

    def counted(x: Tensor, *args: object, **kwargs: object) -> Tensor:
        cut.append(tuple(x.shape))
        return one_call(x, *args, **kwargs)

    monkeypatch.setattr(splitting, "conv2d", counted)
    found = []
    for map_bytes in (1 << 31, _SMALL_BYTES):
        model.zero_grad()
        monkeypatch.setattr(splitting, "MAP_BYTES", map_bytes)
        before = len(cut)
        output = model(pixels, sizes)
        output.square().sum().backward()
        gradients = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
        found.append((output.detach(), gradients, len(cut) - before))
    (expected, expected_gradients, _), (output, gradients, num_cut) = found
    assert num_cut > 3
    assert references.error(output, expected) < 1e-12
    assert max(reference.gradient_errors(gradients, expected_gradients).values()) < 1e-11
