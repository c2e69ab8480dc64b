"""The sections on the outcome: what so few images can tell, and no more."""

from __future__ import annotations

import numpy as np

from unsquare.report.kit.content import Chart, DataTable, Paragraph
from unsquare.report.run.judged import JudgedImages
from unsquare.report.run.outcome import outcome_sections
from unsquare.report.run.record import Record


def record_of(num_images: int, num_wide: int = 0) -> Record:
    """A run whose network was judged on so many images, all but the first four right, some of them wide."""
    sizes = np.tile([30, 40], (num_images, 1))
    sizes[:num_wide] = [30, 90]
    sizes[:, 0] += np.arange(num_images) % 7
    labels = [("cat", "dog")[at % 2] for at in range(num_images)]
    predicted = ["dog" if at < 4 else label for at, label in enumerate(labels)]
    judged = JudgedImages(
        keys=[f"{at}.jpg" for at in range(num_images)],
        labels=labels,
        predicted=predicted,
        probability=np.linspace(0.5, 1, num_images),
        sizes=sizes,
    )
    return Record(
        name="run",
        config={},
        index=None,
        limits=None,
        plan=None,
        steps=[],
        evals=[],
        final=None,
        memory=None,
        evaluation=judged,
    )


def test_shapes_are_judged_from_a_hundred_images_on() -> None:
    """With fewer, even all of them together leave an interval of about 10 points to either side."""
    assert [one.anchor for one in outcome_sections(record_of(99))] == ["classes", "mistakes"]
    assert [one.anchor for one in outcome_sections(record_of(100))] == ["classes", "mistakes", "by-shape"]


def test_small_groups_are_left_out_and_named() -> None:
    """A group of a few images has an interval that says nothing."""
    words, chart = outcome_sections(record_of(120, num_wide=5))[-1].content
    assert isinstance(words, Paragraph)
    assert words.words.endswith("groups below 20 images are left out.")
    assert isinstance(chart, Chart)
    words = outcome_sections(record_of(120, num_wide=40))[-1].content[0]
    assert words == Paragraph("Accuracy of each group with its 95 % interval.")


def test_each_class_has_accuracy_interval_and_precision() -> None:
    """Of 50 cats 48 are right, and 2 are taken for dogs, of which all 50 are right."""
    table = outcome_sections(record_of(100))[0].content[0]
    assert isinstance(table, DataTable)
    rows = [[str(cell).replace("\u00a0", " ") for cell in row] for row in table.rows]
    assert rows == [
        ["cat", "50", "96.0 %", "87 to 99 %", "100.0 %"],
        ["dog", "50", "100.0 %", "93 to 100 %", "96.2 %"],
    ]
