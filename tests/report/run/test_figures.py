"""What the figures of a run show."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from unsquare.report.run.figures import mark_sizes
from unsquare.runs.rows import EvaluationRow


@pytest.mark.parametrize(
    ("sizes", "marks"),
    [
        ((50_000, 50_000, 104_000, None), ["50 kP", "104 kP", "full size"]),
        ((50_000, 104_000, 72_000), ["50 kP", "104 kP", "72 kP"]),
        ((None, None), []),
        ((50_000, 50_000), []),
        ((), []),
    ],
)
def test_changes_of_size_are_marked(sizes: tuple[int | None, ...], marks: list[str]) -> None:
    """The first size, and each other one where the epochs before it end; nothing where there is no change."""
    evals = [
        EvaluationRow(
            step=10 * epoch,
            epoch=epoch,
            time_s=1,
            split="val",
            loss=1,
            num_images=9,
            max_pixels=size,
            accuracy=0.5,
            mean_per_class_accuracy=0.5,
        )
        for epoch, size in enumerate(sizes, 1)
    ]
    axes = Figure().subplots()
    mark_sizes(axes, np.array([0.1, len(sizes)]), evals)
    assert [text.get_text().replace("\u00a0", " ") for text in axes.texts] == marks
    assert len(axes.lines) == max(len(marks) - 1, 0)
