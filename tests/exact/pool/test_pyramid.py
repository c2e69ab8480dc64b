"""Spatial pyramid pooling bins each image's own region, as PyTorch's adaptive pools do on the unpadded feature map."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from unsquare.errors import ConfigError, ExactError
from unsquare.exact import SpatialPyramidPool

LEVELS = (1, 2, 4)
Mode = Literal["max", "mean"]
_SIZES = st.lists(st.tuples(st.integers(1, 11), st.integers(1, 11)), min_size=1, max_size=4)


def _alone(features: Tensor, mode: Mode, levels: tuple[int, ...] = LEVELS) -> Tensor:
    pool = F.adaptive_max_pool2d if mode == "max" else F.adaptive_avg_pool2d
    return torch.cat([pool(features[None], level).flatten(1) for level in levels], dim=1)


@pytest.mark.parametrize("mode", ["max", "mean"])
@settings(max_examples=100, deadline=None)
@given(
    sizes=_SIZES,
    levels=st.sampled_from([LEVELS, (3, 5, 7), (6, 2), (13,)]),
    ties=st.booleans(),
    channels_last=st.booleans(),
    garbage=st.sampled_from([100.0, -1e30, 1e30]),
)
def test_values_and_gradients_are_those_of_the_unpadded_map(
    references: SimpleNamespace,
    mode: Mode,
    sizes: list[tuple[int, int]],
    levels: tuple[int, ...],
    ties: bool,
    channels_last: bool,
    garbage: float,
) -> None:
    """Values and gradients equal the adaptive pools' on each cropped map, with ties and regions below the level."""
    maps = references.unpadded_images(sizes, channels=3)
    if ties:  # as after a ReLU: many zeros, few values
        maps = [one.round().clamp(min=0) for one in maps]
    canvas, regions = references.padded(maps, extra=(2, 3), garbage=garbage)
    if channels_last:
        canvas = canvas.contiguous(memory_format=torch.channels_last)
    canvas.requires_grad_()
    output = SpatialPyramidPool(levels, mode)(canvas, regions)
    weights = torch.randn(output.shape, dtype=output.dtype, generator=torch.Generator().manual_seed(0))
    (output * weights).sum().backward()
    for index, one in enumerate(maps):
        unpadded = one.clone().requires_grad_()
        expected = _alone(unpadded, mode, levels)
        (expected * weights[index]).sum().backward()
        torch.testing.assert_close(output[index : index + 1], expected, rtol=1e-12, atol=1e-12)
        inside = canvas.grad[index, :, : one.shape[1], : one.shape[2]]
        torch.testing.assert_close(inside, unpadded.grad, rtol=1e-12, atol=1e-12)
        assert canvas.grad[index].count_nonzero() == inside.count_nonzero()


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_levels_of_any_number(references: SimpleNamespace, mode: Mode) -> None:
    """Levels that do not divide one another work, and num_bins gives the length of the vector."""
    (features,) = references.unpadded_images([(7, 10)], channels=5)
    pool = SpatialPyramidPool((3, 5), mode)
    output = pool(features[None], torch.tensor([[7, 10]]))
    assert pool.num_bins == 34
    assert output.shape == (1, 5 * 34)
    torch.testing.assert_close(output, _alone(features, mode, (3, 5)))


@pytest.mark.parametrize("mode", ["max", "mean"])
def test_half_precision(references: SimpleNamespace, mode: Mode) -> None:
    """In bfloat16 the vector is bfloat16, and right to its rounding."""
    maps = references.unpadded_images([(9, 12), (5, 3)], torch.bfloat16, channels=4)
    canvas, regions = references.padded(maps, garbage=0.0)
    output = SpatialPyramidPool(LEVELS, mode)(canvas, regions)
    expected = torch.cat([_alone(one.float(), mode) for one in maps])
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(output.float(), expected, rtol=2e-2, atol=2e-2)


def test_means_are_summed_in_float32_under_autocast(references: SimpleNamespace) -> None:
    """Autocast to bfloat16 changes no digit of the means of a float32 map."""
    canvas, regions = references.padded(references.unpadded_images([(9, 12), (5, 3)], torch.float32), garbage=0.0)
    pool = SpatialPyramidPool(LEVELS, "mean")
    with torch.autocast("cpu", torch.bfloat16):
        output = pool(canvas, regions)
    assert torch.equal(output, pool(canvas, regions))


def test_max_passes_nan_on_and_sees_none_outside(references: SimpleNamespace) -> None:
    """A feature inside that is no number shows in its bins; those outside are not looked at."""
    maps = references.unpadded_images([(6, 5), (4, 7)], channels=1)
    maps[1][0, 3, 6] = float("nan")
    output = SpatialPyramidPool((1, 2))(*references.padded(maps, garbage=float("nan")))
    assert output.isnan().tolist() == [[False] * 5, [True, False, False, False, True]]


def test_max_keeps_positions_not_copies(references: SimpleNamespace) -> None:
    """For backward, max pooling saves one position per bin and channel, and no copy of the map."""
    maps = references.unpadded_images([(40, 50), (38, 44)], channels=4)
    canvas, regions = references.padded(maps, garbage=0.0)
    saved: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        SpatialPyramidPool(LEVELS)(canvas.requires_grad_(), regions)
    assert sum(saved) == 21 * 2 * 4


@pytest.mark.parametrize(
    ("levels", "mode", "message"), [((), "max", "levels"), ((0,), "max", "levels"), ((1,), "sum", "mode")]
)
def test_wrong_settings_are_refused(levels: tuple[int, ...], mode: Mode, message: str) -> None:
    """No levels, empty levels and unknown modes are named."""
    with pytest.raises(ConfigError, match=message):
        SpatialPyramidPool(levels, mode)


@pytest.mark.parametrize("mode", ["max", "mean"])
@pytest.mark.parametrize("region", [(0, 3), (5, 3), (4, 7)])
def test_regions_that_are_not_of_the_map_are_refused(mode: Mode, region: tuple[int, int]) -> None:
    """An empty region, or that of the image instead of the map, is named with the map's own size."""
    with pytest.raises(ExactError, match=f"4 x 6, but one has {region[0]} x {region[1]}; .*output_regions"):
        SpatialPyramidPool(LEVELS, mode)(torch.zeros(2, 3, 4, 6), torch.tensor([[4, 6], region]))
