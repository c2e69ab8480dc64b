"""The rules of other projects, on small cases worked by hand and against plain loops."""

import numpy as np
import pytest

from unsquare.plan import Limits
from unsquare.plan.analysis.table import num_over_budget
from unsquare.plan.baselines import rules

IN_ORDER = np.arange(6)


@pytest.mark.parametrize("bins_per_doubling", [0, 3])
def test_aspect_groups_are_as_a_loop_over_the_shuffle(bins_per_doubling, random_sizes):
    """A batch leaves when its group has enough, in the order of the shuffle; then what is left of each group."""
    order = rules.random_batches(random_sizes, 5)(200).images
    boundaries = [2.0**e for e in np.linspace(-1, 1, 2 * bins_per_doubling + 1)] if bins_per_doubling else [1.0]
    waiting, expected = {}, []
    for image in order.tolist():
        height, width = random_sizes[image]
        group = sum(height / width >= boundary for boundary in boundaries)
        waiting.setdefault(group, []).append(image)
        if len(waiting[group]) == 7:
            expected.append(waiting.pop(group))
    found = [batch.images.tolist() for batch in rules.aspect_groups(bins_per_doubling, random_sizes, 5)(7)]
    assert [images for images in found if len(images) == 7] == expected
    assert sorted(images for images in found if len(images) < 7) == sorted(waiting.values())


def test_two_groups_join_what_is_left():
    """Five upright and four wide pictures by threes: one batch of each, then the three that are left together."""
    sizes = np.array([(9, 5)] * 5 + [(5, 9)] * 4)
    found = [batch.images.tolist() for batch in rules.two_groups_joined(sizes, 0)(3)]
    assert [len(images) for images in found] == [3, 3, 3]
    sides = [{image < 5 for image in images} for images in found]
    assert sorted(map(len, sides)) == [1, 1, 2]
    assert len(sides[-1]) == 2


def test_sorted_by_aspect_and_area():
    """Sorted by height / width, and by pixels, and cut by twos."""
    sizes = np.array([(4, 1), (1, 9), (2, 2), (9, 8), (3, 5)])
    assert [b.images.tolist() for b in rules.by_aspect(sizes, 0)(2)] == [[1, 4], [2, 3], [0]]
    assert [b.images.tolist() for b in rules.by_area(sizes, 0)(2)] == [[0, 2], [1, 4], [3]]


def test_count_times_largest():
    """With a bound of 12, lengths 2 3 4 | 5 6 | 13: three fours are 12, two sixes are 12, 13 is alone."""
    lengths = np.array([[2], [3], [4], [5], [6], [13]])
    assert rules.count_by_largest(IN_ORDER, lengths, 12).tolist() == [3, 2, 1]


def test_count_times_canvas():
    """A tall and a wide picture of 4 pixels each make canvases of 16, so 2 x 16 exceeds a bound of 31."""
    lengths = np.array([(4, 1), (1, 4), (1, 4), (1, 4), (2, 4), (2, 4)])
    assert rules.count_by_largest(IN_ORDER, lengths, 31).tolist() == [1, 3, 2]
    assert rules.count_by_largest(IN_ORDER, lengths, 32).tolist() == [2, 4]


def test_sum_of_lengths():
    """Cut where the sum would exceed the bound; what exceeds it alone is alone."""
    assert rules.count_by_sum(IN_ORDER, np.array([2, 3, 4, 5, 13, 1]), 9).tolist() == [3, 1, 1, 1]


def test_fixed_resolutions_at_512():
    """The list at 512 x 512 is the known one: sides 256 to 1024 in steps of 64, of at most 262,144 pixels."""
    found = set(map(tuple, rules.resolutions_of(512 * 512).tolist()))
    assert found >= {(1024, 256), (768, 320), (640, 384), (576, 448), (512, 512)}
    assert all(h * w <= 512 * 512 and h % 64 == w % 64 == 0 and min(h, w) >= 256 for h, w in found)
    assert {(w, h) for h, w in found} == found


def test_resized_pictures_go_to_the_nearest_aspect():
    """At a mean of 262,144 pixels, a square goes to 512 x 512 and a 1 : 4 strip to 256 x 1024."""
    sizes = np.array([(512, 512), (256, 1024), (512, 512)])
    batches = rules.fixed_resolutions_resized(sizes, Limits(budget_pixels=262_144), 0)
    canvas_of = {int(batch.images[0]): tuple(batch.canvas) for batch in batches}
    assert canvas_of[0] == (512, 512)
    assert canvas_of[1] == (256, 1024)


def test_padded_pictures_take_the_next_multiples():
    """Two canvases of 8 x 16 and one of 16 x 8 where a launch is cheap; where it is dear, all on one canvas."""
    sizes = np.array([(7, 16), (8, 9), (16, 8)])
    cheap = rules.fixed_resolutions_padded(sizes, Limits(budget_pixels=1000, launch_pixels=0), 0)
    assert sorted(map(tuple, cheap.canvas.tolist())) == [(8, 16), (16, 8)]
    dear = rules.fixed_resolutions_padded(sizes, Limits(budget_pixels=1000, launch_pixels=5000), 0)
    assert dear.canvas.tolist() == [[16, 16]]


def test_bins_of_equal_totals_and_numbers():
    """1 1 1 1 4 in two bins: by totals four ones and the four; by numbers the ones stay together as well."""
    assert rules._equal_totals(np.array([4, 1, 1, 1, 1]), 2).tolist() == [1, 0, 0, 0, 0]
    assert rules._equal_numbers(np.array([1, 2, 3, 4]), 2).tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("rule", [rules.two_level_bins, rules.quantile_grid, rules.fairseq_canvas])
def test_rules_that_know_the_canvas_never_exceed_the_budget(rule, random_sizes):
    """A count from the canvas's bound holds whatever is drawn."""
    limits = Limits(budget_pixels=5_000)
    assert num_over_budget(rule(random_sizes, limits, 0), limits) == 0


def test_grids_have_at_most_64_cells(random_sizes):
    """However the grid is shaped, its cells are at most 64, and of each only the last batch is not full."""
    limits = Limits(budget_pixels=10**9, launch_pixels=0)
    assert len(rules.two_level_bins(random_sizes, limits, 0)) <= rules.CELLS
    assert len(rules.quantile_grid(random_sizes, limits, 0)) <= rules.CELLS
