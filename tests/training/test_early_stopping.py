"""A run ends after some epochs without improvement, and goes on where it is given more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from unsquare.errors import ConfigError, RunError, SourceError
from unsquare.runs.checkpoints import newest, read_state
from unsquare.runs.folder import RunFolder
from unsquare.training import loop, start
from unsquare.training.config import SavingConfig, TrainConfig, with_settings
from unsquare.training.early_stopping import early_words
from unsquare.training.evaluate import Evaluator
from unsquare.training.other_run import settings_of_run

SETTINGS = {
    "backbone": "test_resnet",
    "pretrained": "none",
    "epochs": 8,
    "step_images": 64,
    "budget_pixels": 20_000,
    "precision": "32-true",
    "workers": 1,
    "patience": 2,
    "min_scale": 1.0,
}


@pytest.fixture
def source(tmp_path) -> Path:
    """Four pictures to train on, one step an epoch."""
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / "pictures" / split / label).mkdir(parents=True)
            for number in range(2):
                path = tmp_path / "pictures" / split / label / f"{number}.png"
                Image.new("RGB", (64 + number, 70), ("gray", "brown")[label == "b"]).save(path)
    return tmp_path / "pictures"


def train(source: Path, out: Path, *, quiet: bool = True, **settings: object) -> Path:
    """Train, without the report."""
    return start.train(source, out, with_settings(TrainConfig(), SETTINGS | settings), quiet=quiet)


@pytest.fixture
def scores(monkeypatch) -> Callable[[Sequence[float]], None]:
    """A function that says what the evaluations after each epoch find; the last one goes on."""

    def say(found: Sequence[float]) -> None:
        evaluate, number = Evaluator.evaluate, iter(range(1000))

        def scripted(self, *args):
            score = found[min(next(number), len(found) - 1)]
            return replace(evaluate(self, *args), mean_per_class_accuracy=score)

        monkeypatch.setattr(Evaluator, "evaluate", scripted)

    return say


@contextmanager
def killed_after(epoch: int) -> Iterator[None]:
    """The run within the block is killed once this epoch is saved."""
    save = loop.save

    def save_and_die(session, state):
        save(session, state)
        if state.epoch == epoch:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "save", save_and_die)
        with pytest.raises(KeyboardInterrupt):
            yield


def epochs_of(run: Path) -> list[float]:
    """The epochs after which a run was evaluated."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["epoch"] for row in rows if row["kind"] == "eval"]


