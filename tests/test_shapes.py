"""Shapes, the user's geometry, and window arithmetic."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from unsquare.errors import ConfigError
from unsquare.shapes import Geometry, Shape, Window

side = st.integers(1, 20_000)
shapes = st.tuples(side, side)


def test_shape_is_height_first():
    """A shape knows its pixels and prints height before width."""
    shape = Shape(3, 4)
    assert (shape.height, shape.width, shape.pixels, str(shape)) == (3, 4, 12, "3 x 4")


@given(
    st.integers(1, 64),
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(0, 4),
    st.integers(1, 3),
    st.booleans(),
)
def test_window_output_is_torch_pooling(length, kernel, stride, padding, dilation, ceil_mode):
    """The output length is that of PyTorch's max-pool, wherever PyTorch accepts the window."""
    window = Window(kernel, stride, min(padding, kernel // 2), dilation, ceil_mode)
    pixels = torch.zeros(1, 1, length)
    if window.output(length) < 1:
        with pytest.raises(RuntimeError):
            F.max_pool1d(pixels, kernel, stride, window.padding, dilation, ceil_mode)
    else:
        pooled = F.max_pool1d(pixels, kernel, stride, window.padding, dilation, ceil_mode)
        assert pooled.shape[-1] == window.output(length)


@given(st.integers(1, 64), st.integers(1, 7), st.integers(1, 4), st.integers(0, 4), st.integers(1, 3))
def test_window_output_is_torch_convolution(length, kernel, stride, padding, dilation):
    """The output length is that of PyTorch's convolution, wherever the kernel fits."""
    window = Window(kernel, stride, padding, dilation)
    if length + 2 * padding < dilation * (kernel - 1) + 1:
        assert window.output(length) < 1
    else:
        out = F.conv1d(torch.zeros(1, 1, length), torch.zeros(1, 1, kernel), None, stride, padding, dilation)
        assert out.shape[-1] == window.output(length)


@given(st.lists(shapes, min_size=1, max_size=20))
def test_default_geometry_keeps_every_pixel(sizes):
    """Without settings nothing is resized or cropped."""
    geometry = Geometry()
    assert (geometry.crop(geometry.resize(sizes)) == np.array(sizes)).all()


@given(shapes, st.integers(1, 10**7))
def test_max_pixels_is_a_hard_bound(shape, max_pixels):
    """A picture shrinks to at most `max_pixels`, and one that has no more stays as it is."""
    resized = Geometry(max_pixels=max_pixels).resize(shape)
    assert 1 <= resized.prod() <= max_pixels
    if np.prod(shape) <= max_pixels:
        assert tuple(resized) == shape


@given(shapes, st.integers(10_000, 10**7))
def test_max_pixels_keeps_the_aspect_ratio(shape, max_pixels):
    """Both sides shrink by one factor, to a pixel, unless a side would fall below one pixel."""
    resized = Geometry(max_pixels=max_pixels).resize(shape)
    factor = min(1.0, np.sqrt(max_pixels / np.prod(shape)))
    if min(shape) * factor >= 1:
        assert (np.abs(resized - np.array(shape) * factor) <= 1).all()


@given(shapes, st.integers(1, 512))
def test_min_side_is_reached_by_growing_only(shape, min_side):
    """The shorter side ends at `min_side` where it was below, and nothing changes where it was not."""
    resized = Geometry(min_side=min_side).resize(shape)
    assert resized.min() == max(min_side, min(shape))
    assert (resized >= shape).all()


@given(shapes, st.floats(0.05, 1.0))
def test_crop_lies_in_the_picture(shape, fraction):
    """A crop has at least one pixel and never more than the picture."""
    crop = Geometry(crop_fraction=fraction).crop(shape)
    assert (crop >= 1).all()
    assert (crop <= shape).all()


@given(st.lists(shapes, min_size=1, max_size=10))
def test_arrays_and_single_shapes_agree(sizes):
    """Resizing many shapes at once is resizing each."""
    geometry = Geometry(scale=0.7, max_pixels=100_000, min_side=20, crop_fraction=0.9)
    together = geometry.crop(geometry.resize(sizes))
    assert (together == [geometry.crop(geometry.resize(shape)) for shape in sizes]).all()


@pytest.mark.parametrize(
    "setting",
    [{"scale": 0.0}, {"scale": float("nan")}, {"max_pixels": 0}, {"min_side": -1}, {"crop_fraction": 1.5}],
)
def test_impossible_geometry_is_refused_by_name(setting):
    """A value outside its range is an error that names the setting."""
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Geometry(**setting)
