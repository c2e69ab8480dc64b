"""Which figures of a run are called optimistic."""

from __future__ import annotations

import pytest
from msgspec import structs

from unsquare.runs.rows import EvaluationRow
from unsquare.runs.selection import best_of, best_of_several, caution


def row(step: int, accuracy: float, loss: float = 1.0, split: str = "val") -> EvaluationRow:
    """An evaluation in the course of training."""
    return EvaluationRow(
        step=step,
        epoch=step / 10,
        time_s=1.0,
        split=split,
        loss=loss,
        accuracy=accuracy,
        mean_per_class_accuracy=accuracy,
        num_images=50,
    )


def test_the_best_of_several_epochs_is_optimistic_on_the_images_that_chose_it() -> None:
    """With the last epoch's figure beside it; on other images, or without a choice, it is not."""
    rows = [row(10, 0.5), row(20, 0.75), row(30, 0.7)]
    chosen = best_of_several(rows, "val")
    assert chosen is not None
    assert chosen.words == (
        "The best of 3 epochs on the same images is optimistic; "
        "the last epoch has accuracy 0.700, mean per class 0.700."
    )
    best = best_of_several(rows[:2], "val")
    assert best is not None
    assert best.words == "The best of 2 epochs on the same images is optimistic; here it is the last one."
    assert best_of_several(rows, "test") is None
    assert best_of_several(rows[:1], "val") is None


def test_a_size_that_was_chosen_is_said() -> None:
    """Beside the epochs, or alone; on other images it is no choice."""
    rows = [row(10, 0.5), row(20, 0.75)]
    both, alone = (best_of_several(each, "val", sizes=True) for each in (rows, rows[:1]))
    assert both is not None
    assert both.words.startswith("The best of 2 epochs and of several sizes of pictures on the same images is")
    assert alone is not None
    assert alone.words.startswith("The best of several sizes of pictures on the same images is optimistic; the last")
    assert best_of_several(rows, "test", sizes=True) is None


@pytest.mark.parametrize(("sizes", "chosen"), [((50, 100, None), False), ((50, 100, 70), True), ((50, 50), False)])
def test_a_size_chosen_before_the_last_epoch_is_said(sizes: tuple[int | None, ...], chosen: bool) -> None:
    """Pictures grow from epoch to epoch, unless val has shown that smaller ones do better."""
    rows = [structs.replace(row(step, 0.5), max_pixels=size) for step, size in enumerate(sizes)]
    found = best_of_several(rows, "val", sizes=True)
    assert found is not None
    assert ("whose size was chosen on them as well, has accuracy" in found.words) is chosen
    assert "the last epoch, the same weights on pictures of its own size, " in found.words


def test_images_that_trained_the_starting_weights_say_little() -> None:
    """Whatever split they are in now."""
    words, chosen = caution(["val", "val"], [row(10, 0.5)], sizes=False, num_known=1)
    assert words.startswith("The run started from weights that were trained on 1 of these 2 images, so")
    assert chosen is None


@pytest.mark.parametrize(
    ("rows", "step"),
    [
        ([row(10, 0.5), row(20, 0.9), row(30, 0.8)], 20),
        ([row(10, 0.9, 0.4), row(20, 0.9, 0.3), row(30, 0.9, 0.5)], 20),
        ([row(10, 0.9, 0.3), row(20, 0.9, 0.3)], 20),
    ],
)
def test_of_equal_accuracies_the_lowest_loss_is_best(rows: list[EvaluationRow], step: int) -> None:
    """Of equals in both the later."""
    best = best_of(rows)
    assert best is not None
    assert best.step == step
    assert best_of([]) is None


def test_figures_on_pictures_that_were_trained_on_say_little() -> None:
    """Whatever else is among them; pictures that the run never saw need no caution."""
    rows = [row(10, 0.5), row(20, 0.75)]
    assert caution(["train"] * 4, rows)[0].startswith("The run was trained on all of these 4 images, so")
    assert caution(["train", "val", ""], rows)[0].startswith("The run was trained on 1 of these 3 images, so")
    assert caution(["test", ""], rows) == ("", None)
    assert caution(["val"], rows[:1]) == ("", None)
    assert caution(["val"], rows) == (
        best_of_several(rows, "val").words,
        best_of_several(rows, "val"),
    )


def test_the_figures_of_the_task_are_told() -> None:
    """The smallest error is the best, and no accuracy is spoken of."""
    shared = {"time_s": 1.0, "split": "val", "loss": 1.0, "num_images": 50}
    rows = [
        EvaluationRow(step=step, epoch=step / 10, mae=mae, relative_mae=mae / 20, rmse=2 * mae, **shared)
        for step, mae in ((10, 9.0), (20, 4.0), (30, 6.5))
    ]
    words, chosen = caution(["val"] * 50, rows)
    assert words == (
        "The best of 3 epochs on the same images is optimistic; the last epoch has mean absolute error 6.5, root mean "
        "squared error 13."
    )
    assert chosen is not None
    best = best_of(rows)
    assert best is not None
    assert best.step == 20
