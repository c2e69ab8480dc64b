"""The sections on the outcome: what so few images can tell, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from unsquare.report.kit.content import Chart, DataTable, Paragraph
from unsquare.report.run.judged import JudgedImages, JudgedLabels, JudgedValues
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


def test_each_label_has_its_figures() -> None:
    """Images, precision, recall, F1 and average precision; blank where they are not defined."""
    truth = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 0]], dtype=bool)
    probability = np.array([[0.9, 0.2, 0.55], [0.42, 0.1, 0.3], [0.6, 0.3, 0.1], [0.1, 0.4, 0.2]])
    judged = JudgedLabels(
        keys=list("abcd"),
        labels=("cat", "<b>dog</b>", "owl"),
        truth=truth,
        predicted=probability >= 0.5,
        probability=probability,
        sizes=np.tile([30, 40], (4, 1)),
    )
    labels, mistakes = outcome_sections(replace(record_of(1), evaluation=judged))
    words, chart, table, note = labels.content
    assert isinstance(words, Paragraph)
    assert words.words.endswith("All labels are right for 25.0\u00a0% of the images.")
    assert isinstance(chart, Chart)
    assert isinstance(table, DataTable)
    assert [[str(cell).replace("\u00a0", " ") for cell in row] for row in table.rows] == [
        ["cat", "2", "0.833", "0.500", "50.0 %", "50.0 %", "2"],
        ["<b>dog</b>", "2", "0.583", "0.000", "", "0.0 %", "0"],
        ["owl", "0", "", "", "0.0 %", "", "1"],
    ]
    assert note == Paragraph("1 label without an image, which means over labels leave out.")
    assert [row[:3] for row in mistakes.content[1].rows] == [
        ("a", "<b>dog</b>", "yes"),
        ("c", "<b>dog</b>", "yes"),
        ("c", "cat", "no"),
        ("b", "cat", "yes"),
        ("a", "owl", "no"),
    ]


def test_values_have_a_figure_and_their_largest_errors() -> None:
    """The errors are in the unit of the values, the largest first, beside those of guessing."""
    judged = JudgedValues(
        keys=list("abc"),
        truth=np.array([1.0, 2.0, 4.0]),
        predicted=np.array([1.5, 2.0, -2.0]),
        sizes=np.tile([30, 40], (3, 1)),
    )
    values, errors = outcome_sections(replace(record_of(1), evaluation=judged))
    assert values.content[0] == Paragraph(
        "Half of the errors are below 0.5, nine tenths below 4.9. Always predicting the median of the true values "
        "would be off by 1 on average."
    )
    assert isinstance(values.content[1], Chart)
    assert [row[:4] for row in errors.content[0].rows] == [
        ("c", "4", "-2", "-6"),
        ("a", "1", "1.5", "+0.5"),
        ("b", "2", "2", "+0"),
    ]


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
