"""The learning rate follows progress and batch size."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.errors import ConfigError
from unsquare.training.schedule import MAX_RISE, LearningRateConfig, learning_rates

STEADY = LearningRateConfig(lr=1.0, warmup_epochs=0.0, final_lr_fraction=1.0)


@pytest.mark.parametrize(("policy", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_four_times_the_images_scale_the_rate_by_the_policy(policy, factor):
    """A step of four times the reference has 1, 2 or 4 times the learning rate."""
    config = LearningRateConfig(lr=1.0, lr_policy=policy, lr_images=8, warmup_epochs=0.0, final_lr_fraction=1.0)
    assert learning_rates(config, [32], 0, 1) == pytest.approx([factor])


def test_equal_steps_have_the_learning_rate_itself():
    """Where all steps are equal, the default reference makes the factor one."""
    assert learning_rates(STEADY, [7, 7, 7], 0, 3) == pytest.approx([1.0, 1.0, 1.0])


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30))
def test_the_rate_never_jumps_up_and_falls_at_once(images):
    """From step to step the rate rises by at most MAX_RISE, and never lies above what the policy says."""
    config = LearningRateConfig(lr=1.0, lr_policy="linear", lr_images=10, warmup_epochs=0.0, final_lr_fraction=1.0)
    rates = learning_rates(config, images, 0, 1)
    assert all(b <= MAX_RISE * a * (1 + 1e-9) for a, b in pairwise(rates))
    assert all(rate <= count / 10 * (1 + 1e-9) for rate, count in zip(rates, images))


def test_warm_up_climbs_and_cosine_ends_low():
    """The rate climbs over the warm-up, is highest behind it, and ends near its last fraction."""
    config = LearningRateConfig(lr=1.0, warmup_epochs=2.0, final_lr_fraction=0.1)
    curve = [rate for epoch in range(20) for rate in learning_rates(config, [4] * 10, epoch, 20)]
    top = curve.index(max(curve))
    assert top in (19, 20)
    assert curve[:top] == sorted(curve[:top])
    assert curve[top:] == sorted(curve[top:], reverse=True)
    assert curve[-1] == pytest.approx(0.1, abs=0.01)


def test_a_short_run_warms_up_for_a_fifth():
    """The warm-up never takes more than a fifth of the run."""
    curve = [r for epoch in range(2) for r in learning_rates(LearningRateConfig(lr=1.0), [4] * 10, epoch, 2)]
    assert curve.index(max(curve)) in (3, 4)


@pytest.mark.parametrize("values", [{"lr": 0.0}, {"lr_images": 0}, {"warmup_epochs": -1.0}, {"final_lr_fraction": 2.0}])
def test_settings_are_checked(values):
    """A value that makes no sense is refused by name."""
    with pytest.raises(ConfigError, match=next(iter(values))):
        LearningRateConfig(**values)
