"""The files of an evaluation hold what it measured."""

import csv
from dataclasses import replace

import numpy as np
import pytest
import torch

from unsquare.errors import RunError
from unsquare.network.losses import Objective
from unsquare.training.metrics import summarize
from unsquare.training.outcome import write_outcome

from .test_metrics import images_of


def read(path):
    """The rows of a CSV."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


@pytest.fixture
def evaluation():
    """Five images of three classes, the last class never predicted."""
    labels = np.array([0, 0, 1, 1, 2], dtype=np.int32)
    predicted = np.array([0, 1, 1, 1, 0])
    losses = torch.from_numpy(-np.log([0.9, 0.2, 0.6, 0.7, 0.1]))
    outcome = np.stack([predicted, [0.9, 0.8, 0.6, 0.7, 0.85]], axis=1)
    return summarize(losses, torch.from_numpy(outcome), images_of(labels, 3), 1.0)


def test_each_image_is_in_the_table_of_predictions(evaluation, tmp_path):
    """With its label, its prediction and both probabilities; the other tables add up to it."""
    predictions, confusion, per_class = map(read, write_outcome(tmp_path / "new" / "results", evaluation))
    assert predictions[0][:4] == ["path", "split", "label", "predicted"]
    assert predictions[2] == ["001.jpg", "val", "class 0", "class 1", "no", "0.8", "0.2", "40", "40"]
    assert len(predictions) == 6
    assert confusion == [
        ["label", "class 0", "class 1", "class 2"],
        ["class 0", "1", "1", "0"],
        ["class 1", "0", "2", "0"],
        ["class 2", "1", "0", "0"],
    ]
    assert per_class[0] == ["class", "images", "predicted", "accuracy", "precision", "f1"]
    assert per_class[2] == ["class 1", "2", "3", "1", "0.666667", "0.8"]
    assert per_class[3] == ["class 2", "1", "0", "0", "", "0"]


def test_names_of_any_kind_come_back(evaluation, tmp_path):
    """Commas, quotes and line breaks in names are read back as they were."""
    evaluation.images.keys[0] = 'a,"b"\nc.jpg'
    assert read(write_outcome(tmp_path, evaluation)[0])[1][0] == 'a,"b"\nc.jpg'


def test_several_labels_are_told_apart(tmp_path):
    """By the separator that the source has."""
    targets = np.array([[1.0, 1, 0], [0, 0, 1]])
    images = replace(images_of(targets, 3, "multilabel"), classes=("a;x", "b", "c"))
    probabilities = torch.tensor([[0.9, 0.8, 0.1], [0.2, 0.7, 0.6]], dtype=torch.float64)
    evaluation = summarize(torch.zeros(2), probabilities, images, 1.0, Objective(task="multilabel"))
    predictions = read(write_outcome(tmp_path, evaluation, "|")[0])
    assert [row[2:4] for row in predictions] == [["labels", "predicted"], ["a;x|b", "a;x|b"], ["c", "b|c"]]


def test_a_folder_that_cannot_be_written_is_named(evaluation, tmp_path):
    """In one sentence."""
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match=r"file cannot be written \(.*\); give another folder with --out\.$"):
        write_outcome(tmp_path / "file", evaluation)
