"""Distinct shapes, counted for all images."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from unsquare.plan.buckets.distinct import DistinctShapes


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 99), st.integers(1, 600), st.integers(150, 400), st.booleans())
def test_distinct_shapes_stand_for_all(seed, num_images, most, turns):
    """However few cells shapes are gathered into, each image has one that holds it, and every one is counted."""
    sizes = np.random.default_rng(seed).integers(1, 3000, (num_images, 2))
    distinct = DistinctShapes.of(sizes, turns=turns, most=most)
    assert len(distinct.shapes) <= most
    assert distinct.counts.sum() == len(sizes) * (1 + turns)
    assert (distinct.shapes[distinct.number_of(sizes)] >= sizes).all()
    exact = DistinctShapes.of(sizes)
    assert exact.shapes.tolist() == np.unique(sizes, axis=0).tolist()
    assert (exact.shapes[exact.number_of(sizes)] == sizes).all()
