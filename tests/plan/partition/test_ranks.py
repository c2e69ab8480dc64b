"""Spreading the micro-batches of a step over ranks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.plan import Limits
from unsquare.plan.partition.ranks import rank_cost, spread


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50)), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(1, 12),
)
def test_ranks_share_every_image(sizes, world_size, num_parts):
    """Each image is on one rank, largest micro-batch first, and no rank is idle while images last."""
    sizes = np.array(sizes)
    parts = [part for part in np.array_split(np.arange(len(sizes)), num_parts) if len(part)]
    ranks = spread(sizes, parts, Limits(launch_pixels=100, world_size=world_size))
    images = np.concatenate([batch.images for rank in ranks for batch in rank])
    assert sorted(images.tolist()) == list(range(len(sizes)))
    assert sum(bool(rank) for rank in ranks) == min(world_size, len(sizes))
    for rank in ranks:
        pixels = [batch.computed_pixels for batch in rank]
        assert pixels == sorted(pixels, reverse=True)


@given(st.lists(st.integers(3, 20), min_size=4, max_size=8), st.integers(2, 4), st.integers(0, 3))
def test_parts_keep_enough_images(counts, world_size, seed):
    """Evening out the ranks leaves at least three images in each part, where there are as many parts as ranks."""
    sizes = np.random.default_rng(seed).integers(1, 50, (sum(counts), 2))
    parts = np.split(np.arange(len(sizes)), np.cumsum(counts)[:-1])
    ranks = spread(sizes, parts, Limits(launch_pixels=0, world_size=world_size), least=3)
    assert min(len(batch.images) for rank in ranks for batch in rank) >= 3
    assert sum(len(batch.images) for rank in ranks for batch in rank) == len(sizes)


def test_one_rank_changes_nothing():
    """On one rank the parts stay whole."""
    parts = [np.arange(0, 5), np.arange(5, 12)]
    (rank,) = spread(np.full((12, 2), 4), parts, Limits(launch_pixels=0))
    assert sorted(batch.images.tolist() for batch in rank) == [part.tolist() for part in parts]


@pytest.mark.parametrize("world_size", [2, 3, 8])
def test_one_large_micro_batch_is_shared(world_size):
    """A single part of equal images is divided so that ranks differ by less than a tenth."""
    ranks = spread(np.full((480, 2), 10), [np.arange(480)], Limits(launch_pixels=10, world_size=world_size))
    costs = [rank_cost(rank, Limits(launch_pixels=10)) for rank in ranks]
    assert max(costs) < 1.1 * np.mean(costs)


def test_one_image_moves_where_it_is_more_than_half_the_difference():
    """Three images of 20 pixels beside one of 30 become two and two: 40 and 50 pixels instead of 60 and 30."""
    ranks = spread(
        np.array([(4, 5)] * 3 + [(5, 6)]), [np.arange(3), np.array([3])], Limits(launch_pixels=0, world_size=2)
    )
    assert sorted(rank_cost(rank, Limits(launch_pixels=0)) for rank in ranks) == [40, 50]
