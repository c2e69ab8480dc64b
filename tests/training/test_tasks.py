"""Labels and values are learned, judged, predicted and reported from a manifest on, as classes are."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unsquare.api import cross_validate, evaluate, predict, train
from unsquare.cli import main
from unsquare.errors import ConfigError, SourceError
from unsquare.index.holdout import with_validation
from unsquare.index.scan import scan_source
from unsquare.index.targets import TaskConfig
from unsquare.plan.config import PlanConfig
from unsquare.report.run.record import read_record
from unsquare.runs.tables import read_evaluation, read_index
from unsquare.training import loop
from unsquare.training.config import TrainConfig, from_toml, to_toml
from unsquare.training.predictor import Predictor

from .conftest import losses

SETTINGS = {
    "backbone": "test_resnet",
    "epochs": 5,
    "step_images": 4,
    "lr": 3e-3,
    "budget_pixels": 20_000,
    "precision": "32-true",
    "min_side": 33,
    "workers": 1,
}
TASKS = {
    "multilabel": {"task": "multilabel"},
    "columns": {"task": "multilabel", "label_columns": ["red", "wide", "never"]},
    "regression": {"task": "regression", "label_columns": ["year"]},
}


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Plain pictures, red or blue, wide or tall, whose year follows from their brightness."""
    folder = tmp_path_factory.mktemp("source")
    rng = np.random.default_rng(0)
    rows = []
    for at in range(36):
        red, wide, light = (int(each) for each in rng.integers(0, 2, 3))
        height, width = (40, 60) if wide else (60, 40)
        color = np.array([200, 30, 30] if red else [30, 30, 200]) + 50 * light
        pixels = np.clip(rng.normal(color, 8, (height, width, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{at}.png")
        tags = ";".join(["red"] * red + ["wide"] * wide) or ";"
        split = ("train", "train", "val")[at % 3]
        rows.append([f"{at}.png", split, tags, red, wide, 0, 1900 + 50 * light + rng.integers(0, 3)])
    with (folder / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path", "split", "label", "red", "wide", "never", "year"], *rows])
    return folder / "list.csv"


@pytest.fixture(scope="module", params=TASKS)
def run(request, source, tmp_path_factory) -> Path:
    """A finished run of each task."""
    out = tmp_path_factory.mktemp(request.param) / request.param
    return train(source, out, quiet=True, **SETTINGS, **TASKS[request.param])


def rows_of(run: Path, kind: str) -> list[dict]:
    """The rows of the metrics of a kind."""
    return [row for row in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if row["kind"] == kind]


def test_what_can_be_learned_is_learned(run):
    """Better than guessing by far, in the figures of the task, which choose the best weights."""
    final, evals = rows_of(run, "final")[0], rows_of(run, "eval")
    if run.name == "regression":
        assert final["r2"] > 0.5
        assert final["mae"] == min(row["mae"] for row in evals)
        assert all("mae" in row and "accuracy" not in row for row in rows_of(run, "step"))
    else:
        assert final["mean_average_precision"] > 0.8
        assert final["mean_average_precision"] == max(row["mean_average_precision"] for row in evals)


def test_evaluation_says_what_training_said(run, source):
    """The command on the run's own source gives the figures and the predictions that the run has written."""
    found, final = evaluate(run, source, quiet=True), rows_of(run, "final")[0]
    told = {name: value for name, value in found.to_row().items() if name != "seconds"}
    assert {name: final[name] for name in told} == pytest.approx(told)
    table = read_evaluation(run / "evaluation.parquet")
    if run.name == "regression":
        np.testing.assert_allclose(table["predicted"].to_numpy(), found.predicted, rtol=1e-6)
    else:
        np.testing.assert_allclose(np.array(table["probabilities"].to_pylist()), found.probability, atol=1e-6)


def test_single_pictures_are_predicted(run, source):
    """A value in its own unit; labels from a probability of a half on, or as many as are asked for."""
    predictor = Predictor(run, quiet=True, budget_pixels=20_000)
    paths = [source.parent / f"{at}.png" for at in (2, 5, 8)]
    found = predictor.predict(paths)
    by_key = {row["key"]: row for row in read_evaluation(run / "evaluation.parquet").to_pylist()}
    for prediction, path in zip(found, paths):
        expected = by_key[path.name]["predicted"]
        if run.name == "regression":
            assert prediction.value == pytest.approx(expected, rel=1e-6)
            assert prediction.to_dict() == {"path": str(path), "value": prediction.value}
        else:
            assert sorted(prediction.classes) == sorted(expected)
            assert all(each >= 0.5 for each in prediction.probabilities)
    if run.name == "regression":
        assert predictor.value_scale == pytest.approx((1925, 25), abs=10)
    else:
        assert len(predict(run, paths[0], top=2)[0].classes) == 2


def test_commands_print_the_figures_of_the_task(run, source, capsys):
    """`evaluate` the leading ones in a line, `predict` the value or the labels; no other task's."""
    pinned = ("--budget-pixels", "20000", "--precision", "32-true")
    assert main(["evaluate", str(run), str(source), *pinned]) == 0
    line = capsys.readouterr().out
    regression = run.name == "regression"
    assert ("mean absolute error" in line, "R2" in line, "mean average precision" in line) == (
        (True, True, False) if regression else (False, False, True)
    )
    assert main(["predict", str(run), str(source.parent / "2.png"), *pinned]) == 0
    first, *more = capsys.readouterr().out.splitlines()
    if regression:
        path, value = first.rsplit(maxsplit=1)
        assert path.strip() == str(source.parent / "2.png")
        assert 1850 < float(value) < 2000
        assert not more
    else:
        assert all(each.split()[-1] in ("red", "wide") for each in more)


def test_the_report_shows_the_task(run):
    """Its headlines and sections are those of the task."""
    page, record = (run / "report.html").read_text(), read_record(run)
    assert not record.damaged
    if run.name == "regression":
        assert record.task == "regression"
        for words in ("mean absolute error", "R²", "Largest errors", "number &#39;year&#39;"):
            assert words in page
    else:
        for words in ("mean average precision", "macro F1", "Average precision of each label", "confident mistakes"):
            assert words.lower() in page.lower()
    assert ("1 label without an image" in page) == (run.name == "columns")


def test_settings_of_the_task_are_kept(run):
    """In `config.toml`, so that a resume and an evaluation read the source in the same way."""
    config = from_toml((run / "config.toml").read_text(), "config.toml")
    assert config.task.task == TASKS[run.name]["task"]
    assert from_toml(to_toml(config), "again") == config


def test_a_stopped_run_resumes_bit_for_bit(source, tmp_path, monkeypatch):
    """Values are standardized by the same numbers before and after."""

    class Killed(BaseException):
        pass

    settings = {**SETTINGS, **TASKS["regression"], "epochs": 2, "checkpoint_every_steps": 1}
    whole = train(source, tmp_path / "whole", quiet=True, **settings)
    save = loop.save

    def save_and_die(session, state):
        save(session, state)
        if state.step == 8:
            raise Killed

    monkeypatch.setattr(loop, "save", save_and_die)
    with pytest.raises(Killed):
        train(source, tmp_path / "stopped", quiet=True, **settings)
    monkeypatch.undo()
    stopped = train(source, tmp_path / "stopped", quiet=True, **settings)
    assert losses(stopped) == losses(whole)


def test_labels_that_the_run_does_not_have_are_refused(run, source, tmp_path):
    """In one sentence; a regression has a value of any name."""
    lines = [["path", "split", "label", "red", "wide", "never", "year"], ["0.png", "", "green", 1, 0, 0, 7]]
    for number in (0, 1):
        shutil.copy(source.parent / f"{number}.png", tmp_path)
    with (tmp_path / "other.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    if run.name == "multilabel":
        with pytest.raises(
            SourceError, match=r"The label 'green' is not one of the run's 2 labels \(red, wide\); rename"
        ):
            evaluate(run, tmp_path / "other.csv", quiet=True)
    else:
        assert evaluate(run, tmp_path / "other.csv", quiet=True).num_images == 1


def test_balanced_sampling_needs_classes():
    """Labels and values have none to balance."""
    with pytest.raises(ConfigError, match="sampling balanced uses classes equally often, but the task multilabel has"):
        TrainConfig(task=TaskConfig(task="multilabel"), plan=PlanConfig(sampling="balanced"))


def test_the_choice_among_epochs_is_called_optimistic(run, source, capsys):
    """With the figures of the task, at the end of training as in an evaluation, and in the report's headlines."""
    found = evaluate(run, source, quiet=True)
    last = rows_of(run, "eval")[-1]
    leading = "mae" if run.name == "regression" else "mean_average_precision"
    words = {"mae": "mean absolute error", "mean_average_precision": "mean average precision"}[leading]
    said = found.caution.removeprefix("The best of 5 epochs on the same images is optimistic; ")
    if getattr(found, leading) == last[leading]:
        assert said == "here it is the last one."
    else:
        assert said.startswith(f"the last epoch has {words} ")
    assert "accuracy" not in found.caution or run.name != "regression"
    assert found.last_epoch["epoch"] == 5
    assert found.last_epoch[leading] == last[leading]
    page = (run / "report.html").read_text()
    assert f"{words}, optimistic" in page
    assert f"{words}, last epoch" in page
    assert "by shape alone" not in page


def test_an_evaluation_leaves_the_files_of_its_task(run, source, tmp_path):
    """Confusions of classes alone; figures of each label; a row for each picture in every task."""
    found = evaluate(run, source, out=tmp_path, quiet=True)
    tables = {}
    for path in tmp_path.iterdir():
        with path.open(newline="") as file:
            tables[path.name] = list(csv.DictReader(file))
    with pytest.raises(ConfigError, match=r"Only classes are confused .* but the task is (multilabel|regression); use"):
        found.confusion()
    rows = tables.pop("predictions.csv")
    assert len(rows) == found.num_images == 12
    if run.name == "regression":
        assert not tables
        assert found.per_class() == ()
        errors = [float(row["predicted"]) - float(row["value"]) for row in rows]
        assert np.abs(errors).mean() == pytest.approx(found.mae, rel=1e-5)
        np.testing.assert_allclose([float(row["error"]) for row in rows], errors, atol=1e-3)
        return
    assert list(tables) == ["per_class.csv"]
    by_label = {row["label"]: row for row in tables["per_class.csv"]}
    assert set(by_label) == {"red", "wide"}
    have = [row for row in rows if "red" in row["labels"].split(";")]
    right = [row for row in have if float(row["probability red"]) >= 0.5]
    assert int(by_label["red"]["images"]) == len(have)
    assert float(by_label["red"]["recall"]) == pytest.approx(len(right) / len(have), rel=1e-5)
    mean = np.mean([float(row["average_precision"]) for row in by_label.values()])
    assert mean == pytest.approx(found.mean_average_precision, rel=1e-5)
    assert all((row["labels"] == row["predicted"]) == (row["correct"] == "yes") for row in rows)


@pytest.fixture(scope="module")
def grouped(source) -> Path:
    """The same pictures without splits, two neighbors to a group."""
    with source.open(newline="") as file:
        rows = list(csv.DictReader(file))
    path = source.parent / "grouped.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(
            [
                ["path", "patient", "label", "year"],
                *([row["path"], at // 2, row["label"], row["year"]] for at, row in enumerate(rows)),
            ]
        )
    return path


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_folds_have_the_figures_of_the_task(task, grouped, tmp_path, capsys):
    """Groups stay whole, the folds are of one size, and mean and spread are those of the leading figure."""
    settings = SETTINGS | {"epochs": 1} | TASKS[task]
    found = cross_validate(grouped, tmp_path / "runs", folds=2, quiet=True, **settings)
    held = [read_index(tmp_path / "runs" / row.run / "index.parquet").of_split("val") for row in found.folds]
    assert [len(index) for index in held] == [18, 18]
    assert not set(held[0].groups) & set(held[1].groups)
    assert all(index.task == task and index.targets is not None for index in held)
    leading = "mae" if task == "regression" else "mean_average_precision"
    evals = [rows_of(tmp_path / "runs" / row.run, "eval")[-1][leading] for row in found.folds]
    assert found.last[leading].mean == pytest.approx(np.mean(evals))
    assert found.last[leading].standard_deviation == pytest.approx(np.std(evals, ddof=1))
    assert (found.task, found.num_right, found.num_images) == (task, None, 36)
    flags = [
        f"--{name.replace('_', '-')}={' '.join(value) if isinstance(value, list) else value}"
        for name, value in settings.items()
    ]
    assert main(["train", str(grouped), "--out", str(tmp_path / "runs"), "--folds", "2", *flags]) == 0
    assert found.last[leading].text(leading) in capsys.readouterr().out
    words = "mean absolute error" if task == "regression" else "mean average precision"
    page = (tmp_path / "runs" / "report.html").read_text()
    assert f"{words}, last epoch" in page
    assert "accuracy" not in page.lower()


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_held_out_groups_stay_whole(task, grouped):
    """A part of all images is held out, whatever they are labeled with."""
    index = scan_source(grouped, task=TaskConfig(task=task, label_columns=("year",) if task == "regression" else ()))
    splits = with_validation(index, 0.25, 0).splits
    assert (splits == "val").sum() == pytest.approx(9, abs=1)
    assert not set(index.groups[splits == "val"]) & set(index.groups[splits == "train"])


@pytest.mark.parametrize("task", ["multilabel", "regression"])
def test_mixed_pictures_have_both_labels(task, grouped, tmp_path):
    """Mixup and cutmix train with labels and values, too, and change what is learned."""
    settings = SETTINGS | {"epochs": 1} | TASKS[task]
    plain, mixed = (
        losses(train(grouped, tmp_path / f"mixup-{alpha}", quiet=True, mixup=alpha, cutmix=alpha, **settings))
        for alpha in (0.0, 1.0)
    )
    assert np.isfinite(mixed).all()
    assert plain != mixed
