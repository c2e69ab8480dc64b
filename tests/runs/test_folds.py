"""What all folds of a cross-validation reached, from the metrics of their runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from unsquare.errors import RunError
from unsquare.report.folds.page import write_folds_page
from unsquare.runs.folds import claim_folder, cross_validation, fold_path, refuse_folds, write_summary
from unsquare.runs.reading import without_checksum

ACCURACIES = ([0.5, 0.8, 0.7], [0.6, 0.5, 0.65], [0.4, 0.9, 0.9])
NUM_IMAGES = (20, 20, 10)


def write_metrics(folder: Path, *, test: bool) -> None:
    """The rows of three runs, each evaluated after three epochs."""
    for fold, (accuracies, number) in enumerate(zip(ACCURACIES, NUM_IMAGES), 1):
        path = fold_path(folder, fold)
        path.mkdir(parents=True)
        shared = {"time_s": 1.0, "num_images": number, "seconds": 0.1}
        rows = [
            {"kind": "eval", "step": 4 * epoch, "epoch": float(epoch), "split": "val", "loss": 1.0, **shared}
            | {"accuracy": accuracy, "mean_per_class_accuracy": accuracy - 0.1}
            for epoch, accuracy in enumerate(accuracies, 1)
        ]
        split = "test" if test else "val"
        rows.append(rows[-1] | {"kind": "final", "split": split, "accuracy": 0.1 * fold, "num_images": 30})
        (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("test", [False, True])
def test_mean_and_spread_are_those_of_the_last_epochs(tmp_path: Path, test: bool) -> None:
    """The best epochs stand beside them; all images together are counted by the numbers of each fold."""
    write_metrics(tmp_path, test=test)
    found = cross_validation(tmp_path, 3)
    last, best = [0.7, 0.65, 0.9], [0.8, 0.65, 0.9]
    assert found.last["accuracy"].mean == pytest.approx(np.mean(last))
    assert found.last["accuracy"].standard_deviation == pytest.approx(np.std(last, ddof=1))
    assert found.last["mean_per_class_accuracy"].mean == pytest.approx(np.mean(last) - 0.1)
    assert found.best["accuracy"].mean == pytest.approx(np.mean(best))
    assert [row.best_epoch for row in found.folds] == [2, 3, 3]
    assert (found.num_right, found.num_images) == (14 + 13 + 9, 50)
    if test:
        assert found.test is not None
        assert found.test["accuracy"].text("accuracy") == "0.200 ± 0.100"
    else:
        assert found.test is None
    write_summary(tmp_path, found)
    assert json.loads(without_checksum((tmp_path / "folds.json").read_bytes())) == json.loads(
        json.dumps(found.to_dict())
    )


def test_the_page_has_each_fold_and_all(tmp_path: Path) -> None:
    """Mean and standard deviation lead; the best epoch's is called optimistic."""
    write_metrics(tmp_path / "runs", test=True)
    found = cross_validation(tmp_path / "runs", 3)
    page = write_folds_page(tmp_path / "runs", found).read_text(encoding="utf-8").replace("\u00a0", " ")
    for words in ("75.0 ± 13.2 %", "runs: 3 folds", "accuracy, best epoch", "optimistic", "fold 2", "20.0 ± 10.0 %"):
        assert words in page
    assert "72.0 %" in page  # 36 of all 50 images


def test_a_fold_without_evaluations_is_named(tmp_path: Path) -> None:
    """As when its metrics were lost."""
    write_metrics(tmp_path, test=False)
    (tmp_path / "fold-2" / "metrics.jsonl").write_text("")
    with pytest.raises(RunError, match=r"fold-2/metrics\.jsonl lacks the evaluations of its fold; remove .*fold-2"):
        cross_validation(tmp_path, 3)


def test_the_folder_of_all_folds_holds_nothing_else(tmp_path: Path) -> None:
    """Its own files and runs may be there; anything else belongs to the user."""
    claim_folder(tmp_path / "new")
    write_metrics(tmp_path / "runs", test=False)
    (tmp_path / "runs" / "folds.json").touch()
    claim_folder(tmp_path / "runs")
    (tmp_path / "runs" / "config.toml").touch()
    with pytest.raises(RunError, match=r"must be empty, but .*runs holds 'config\.toml'; give another with --out"):
        claim_folder(tmp_path / "runs")
    with pytest.raises(RunError, match=r"holds a run for each fold; .* such as .*fold-1\.$"):
        refuse_folds(tmp_path / "runs")
    refuse_folds(tmp_path / "new")
