"""The benchmark's bound on what any choice of canvases can reach, beside all choices."""

import importlib.util
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from unsquare.plan.buckets.canvases import choose_canvases
from unsquare.plan.config import Limits


@pytest.fixture(scope="module")
def benchmark():
    """The script as a module."""
    file = Path(__file__).resolve().parents[3] / "benchmarks" / "canvas_bound.py"
    spec = importlib.util.spec_from_file_location("canvas_bound", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def best_price(sizes, most):
    """The least computed pixels of all sets of canvases."""
    places = np.array([(h, w) for h in np.unique(sizes[:, 0]) for w in np.unique(sizes[:, 1])])
    costs = np.where((sizes[:, None] <= places).all(axis=2), places.prod(axis=1), 2**40)
    return min(int(costs[:, list(few)].min(axis=1).sum()) for few in combinations(range(len(places)), most))


@pytest.mark.parametrize("most", [1, 2, 3])
@pytest.mark.parametrize("num_levels", [0, 4])
def test_no_choice_passes_the_bound(benchmark, capsys, most, num_levels):
    """Never above the best choice, whether sides are rounded down or not; unrounded, within 3 % of it on average."""
    ratios = []
    for seed in range(6):
        sizes = np.random.default_rng(seed).integers(5, 30, (8, 2))
        canvases = choose_canvases(sizes, np.ones(8, dtype=np.int64), most, Limits())
        assert len(canvases) == most
        (stage,) = benchmark.bound_in_stages(sizes, canvases, ((num_levels, 150),))
        ratios.append((stage["overhead"] + 1) * sizes.prod(axis=1).sum() / best_price(sizes, most))
    assert max(ratios) <= 1 + 1e-9
    assert num_levels or np.mean(ratios) >= 0.97
