"""A strategy says what is done with which steps, and is the same after a JSON file."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.execution.strategy import PLAIN, STRATEGY_NAMES, Segment, Strategy


@st.composite
def strategies(draw):
    """Ways of any segments."""
    stops = sorted(draw(st.sets(st.integers(1, 40), max_size=6)))
    segments = []
    for start, stop in zip([0, *stops], stops):
        how = draw(st.sampled_from(["keep", "checkpoint", "tile"]))
        segments.append(Segment(start, stop, how, draw(st.integers(1, 5000)) if how == "tile" else 0))
    return Strategy(tuple(segments), offload=draw(st.booleans()), bf16=draw(st.booleans()))


@given(strategies())
def test_a_way_survives_a_json_file(strategy):
    """What is written is read back equal, and can be a key."""
    again = Strategy.from_dict(json.loads(json.dumps(strategy.to_dict())))
    assert again == strategy
    assert hash(again) == hash(strategy)


@given(strategies())
def test_what_a_way_says_of_itself(strategy):
    """A strategy is plain without segments, and tiles where one of them does."""
    assert strategy.is_plain == (len(strategy.segments) == 0)
    assert strategy.tiles == any(segment.tile_side > 0 for segment in strategy.segments)


def test_the_plain_way():
    """Nothing is cut, and bf16 alone cuts nothing either."""
    assert Strategy.from_dict(PLAIN.to_dict()) == PLAIN
    assert PLAIN.is_plain
    assert not PLAIN.tiles
    assert Strategy(bf16=True).is_plain
    assert STRATEGY_NAMES == ("plain", "bf16", "checkpoint", "offload", "tile")


@pytest.mark.parametrize(
    "values",
    [(2, 2, "keep"), (3, 2, "keep"), (-1, 2, "keep"), (0, 2, "fold"), (0, 2, "tile"), (0, 2, "checkpoint", 5)],
)
def test_segments_that_make_no_sense(values):
    """A segment has steps, is run in a known manner, and has a tile side if it is tiled."""
    with pytest.raises(AssertionError):
        Segment(*values)


@pytest.mark.parametrize("bounds", [[(1, 3)], [(0, 2), (3, 4)], [(0, 2), (1, 4)], [(2, 4), (0, 2)]])
def test_segments_follow_one_another(bounds):
    """From the first step on, without gaps, overlaps or another order."""
    with pytest.raises(AssertionError, match="follow one another"):
        Strategy(tuple(Segment(start, stop, "keep") for start, stop in bounds))
