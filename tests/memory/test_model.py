"""Memory and time as straight lines over computed pixels."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from unsquare.errors import ConfigError
from unsquare.memory.model import UNBOUNDED_PIXELS, MemoryModel, TimeModel

probes = st.lists(
    st.tuples(st.integers(1, 10**9), st.integers(1, 10**4), st.integers(10**5, 10**12)), min_size=1, max_size=8
)


@given(probes)
def test_memory_fit_is_never_below_a_measured_point(points):
    """Whatever was measured, the model promises at least that much."""
    pixels, images, peaks = zip(*points)
    model = MemoryModel.fit(pixels, images, peaks)
    assert all(model.peak_bytes(x, n) >= y for x, n, y in points)
    assert model.peak_bytes(2 * max(pixels)) > model.peak_bytes(max(pixels))


def test_memory_fit_finds_an_exact_line():
    """Measurements on a line give that line back, and so predict far beyond them."""
    model = MemoryModel.fit([1e6, 2e6, 8e6], [1, 1, 1], [1e9 + 300e6, 1e9 + 600e6, 1e9 + 2400e6])
    assert model.peak_bytes(64_000_000) == pytest.approx(1e9 + 64e6 * 300, rel=1e-9)


def test_memory_fit_finds_an_exact_plane():
    """What each image takes beside its pixels is told from what pixels take."""
    pixels, images = np.array([1e6, 2e6, 2e6, 8e6]), np.array([1, 2, 200, 8])
    model = MemoryModel.fit(pixels, images, 1e9 + 300 * pixels + 5e5 * images)
    assert model.peak_bytes(4_000_000, 400) == pytest.approx(1e9 + 1200e6 + 200e6, rel=1e-9)


def test_images_that_seem_to_save_memory_cost_none():
    """A term below 0 is noise: it would promise room that is not there."""
    model = MemoryModel.fit([1e6, 2e6, 2e6], [1, 2, 200], [1e9, 2e9, 1.9e9])
    assert model.bytes_per_image == 0
    assert model.peak_bytes(2_000_000, 200) >= 2e9


def test_a_line_that_bends_goes_on_as_steep_as_it_ended():
    """A constant tile hides the growth until that is larger; beyond the probes the growth continues."""
    pixels = np.array([4e6, 8e6, 16e6])
    peaks = np.maximum(1.1e9, 0.8e9 + 45 * pixels)
    straight, bent = (MemoryModel.fit(pixels, [1, 1, 1], peaks, bends=bends) for bends in (False, True))
    truth = 0.8e9 + 45 * 64e6
    assert straight.peak_bytes(64_000_000) < 0.9 * truth
    assert truth <= bent.peak_bytes(64_000_000) < 1.05 * truth


def test_a_near_point_does_not_bend_the_line():
    """A run of the largest image may lie beside the last probe: what differs between the two is noise."""
    pixels = np.array([4e6, 8e6, 16e6, 16.1e6])
    peaks = 0.8e9 + 45 * pixels + np.array([0, 0, 0, 50e6])
    model = MemoryModel.fit(pixels, np.ones(4), peaks, bends=True)
    assert model.bytes_per_pixel < 52
    assert model.peak_bytes(16_100_000) < 1.02 * peaks[-1]


def test_one_probe_errs_upwards_beyond_it():
    """A single pixel count gives the line through the origin, above any line with a fixed part."""
    model = MemoryModel.fit([1_000_000, 1_000_000], [1, 1], [5e8, 6e8])
    assert (model.fixed_bytes, model.peak_bytes(2_000_000)) == (0, 1_200_000_000)


def test_a_flat_measurement_still_charges_for_pixels():
    """Where peaks do not grow, a pixel still costs what its own input takes."""
    assert MemoryModel.fit([1e5, 1e6], [1, 1], [1e9, 1e9]).bytes_per_pixel == 12


@given(st.floats(0, 1e10), st.floats(12, 1e6), st.floats(0, 1e6), st.integers(1, 1000), st.integers(1, 10**12))
def test_largest_pixels_is_the_last_that_fits(fixed, slope, per_image, images, budget):
    """The largest micro-batch fits the budget, and one pixel more does not."""
    model = MemoryModel(fixed, slope, per_image)
    largest = model.largest_pixels(budget, images)
    assert largest == 0 or model.peak_bytes(largest, images) <= budget
    assert model.peak_bytes(largest + 2, images) > budget


def test_flat_memory_is_bounded_by_a_whole_number():
    """With no cost per pixel the answer is still a number that planning can use."""
    assert MemoryModel(10, 0).largest_pixels(10) == UNBOUNDED_PIXELS
    assert MemoryModel(10, 0).largest_pixels(9) == 0


@given(st.floats(1e-4, 1), st.floats(1e-10, 1e-6))
def test_time_fit_finds_an_exact_line(fixed, slope):
    """Times on a line give that line back, and its fixed part as pixels."""
    pixels = np.array([1e4, 1e6, 4e6, 1e7])
    model = TimeModel.fit(pixels, fixed + slope * pixels)
    assert np.allclose([model.seconds(int(x)) for x in pixels], fixed + slope * pixels, rtol=1e-6)
    assume(fixed > slope * 1e4)
    assert model.launch_pixels == pytest.approx(fixed / slope, rel=1e-3, abs=1)


@given(st.lists(st.tuples(st.integers(1, 10**8), st.floats(1e-6, 100)), min_size=1, max_size=8))
def test_time_fit_has_no_negative_term(points):
    """Whatever was measured, neither a launch nor a pixel takes negative time."""
    model = TimeModel.fit(*zip(*points))
    assert model.fixed_s >= 0
    assert model.s_per_pixel >= 0
    assert model.fixed_s + model.s_per_pixel > 0
    assert 0 <= model.launch_pixels <= UNBOUNDED_PIXELS


def test_no_measurement_is_no_model():
    """A fit of nothing, or of times that are not above 0, is refused."""
    with pytest.raises(ConfigError, match="needs measurements above 0"):
        MemoryModel.fit([], [], [])
    with pytest.raises(ConfigError, match="needs measurements above 0"):
        TimeModel.fit([100], [0])


def test_a_model_has_finite_terms():
    """Terms below 0 or not finite are refused by name."""
    with pytest.raises(ConfigError, match="fixed_bytes"):
        MemoryModel(-1, 1)
    with pytest.raises(ConfigError, match="s_per_pixel"):
        TimeModel(0, float("nan"))
