"""The baselines: each image once in all of them, drawn as they say, within the budget where they promise it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.plan import Limits
from unsquare.plan.analysis.policies import figures_of
from unsquare.plan.analysis.table import num_over_budget
from unsquare.plan.baselines.peers import PEERS


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.integers(1, 90)), min_size=1, max_size=40),
    st.integers(1, 20_000),
    st.integers(0, 3),
)
def test_each_image_once_in_every_policy(shapes, budget_pixels, seed):
    """Every policy trains on each image once; those that keep pixels have room for each of its rows and columns."""
    sizes, limits = np.array(shapes), Limits(budget_pixels=budget_pixels, launch_pixels=100)
    for peer in PEERS:
        table = peer.batches(sizes, limits, seed)
        assert sorted(table.images.tolist()) == list(range(len(sizes))), peer.name
        assert table.count.sum() == len(sizes)
        assert table.count.min() >= 1
        if peer.keeps_pixels:
            canvas_of_image = np.repeat(table.canvas, table.count, axis=0)
            assert (canvas_of_image >= sizes[table.images]).all(), peer.name


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_policies_are_drawn_as_they_say(peer, random_sizes):
    """The same seed gives the same epoch; another seed gives other batches exactly where they are drawn again."""
    sizes, limits = np.tile(random_sizes, (10, 1)), Limits(budget_pixels=20_000, launch_pixels=300)

    def groups(seed):
        return {frozenset(batch.images.tolist()) for batch in peer.batches(sizes, limits, seed)}

    assert groups(0) == groups(0)
    assert (groups(0) != groups(1)) == peer.shuffled


@pytest.mark.parametrize("peer", [peer for peer in PEERS if "safe" in peer.name], ids=lambda peer: peer.name)
def test_safe_batches_never_exceed_the_budget_and_one_more_image_would(peer, random_sizes):
    """The safe size is the largest: no batch over budget, and one image more per batch has one."""
    limits = Limits(budget_pixels=20_000)
    table = peer.batches(random_sizes, limits, 0)
    assert num_over_budget(table, limits) == 0
    epoch_of = peer.batches.args[0](random_sizes, 0)
    assert num_over_budget(epoch_of(int(table.count.max()) + 1), limits) > 0


def test_random_batches_of_mame_pad_as_designed(mame_sizes):
    """At 16 MP the budget that holds 7 images of mean size is exceeded by nearly all random batches of 7."""
    limits = Limits()
    typical = next(peer for peer in PEERS if peer.name == "random batches, typical")
    found = figures_of(typical.name, True, typical.batches(mame_sizes, limits, 0), limits)
    assert found.padding_overhead > 1
    assert found.num_over_budget > 0.9 * found.num_micro_batches
