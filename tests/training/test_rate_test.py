"""Which learning rate a range test suggests, from losses alone."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.errors import RunError
from unsquare.training.rate_test import has_diverged, rate_test_of, rising_rates

RATES = rising_rates(1e-6, 1.0, 100)


def _falling_at(center: float, height: float = 1.0) -> list[float]:
    """A loss that falls around a rate, and rises a hundred times above it."""
    return [height * (2 - 1 / (1 + (center / rate) ** 2) + (rate / (100 * center)) ** 2) for rate in RATES]


def test_rates_rise_by_the_same_factor() -> None:
    """From the lowest to the highest."""
    factors = [after / before for before, after in itertools.pairwise(RATES)]
    assert factors == pytest.approx([1e6 ** (1 / 99)] * 99)
    assert (RATES[0], RATES[-1]) == pytest.approx((1e-6, 1.0))


@given(st.floats(-4.3, -2.5), st.floats(-3, 3))
def test_the_steepest_fall_is_found_whatever_the_unit_of_the_loss(center: float, height: float) -> None:
    """Within three of the steps: the average does not lag behind."""
    found = rate_test_of(RATES, _falling_at(10**center))
    assert found.suggested is not None
    assert 10**center / 1.6 <= found.suggested <= 1.6 * 10**center
    assert found.suggested < found.lowest_at
    assert rate_test_of(RATES, _falling_at(10**center, 10**height)).suggested == found.suggested


def test_a_descent_that_can_diverge_is_given_a_rate_that_does_not() -> None:
    """On a parabola of curvature a, gradient descent converges below a rate of 2 / a alone."""
    curvature, weight, losses = 50.0, 1.0, []
    for rate in RATES:
        losses.append(curvature * weight**2 / 2)
        if has_diverged(losses):
            break
        weight -= rate * curvature * weight
    assert len(losses) < len(RATES), "it must diverge"
    found = rate_test_of(RATES, losses)
    assert found.suggested is not None
    assert found.suggested < 2 / curvature


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    """Neither where it rises from the start nor where it stays."""
    assert rate_test_of(RATES, [1 + rate for rate in RATES]).suggested is None
    assert rate_test_of(RATES, [2.0] * 100).suggested is None


def test_smoothing_has_no_bias() -> None:
    """Of equal losses it is that loss; of a straight line, away from its ends, the line, and backward the same."""
    assert rate_test_of(RATES, [3.0] * 100).smoothed == pytest.approx([3.0] * 100)
    line = np.linspace(3, 2, 100)
    assert rate_test_of(RATES, line.tolist()).smoothed[10:90] == pytest.approx(line[10:90])
    rng = np.random.default_rng(0)
    noisy = (line + 0.1 * rng.random(100)).tolist()
    there, back = (rate_test_of(RATES, each).smoothed for each in (noisy, noisy[::-1]))
    assert there == pytest.approx(back[::-1])


def test_a_loss_that_explodes_hides_no_fall_before_it() -> None:
    """The smoothed loss just before is that without the explosion."""
    losses = _falling_at(1e-3)[:60]
    calm = rate_test_of(RATES, [*losses, *[losses[-1]] * 10]).smoothed
    wild = rate_test_of(RATES, [*losses, *[1e6] * 10]).smoothed
    assert wild[:50] == pytest.approx(calm[:50])
    assert wild[-1] > 1.5 * wild[0]


def test_a_loss_that_is_not_finite_ends_the_test() -> None:
    """It is left out; after too few steps there is nothing to suggest, and the message says what to do."""
    losses = [*_falling_at(1e-3)[:30], math.nan]
    assert has_diverged(losses)
    assert not has_diverged(losses[:-1])
    found = rate_test_of(RATES, losses)
    assert len(found.rates) == len(found.losses) == 30
    assert np.isfinite(found.smoothed).all()
    json.dumps(found.to_dict(), allow_nan=False)
    with pytest.raises(
        RunError, match=r"diverged at a learning rate of 1\.7e-06 after 5 steps, too few .* a lower one"
    ):
        rate_test_of(RATES, [1.0, 1.0, 1.0, 1.0, math.inf])
