"""Settings of a plan."""

import pytest

from unsquare.errors import ConfigError
from unsquare.plan import Limits, PlanConfig


@pytest.mark.parametrize(
    ("kind", "setting", "message"),
    [
        (PlanConfig, {"steps": "sorted"}, "steps must be one of mixed, b2b, but is 'sorted'"),
        (PlanConfig, {"boundaries": "grid"}, "boundaries must be one of tree, iterative"),
        (PlanConfig, {"step_images": 0}, "step_images must be at least 1, but is 0"),
        (Limits, {"budget_pixels": 6.45}, "budget_pixels must be a whole number from 1 to .*, but is 6.45"),
        (PlanConfig, {"buckets": -1}, "buckets must be"),
        (Limits, {"world_size": True}, "world_size must be"),
        (PlanConfig, {"seed": -1}, "seed must be at least 0"),
        (Limits, {"launch_pixels": -5}, "launch_pixels must be"),
        (Limits, {"world_size": 10**12}, "world_size must be at most 16,384"),
        (PlanConfig, {"min_images": 2, "steps": "b2b"}, "min_images works in mixed steps .*, but is 2 with steps b2b"),
        (PlanConfig, {"canvases": 0}, "canvases must be at least 1"),
        (PlanConfig, {"multiple": 0}, "multiple must be"),
        (PlanConfig, {"sampling": "twice"}, "sampling must be one of once, balanced"),
        (Limits, {"budget_pixels": 10**21}, "budget_pixels must be at most 1,152,921,504,606,846,976"),
        (Limits, {"launch_pixels": 10**13}, "launch_pixels must be at most 1,099,511,627,776"),
    ],
)
def test_impossible_settings_are_refused(kind, setting, message):
    """Each wrong value is named with the rule and what was received."""
    with pytest.raises(ConfigError, match=message):
        kind(**setting)
