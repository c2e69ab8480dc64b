"""The size at which weights are used."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from unsquare.training.resolution import ResolutionConfig
from unsquare.training.sizes import best_size, candidate_sizes

SIZES = np.full((5, 2), 400, dtype=np.int64)


def _stages(text):
    return ResolutionConfig(progressive=text).stages


def test_candidates_are_the_stages_and_what_lies_between() -> None:
    """In ascending order, full size last; stages that shrink hardly any picture are left out."""
    assert candidate_sizes(_stages("10000px:1,40000px:1,full:1"), SIZES) == [10000, 20000, 40000, 80000, None]
    assert candidate_sizes(_stages("10000px:1,500kP:1,full:1"), SIZES) == [10000, 40000, None]
    assert candidate_sizes(_stages("40000px:1,10000px:1,10000px:1,full:1"), SIZES) == [10000, 20000, 40000, 80000, None]


@pytest.mark.parametrize("own", [0, 2, 4])
@pytest.mark.parametrize("peak", [0, 1, 3, 4])
def test_the_search_climbs_to_the_peak(own, peak) -> None:
    """Wherever it starts, and no size is evaluated twice; equal accuracy is decided by the loss."""
    candidates, tried = [1, 2, 3, 4, None], []

    def evaluate(size):
        tried.append(size)
        distance = abs(candidates.index(size) - peak)
        return SimpleNamespace(score=0.9 - (distance > 1) / 10, loss=0.1 + distance)

    assert best_size(candidates, candidates[own], evaluate).size == candidates[peak]
    assert len(tried) == len(set(tried))


def test_larger_sizes_can_be_left_out() -> None:
    """As where it is asked whether pictures grow any further."""
    candidates, tried = [1, 2, 3, 4], []

    def evaluate(size):
        tried.append(size)
        return SimpleNamespace(score=size / 10, loss=0.1)

    found = best_size(candidates, 2, evaluate, only_smaller=True)
    assert found.size == 2
    assert tried == [size for size, _ in found.tried] == [1, 2]


def test_a_size_that_is_as_good_does_not_win() -> None:
    """The weights' own size stays where no other is better."""
    same = SimpleNamespace(score=0.5, loss=0.5)
    assert best_size([1, 2, 3], 2, lambda size: same).size == 2
