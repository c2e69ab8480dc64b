"""Accuracy by class and shape, and where the time went."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_average_precision

from unsquare.report.run.facts import (
    aspect_groups,
    average_precision,
    confusion,
    size_groups,
    time_parts,
    total_seconds,
)
from unsquare.report.run.record import read_record


def test_confusion_counts_label_by_prediction() -> None:
    """Rows are labels, columns predictions."""
    counts = confusion(["a", "a", "b"], ["a", "b", "b"], ["a", "b", "c"])
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.integers(1, 50), st.booleans()), min_size=1, max_size=60),
)
def test_groups_hold_every_image_once(rows: list[tuple[int, int, bool]]) -> None:
    """By size and by aspect ratio, whatever the shapes."""
    sizes = np.array([row[:2] for row in rows])
    correct = np.array([row[2] for row in rows])
    for groups in (size_groups(sizes, correct), aspect_groups(sizes, correct)):
        assert sum(group.num_images for group in groups) == len(rows)
        assert sum(group.num_correct for group in groups) == correct.sum()
        assert all(group.num_images for group in groups)


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), min_size=1, max_size=30))
def test_average_precision_is_that_of_torchmetrics(rows: list[tuple[bool, int]]) -> None:
    """Whatever is tied; 0 where no image has the label."""
    truth = np.array([row[0] for row in rows])
    probability = np.array([row[1] / 10 for row in rows])
    expected = 0.0
    if truth.any():
        expected = float(binary_average_precision(torch.from_numpy(probability), torch.from_numpy(truth).long()))
    assert average_precision(truth, probability) == pytest.approx(expected, abs=1e-6)


def test_size_groups_are_quarters() -> None:
    """A hundred sizes are four times twenty-five."""
    sizes = np.stack([np.arange(1, 101), np.full(100, 10)], axis=-1)
    groups = size_groups(sizes, np.ones(100, dtype=bool))
    assert [group.num_images for group in groups] == [25, 25, 25, 25]


def test_time_before_the_first_step_counts(run: Path) -> None:
    """Reading headers and measuring are part of the time that a run took."""
    before = total_seconds(read_record(run))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "start", "step": 0, "time_s": 0.0, "seconds": 40.5}\n')
    record = read_record(run)
    assert total_seconds(record) == pytest.approx(before + 40.5)
    assert sum(part for _, part in time_parts(record)) == pytest.approx(total_seconds(record))
