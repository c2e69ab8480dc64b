"""Region pools see each image's own region, as plain PyTorch does on the unpadded feature map."""

from __future__ import annotations

from types import SimpleNamespace
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from unsquare.errors import ConfigError, ExactError
from unsquare.exact import RegionPool
from unsquare.exact.pool.region import PoolKind

KINDS = get_args(PoolKind)
_SIZES = st.lists(st.tuples(st.integers(1, 11), st.integers(1, 11)), min_size=1, max_size=4)


def _alone(features: Tensor, kind: PoolKind, power: Tensor | float = 3.0) -> Tensor:
    """What plain PyTorch pools from an unpadded map (C, h, w): (1, C) or (1, 2 C)."""
    average = F.adaptive_avg_pool2d(features[None], 1).flatten(1)
    maximum = F.adaptive_max_pool2d(features[None], 1).flatten(1)
    generalized = features[None].clamp(min=1e-6).pow(power).mean(dim=(2, 3)).pow(1 / power)
    return {
        "avg": average,
        "max": maximum,
        "avgmax": (average + maximum) / 2,
        "catavgmax": torch.cat([average, maximum], dim=1),
        "gem": generalized,
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(
    sizes=_SIZES,
    relu=st.booleans(),
    channels_last=st.booleans(),
    garbage=st.sampled_from([100.0, -1e30, 1e30]),
    power=st.sampled_from([1.0, 3.0, 4.7]),
)
def test_values_and_gradients_are_those_of_the_unpadded_map(
    references: SimpleNamespace,
    kind: PoolKind,
    sizes: list[tuple[int, int]],
    relu: bool,
    channels_last: bool,
    garbage: float,
    power: float,
) -> None:
    """Values and all gradients equal those of each cropped map, whatever lies outside, regions of a pixel included."""
    maps = [one.relu() if relu else one.abs() for one in references.unpadded_images(sizes)]
    canvas, regions = references.padded(maps, extra=(2, 3), garbage=garbage)
    if channels_last:
        canvas = canvas.contiguous(memory_format=torch.channels_last)
    canvas.requires_grad_()
    pool = RegionPool(kind).double()
    unpadded_power = torch.tensor([power], dtype=torch.float64, requires_grad=True)
    if kind == "gem":
        pool.load_state_dict({"power": unpadded_power})
    output = pool(canvas, regions)
    weights = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(0))
    (output * weights).sum().backward()
    for index, one in enumerate(maps):
        unpadded = one.clone().requires_grad_()
        expected = _alone(unpadded, kind, unpadded_power)
        (expected * weights[index]).sum().backward()
        torch.testing.assert_close(output[index : index + 1], expected, rtol=1e-10, atol=1e-10)
        inside = canvas.grad[index, :, : one.shape[1], : one.shape[2]]
        torch.testing.assert_close(inside, unpadded.grad, rtol=1e-10, atol=1e-10)
        assert canvas.grad[index].count_nonzero() == inside.count_nonzero()
    if kind == "gem":
        torch.testing.assert_close(pool.get_parameter("power").grad, unpadded_power.grad, rtol=1e-10, atol=1e-10)


def test_the_generalized_mean_has_the_gradient_of_its_differences(references: SimpleNamespace) -> None:
    """Finite differences agree with the gradients of features and power, outside the regions included."""
    canvas, regions = references.padded(
        [one.exp() for one in references.unpadded_images([(3, 2), (1, 4)])], garbage=2.0
    )
    pool = RegionPool("gem").double()

    def pooled(features: Tensor, power: Tensor) -> Tensor:
        return torch.func.functional_call(pool, {"power": power}, (features, regions))

    power = torch.tensor([2.5], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pooled, (canvas.requires_grad_(), power))


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e20])
def test_the_generalized_mean_stays_finite(scale: float) -> None:
    """In float32, where plain powers overflow or vanish, values are right and gradients finite at any power."""
    features = (scale * torch.tensor([1.0, 2.0]).expand(1, 3, 4, 2)).requires_grad_()
    pool = RegionPool("gem")
    torch.nn.init.constant_(pool.get_parameter("power"), 9.0)
    output = pool(features, torch.tensor([[3, 2]]))
    output.sum().backward()
    expected = _alone(features[0, :, :3].double(), "gem", 9.0)
    torch.testing.assert_close(output.double(), expected, rtol=1e-5, atol=0.0)
    for gradient in (features.grad, pool.get_parameter("power").grad):
        assert gradient is not None
        assert gradient.isfinite().all()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision(references: SimpleNamespace, kind: PoolKind, autocast: bool) -> None:
    """A bfloat16 map, in autocast or out, gives a bfloat16 vector that errs by its own rounding, gradients too."""
    maps = [1000 * one.abs() for one in references.unpadded_images([(19, 32), (1, 1)], torch.bfloat16, channels=16)]
    canvas, regions = references.padded(maps, garbage=1e30)
    canvas.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        output = RegionPool(kind)(canvas, regions)
    output.sum().backward()
    assert output.dtype == canvas.grad.dtype == torch.bfloat16
    for index, one in enumerate(maps):
        unpadded = one.double().requires_grad_()
        expected = _alone(unpadded, kind)
        expected.sum().backward()
        torch.testing.assert_close(output[index : index + 1].double(), expected, rtol=2**-7, atol=0.0)
        inside = canvas.grad[index, :, : one.shape[1], : one.shape[2]]
        torch.testing.assert_close(inside.double(), unpadded.grad, rtol=2**-6, atol=1e-6)


def test_the_generalized_mean_keeps_float32_under_autocast(references: SimpleNamespace) -> None:
    """Autocast to bfloat16 changes no digit where the map is float32."""
    canvas, regions = references.padded(references.unpadded_images([(9, 12), (5, 3)], torch.float32), garbage=0.0)
    pool = RegionPool("gem")
    with torch.autocast("cpu", torch.bfloat16):
        output = pool(canvas, regions)
    assert torch.equal(output, pool(canvas, regions))


@pytest.mark.parametrize("kind", KINDS)
def test_state_goes_around(kind: PoolKind) -> None:
    """The power alone is state, starts at 3 and is loaded; num_bins gives the length of the vector."""
    pool, other = RegionPool(kind), RegionPool(kind)
    assert list(pool.state_dict()) == (["power"] if kind == "gem" else [])
    if kind == "gem":
        assert pool.get_parameter("power").tolist() == [3.0]
        torch.nn.init.constant_(pool.get_parameter("power"), 4.0)
    other.load_state_dict(pool.state_dict())
    features, regions = torch.rand(2, 5, 4, 3), torch.tensor([[4, 2], [1, 3]])
    assert torch.equal(other(features, regions), pool(features, regions))
    assert pool(features, regions).shape == (2, 5 * pool.num_bins)


@pytest.mark.parametrize("kind", KINDS)
def test_mistakes_are_named(kind: PoolKind) -> None:
    """A region larger than its map is refused by every kind."""
    with pytest.raises(ExactError, match=r"4 x 6, but one has 128 x 192; .*output_regions"):
        RegionPool(kind)(torch.zeros(1, 3, 4, 6), torch.tensor([[128, 192]]))


def test_unknown_kinds_are_refused() -> None:
    """The kinds there are, and what was received, are named."""
    with pytest.raises(ConfigError, match="avg, max, avgmax, catavgmax, gem, but is 'sum'"):
        RegionPool("sum")  # type: ignore[arg-type]
