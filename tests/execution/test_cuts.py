"""Where a chain is cut: as a search of all cuts would, and only what can be tiled is."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.execution import cuts
from unsquare.execution.cuts import StepWeight, checkpointed, tiled

_BYTES = st.floats(0.01, 500)


@st.composite
def _chains(draw: st.DrawFn, most: int = 8) -> list[StepWeight]:
    """Chains of some steps, of which the first few are local, with halos as windows have them."""
    num_steps = draw(st.integers(1, most))
    num_local = draw(st.integers(0, num_steps))
    weights, given_stride = [], 1.0
    for step in range(num_steps):
        stride = draw(st.sampled_from([1, 1, 2, 4])) if step < num_local else 0
        halo = draw(st.integers(0, 6)) if stride else 0
        weights.append(StepWeight(draw(_BYTES), draw(_BYTES), given_stride, stride, halo))
        given_stride *= max(stride, 1)
    return weights


def _peak(weights: Sequence[StepWeight], starts: Sequence[int], *, offload: bool) -> float:
    """The maps at the cuts, unless they are offloaded, and the largest part."""
    parts = pairwise([*starts, len(weights)])
    crossing = 0.0 if offload else sum(weights[start].given_bytes for start in starts)
    return crossing + max(sum(weight.kept_bytes for weight in weights[start:stop]) for start, stop in parts)


def _searched(weights: Sequence[StepWeight], *, offload: bool) -> float:
    """The least peak of all sets of cuts."""
    places = range(1, len(weights))
    every = (chosen for number in range(len(weights)) for chosen in combinations(places, number))
    return min(_peak(weights, (0, *chosen), offload=offload) for chosen in every)


@settings(max_examples=150, deadline=None)
@given(weights=_chains(), offload=st.booleans())
def test_checkpointed_parts_are_the_best(weights: list[StepWeight], offload: bool) -> None:
    """The peak is the least of any cuts, to the spacing of the limits tried: two per cent of the parts."""
    strategy = checkpointed(weights, offload=offload)
    starts = [segment.start for segment in strategy.segments]
    least = _searched(weights, offload=offload)
    kept = [weight.kept_bytes for weight in weights]
    spacing = (sum(kept) / max(kept)) ** (1 / (cuts._TRIALS - 1))
    assert least * (1 - 1e-9) <= _peak(weights, starts, offload=offload) <= least * spacing * (1 + 1e-6)
    assert spacing < 1.025
    assert strategy.segments[-1].stop == len(weights)
    assert [segment.how for segment in strategy.segments] == ["checkpoint"] * (len(starts) - 1) + ["keep"]
    assert strategy.offload == offload


def test_checkpointed_parts_by_hand() -> None:
    """Eight equal steps with small maps between them: the square root of their number is best."""
    weights = [StepWeight(1.0, 4.0, 1.0, 1, 2)] * 8
    strategy = checkpointed(weights)
    assert _peak(weights, [segment.start for segment in strategy.segments], offload=False) == 12  # 4 maps, 2 steps of 4
    assert len(strategy.segments) == 4
    assert len(checkpointed(weights[:1]).segments) == 1


def test_free_cuts_are_not_wasted() -> None:
    """Where maps are offloaded no part exceeds the largest step, and steps that fit together stay together."""
    weights = [StepWeight(9.0, kept, 1.0, 1, 2) for kept in (4, 1, 1, 2, 4, 3)]
    strategy = checkpointed(weights, offload=True)
    assert _peak(weights, [segment.start for segment in strategy.segments], offload=True) == 4
    assert len(strategy.segments) == 4


@settings(max_examples=60, deadline=None)
@given(weights=_chains())
def test_tiled_strategies(weights: list[StepWeight]) -> None:
    """In order of work; segments cover all steps, only local ones are tiled, and these come first."""
    estimates = tiled(weights)
    assert [each.work for each in estimates] == sorted(each.work for each in estimates)
    for each in estimates:
        segments = each.strategy.segments
        assert segments[0].start == 0
        assert segments[-1].stop == len(weights)
        assert all(one.stop == other.start for one, other in pairwise(segments))
        hows = [segment.how for segment in segments]
        num_tiled = hows.count("tile")
        assert hows[:num_tiled] == ["tile"] * num_tiled
        assert num_tiled >= 1
        assert hows[num_tiled:] == ["checkpoint"] * (len(hows) - num_tiled - 1) + ["keep"] * (len(hows) > num_tiled)
        last = segments[num_tiled - 1].stop
        assert all(weight.is_local for weight in weights[:last])
        assert each.work >= 1 - 1e-9
        assert each.tile_bytes in cuts.TILE_BYTES
        assert not each.strategy.offload
        starts = [segment.start for segment in segments]
        assert each.bytes_per_pixel >= sum(weights[start].given_bytes for start in starts) * (1 - 1e-9)


@settings(max_examples=60, deadline=None)
@given(weights=_chains())
def test_tiles_hold_their_halo_and_their_bytes(weights: list[StepWeight]) -> None:
    """A tile's input is larger than its halo, and keeps no more bytes than it may."""
    for each in tiled(weights):
        for segment in each.strategy.segments:
            if segment.how != "tile":
                continue
            part = weights[segment.start : segment.stop]
            side = segment.tile_side * part[0].given_stride  # in pixels of the image
            assert (side**2) * sum(weight.kept_bytes for weight in part) <= each.tile_bytes * 1.001 or side <= 1
            halo = sum(weight.halo * weight.given_stride for weight in part)
            assert side + part[0].given_stride > halo


def test_larger_tiles_overlap_less() -> None:
    """Of one set of cuts, more bytes for a tile mean less work."""
    weights = [
        StepWeight(12.0, 100.0, 1.0, 2, 5),
        StepWeight(50.0, 200.0, 2.0, 1, 2),
        StepWeight(50.0, 10.0, 2.0, 0, 0),
    ]
    estimates = tiled(weights)
    assert {tuple((part.start, part.stop) for part in each.strategy.segments) for each in estimates} == {
        ((0, 2), (2, 3))
    }
    works = {each.tile_bytes: each.work for each in estimates}
    ordered = [works[tile_bytes] for tile_bytes in sorted(works)]
    assert ordered == sorted(ordered, reverse=True)
    assert ordered[-1] == pytest.approx(1, abs=0.05)


def test_nothing_is_tiled_where_the_first_step_sees_the_whole_image() -> None:
    """A chain whose first step is not local has no tiled strategy, though later ones are."""
    assert tiled([StepWeight(1, 2, 1, 0, 0), StepWeight(1, 2, 1, 1, 2)]) == []
    assert not StepWeight(1, 2, 1, 0, 0).is_local


def test_halos_larger_than_any_tile_are_not_tiled() -> None:
    """Where a tile's input would be smaller than its halo for all the bytes allowed, there is no such strategy."""
    assert tiled([StepWeight(12.0, 1e6, 1.0, 1, 1000)]) == []
