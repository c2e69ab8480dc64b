"""Shapes to plan with."""

import csv

import numpy as np
import pytest

from unsquare.shapes import Geometry


@pytest.fixture
def random_sizes():
    """200 shapes of many sizes and aspect ratios, 1 to 60 pixels a side."""
    return np.random.default_rng(0).integers(1, 61, (200, 2))


@pytest.fixture(scope="session")
def mame_sizes(shared_data):
    """Training shapes of MAMe's train split, at most 16 MP."""
    with open(shared_data / "mame" / "MAMe_dataset.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Subset"] == "train"]
    sizes = np.array([(float(row["Height"]), float(row["Width"])) for row in rows])
    return Geometry(max_pixels=16_000_000).resize(sizes)