def pixels_of(run: Path) -> list[int]:
    """The real pixels of each step, one an epoch."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["real_pixels"] for row in rows if row["kind"] == "step"]


def said(capsys) -> str:
    """What was printed since this was last asked."""
    return " ".join(capsys.readouterr().err.split())


def test_a_run_ends_when_val_does_not_improve(source, tmp_path, scores, capsys) -> None:
    """Two epochs after its best; the same command then says so, and more patience or more epochs go on from there."""
    run = tmp_path / "run"
    scores([0.5, 0.6, 0.6, 0.1])
    train(source, run, quiet=False)
    assert epochs_of(run) == [1, 2, 3, 4]
    reason = "after epoch 4 of 8, since the mean per-class accuracy on val did not improve for 2 epochs"
    assert f"Ended {reason}." in said(capsys)
    train(source, run, quiet=False)
    assert f"ended {reason}; give more --patience or --epochs to continue it" in said(capsys)
    scores([0.1])
    train(source, run, patience=3)
    assert epochs_of(run) == [1, 2, 3, 4, 5]
    scores([0.1, 0.7, 0.1])
    start.resume(run, epochs=12, quiet=True)
    assert epochs_of(run) == list(range(1, 11))
    assert read_state(newest(run / "checkpoints")).waits_from == 7
    scores([0.1])
    patient = settings_of_run(RunFolder.open(run))
    start.resume(run, replace(patient, saving=replace(patient.saving, patience=None)), quiet=True)
    assert epochs_of(run) == list(range(1, 13))
    with pytest.raises(RunError, match=r"of which only the epochs may increase and the patience change, but .*dropout"):
        train(source, run, epochs=12, dropout=0.5)


def test_a_run_that_dies_as_it_ends_ends_there(source, tmp_path, scores) -> None:
    """Killed between its last epoch and the last evaluation, it trains no further epoch."""
    scores([0.5, 0.4])
    with killed_after(3):
        train(source, tmp_path / "run")
    train(source, tmp_path / "run")
    assert epochs_of(tmp_path / "run") == [1, 2, 3]
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])["kind"] == "final"


def test_a_longer_run_does_not_go_back_to_small_pictures(source, tmp_path) -> None:
    """A run that ended at full size goes on at full size, although the shares of the longer run begin with small
    pictures; also where it is killed in between. A new run of that length has both sizes."""
    run = train(source, tmp_path / "run", patience=None, epochs=4, progressive="1600px:1,full:1")
    small, full = pixels_of(run)[0], pixels_of(run)[-1]
    assert small < full
    assert pixels_of(run) == [small, small, full, full]
    with killed_after(5):
        start.resume(run, epochs=8, quiet=True)
    start.resume(run, quiet=True)
    assert pixels_of(run) == [small, small, *[full] * 6]
    new = train(source, tmp_path / "new", patience=None, epochs=6, progressive="1600px:1,full:1")
    assert pixels_of(new) == [small] * 3 + [full] * 3


def test_a_run_given_more_epochs_early_follows_their_shares(source, tmp_path) -> None:
    """Where it had only seen small pictures, it goes on with small ones as the longer run would."""
    with killed_after(1):
        train(source, tmp_path / "run", patience=None, epochs=2, progressive="1600px:1,full:1")
    run = start.resume(tmp_path / "run", epochs=4, quiet=True)
    small, *_, full = pixels_of(run)
    assert pixels_of(run) == [small, small, full, full]


def test_pictures_grow_no_further_where_smaller_ones_do_better(source, tmp_path, scores, capsys) -> None:
    """Decided at the end of a stage, evaluated then however rarely val is; the rest of the run has the best size, also
    where it is killed there, resumed and given more epochs. With grow always, nothing is decided."""
    sizes = {"progressive": "1600px:2,2400px:2,full:2", "patience": None, "epochs": 6, "evaluate_every": 3}
    between = 1960  # the geometric mean of the first two sizes
    scores([0.5, 0.5, 0.5, 0.6, 0.5])  # epochs 2 (with no smaller size), 3, 4, and then the two smaller sizes
    with killed_after(4):
        train(source, tmp_path / "run", **sizes, grow="while-better", quiet=False)
    assert (
        "On val mean per-class accuracy 0.500 at 1,600 pixels, 0.600 at 1,960 pixels, 0.500 at 2,400 pixels, so they "
        f"grow no further than {between:,} pixels (--grow)."
    ) in said(capsys)
    assert read_state(newest(tmp_path / "run" / "checkpoints")).largest_pixels == between
    run = train(source, tmp_path / "run", **sizes | {"epochs": 7}, grow="while-better")
    pixels = [count / 4 for count in pixels_of(run)]
    assert max(pixels[:2]) <= 1600 < between < min(pixels[2:4])
    assert len(pixels) == 7
    assert 1600 < min(pixels[4:]) <= max(pixels[4:]) <= between
    assert epochs_of(run) == [2, 3, 4, 6, 7]
    scores([0.5, 0.5, 0.6])
    run = train(source, tmp_path / "always", **sizes, grow="always")
    assert pixels_of(run)[-1] / 4 > 4000
    assert epochs_of(run) == [3, 6]


def test_stages_above_the_largest_size_are_no_stages(source, tmp_path, scores) -> None:
    """Where max_pixels is below them, pictures have their full size from the first epoch on: patience counts."""
    scores([0.5, 0.4])
    sizes = {"max_pixels": 1600, "progressive": "2000px:1,1800px:1,full:1", "patience": 1, "epochs": 3}
    with killed_after(1):
        train(source, tmp_path / "run", **sizes)
    assert epochs_of(train(source, tmp_path / "run", **sizes)) == [1, 2]


def test_a_stage_of_one_pixel_is_refused(source, tmp_path) -> None:
    """Batch norms that learn could not learn from it; frozen ones do not mind."""
    sizes = {"progressive": "1px:1,full:1", "epochs": 2, "min_side": 0, "patience": None}
    with pytest.raises(
        SourceError, match=r"in the stage of 1 pixels 4 images of 32 x 32 pixels give only one, .* larger"
    ):
        train(source, tmp_path / "run", **sizes, norm="own")
    assert len(epochs_of(train(source, tmp_path / "frozen", **sizes, norm="frozen"))) == 2


def test_an_epoch_that_has_begun_keeps_its_size(source, tmp_path, monkeypatch) -> None:
    """Stopped within an epoch and given more epochs, of whose sizes the longer run has none: the epoch goes on as it
    began, in which each picture comes once, and is evaluated and recorded at that size."""
    sizes = {"progressive": "1600px:2,2400px:1,full:2", "step_images": 2, "patience": None, "epochs": 3}
    run_step, steps = loop._run_step, iter(range(1000))

    def run_and_stop(session, state, step, batches, rate, request):
        done = run_step(session, state, step, batches, rate, request)
        return (done[0], next(steps) == 2, done[2])  # within the second of two steps' epochs

    monkeypatch.setattr(loop, "_run_step", run_and_stop)
    with pytest.raises(loop.Stopped):
        train(source, tmp_path / "run", **sizes)
    monkeypatch.setattr(loop, "_run_step", run_step)
    run = train(source, tmp_path / "run", **sizes | {"epochs": 4})
    whole = train(source, tmp_path / "whole", **sizes)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert pixels_of(run)[:4] == pixels_of(whole)[:4]
    assert [row.get("max_pixels") for row in rows if row["kind"] == "eval"] == [1600, 2400, None, None]


def test_patience_begins_at_full_size(source, tmp_path, scores) -> None:
    """Small pictures are passed through whatever val says; only evaluated epochs end a run."""
    scores([0.5, 0.4])
    run = train(source, tmp_path / "small", progressive="1600px:5,full:3")
    assert epochs_of(run) == [1, 2, 3, 4, 5, 6, 7]
    scores([0.5, 0.4])
    run = train(source, tmp_path / "rare", evaluate_every=3)
    assert epochs_of(run) == [3, 6]


def test_patience_needs_images_that_are_held_out(source, tmp_path) -> None:
    """And not those that cross-validation judges a run on; nothing is left behind."""
    shutil.rmtree(source / "val")
    with pytest.raises(ConfigError, match="but no images are held out; leave --patience out, or hold some out"):
        train(source, tmp_path / "run", validation_fraction=0)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="which would make its figures optimistic; leave --patience or --folds out"):
        SavingConfig(patience=3, folds=5)
    with pytest.raises(
        ConfigError, match=r"grow while-better chooses the size by the images .*; give --grow always, or"
    ):
        with_settings(TrainConfig(), {"grow": "while-better", "folds": 5})


@pytest.mark.parametrize(
    ("task", "figure"), [("multilabel", "mean average precision"), ("regression", "mean absolute error")]
)
def test_each_task_waits_for_its_own_figure(task, figure) -> None:
    """The one that chooses its best weights."""
    assert f"since the {figure} on val did not improve" in early_words(
        with_settings(TrainConfig(), {"task": task, "epochs": 9}), 3
    )
