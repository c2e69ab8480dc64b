"""The same command resumes a run from where it was, and notices what has changed meanwhile."""

import dataclasses
import io
import json
import os
import shutil

import pytest
from PIL import Image

from unsquare.api import evaluate, predict, resume, train
from unsquare.errors import ConfigError, RunError, SourceError
from unsquare.index.table import ShapeIndex
from unsquare.report import write_report
from unsquare.runs.checkpoints import problem, read_state
from unsquare.training import checkpoint, loop, start
from unsquare.training.predictor import Predictor

from .conftest import losses, write_noise

SETTINGS = {
    "backbone": "test_resnet",
    "epochs": 2,
    "step_images": 3,
    "budget_pixels": 20_000,
    "precision": "32-true",
    "min_side": 33,
    "progressive": "1500px:1,full:1",
    "checkpoint_every_steps": 1,
    "workers": 1,
}
STEPS = 8


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it is run, neither saving nor tidying up."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Noise of two classes."""
    return write_noise(tmp_path_factory.mktemp("source") / "pictures", {"train": (6, 6), "val": (2, 2), "test": (2, 2)})


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    """A run that nothing stopped."""
    return train(source, tmp_path_factory.mktemp("finished") / "run", quiet=True, **SETTINGS)


@pytest.fixture(scope="module")
def stopped_once(source, tmp_path_factory):
    """A run that was killed after its sixth step, in its second epoch."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.MonkeyPatch.context() as patch:
        save = loop.save

        def save_and_die(session, state):
            save(session, state)
            if state.step == 6:
                raise Killed

        patch.setattr(loop, "save", save_and_die)
        with pytest.raises(Killed):
            train(source, out, quiet=True, **SETTINGS)
    return out


@pytest.fixture(scope="module")
def everything(source, tmp_path_factory):
    """A run on a folder without splits, of which nothing is held out."""
    folder = tmp_path_factory.mktemp("everything")
    shutil.copytree(source / "train", folder / "pictures")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", (said := io.StringIO()))
        train(folder / "pictures", folder / "run", validation_fraction=0, **SETTINGS)
    return folder, " ".join(said.getvalue().split())


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """The stopped run, to be changed."""
    return shutil.copytree(stopped_once, tmp_path / "run")


@pytest.fixture
def done(finished, tmp_path):
    """The finished run, to be changed."""
    return shutil.copytree(finished, tmp_path / "run")


def weights(run):
    """The best weights of a run, as bytes."""
    return (run / "checkpoints" / "best" / "model.safetensors").read_bytes()


def test_the_first_epoch_is_planned_at_fewer_pixels(source, finished):
    """Its pictures are shrunk with their aspect kept, those of the last epoch are not; the best weights are used at the
    size that they were trained on."""
    rows = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    largest = [max(h * w for _, h, w in row["micro_batches"]) for row in rows if row["kind"] == "step"]
    real = [row["real_pixels"] / row["num_images"] for row in rows if row["kind"] == "step"]
    assert max(real[: STEPS // 2]) < 1500 < min(real[STEPS // 2 :])
    assert max(largest[STEPS // 2 :]) > 2000
    assert [row.get("max_pixels") for row in rows if row["kind"] == "eval"] == [1500, None]
    assert "up to epoch 1 at most 1.5\xa0kP" in write_report(finished).read_text()
    most = json.loads((finished / "checkpoints" / "best" / "state.json").read_text())["max_pixels"]
    pixels = Predictor(finished, quiet=True)._geometry.resize([(50, 60)]).prod()
    assert pixels == 3000 if most is None else pixels <= most


def test_the_same_command_goes_on(source, stopped, finished):
    """Its losses and weights are those of the run that nothing stopped."""
    assert len(losses(stopped)) < STEPS
    train(source, stopped, quiet=True, **SETTINGS)
    assert losses(stopped) == losses(finished)
    assert weights(stopped) == weights(finished)


def test_a_finished_run_says_so_and_stays(source, done, capsys):
    """The same command changes nothing, and names what continues it."""
    before = (done / "metrics.jsonl").read_bytes()
    assert train(source, done, **SETTINGS) == done
    assert "is finished after 2 epochs; give more --epochs to continue it" in " ".join(capsys.readouterr().err.split())
    assert (done / "metrics.jsonl").read_bytes() == before


def test_of_epochs_with_equal_accuracy_the_lower_loss_is_best(source, tmp_path, monkeypatch, capsys):
    """The best weights are those of the first epoch, whose loss was lower; after training this is called optimistic."""
    evaluate_it, losses_on_val = loop.Evaluator.evaluate, iter([0.5, 0.75, 0.5])

    def evaluate_alike(self, *arguments):
        found = evaluate_it(self, *arguments)
        return dataclasses.replace(found, accuracy=0.5, mean_per_class_accuracy=0.5, loss=next(losses_on_val))

    monkeypatch.setattr(loop.Evaluator, "evaluate", evaluate_alike)
    shutil.copytree(source, tmp_path / "source", ignore=shutil.ignore_patterns("test"))
    run = train(tmp_path / "source", tmp_path / "run", **(SETTINGS | {"progressive": "off"}))
    assert json.loads((run / "checkpoints" / "best" / "state.json").read_text())["step"] == STEPS // 2
    said = " ".join(capsys.readouterr().err.split())
    assert "4 val images: accuracy 0.500, mean per class 0.500. The best of 2 epochs on the same" in said


def test_a_finished_run_restores_what_its_checkpoint_holds(source, done, finished):
    """Settings and bounds that are damaged are written again, so that the report can be, too."""
    (done / "config.toml").write_bytes(b"\xff\xfe")
    (done / "models.json").write_text("[]")
    with pytest.warns(UserWarning, match=r"config\.toml|models\.json"):
        train(source, done, quiet=True, **SETTINGS)
    for name in ("config.toml", "models.json"):
        assert (done / name).read_text() == (finished / name).read_text()


@pytest.mark.parametrize("by_command", [True, False])
def test_more_epochs_continue_a_finished_run(source, done, capsys, by_command):
    """Steps done stay as they were; the learning rate then follows the longer run, with a message."""
    before = losses(done)
    if by_command:
        train(source, done, **(SETTINGS | {"epochs": 3}))
    else:
        resume(done, epochs=3)
    assert losses(done)[:STEPS] == before
    assert len(losses(done)) == 12
    assert "3 epochs instead of 2; from now on the learning rate" in " ".join(capsys.readouterr().err.split())
    resume(done, quiet=True)  # knows of the third epoch
    with pytest.raises(RunError, match=r"optimizer.epochs was 3 and is 2"):
        train(source, done, quiet=True, **SETTINGS)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dropout": 0.5}, r"model\.dropout was 0\.0 and is 0\.5"),
        ({"epochs": 1}, r"optimizer\.epochs was 2 and is 1"),
        ({"lr": 0.5, "seed": 1}, r"learning_rate\.lr was 0\.002 and is 0\.5, plan\.seed was 0 and is 1"),
        ({"max_pixels": 10**6}, r"geometry\.max_pixels was not set and is 1000000"),
    ],
)
def test_other_settings_are_named_and_refused(source, stopped, changes, words):
    """The run stays as it was."""
    before = {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}
    with pytest.raises(RunError, match=words):
        train(source, stopped, quiet=True, **(SETTINGS | changes))
    assert before == {path: path.read_bytes() for path in stopped.rglob("*") if path.is_file()}


def test_another_source_is_named_and_refused(source, stopped, make_folder):
    """By both places; the same place written otherwise is the same."""
    with pytest.raises(RunError, match=rf"trains on {source}, but .* was given"):
        train(make_folder(), stopped, quiet=True, **SETTINGS)
    train(source / ".." / source.name, stopped, quiet=True, **SETTINGS)


def test_settings_that_were_edited_are_named_and_refused(source, stopped, finished):
    """An edited config.toml stops a resume, an evaluation and a prediction; a comment in it is no edit."""
    config = stopped / "config.toml"
    text = config.read_text()
    config.write_text(text.replace("dropout = 0.0", "dropout = 0.25"))
    for act in (
        lambda: resume(stopped, quiet=True),
        lambda: train(source, stopped, quiet=True, **SETTINGS),
        lambda: evaluate(stopped, source, quiet=True),
    ):
        with pytest.raises(RunError, match=r"has been edited: model\.dropout was 0\.0 and is 0\.25; .* remove it"):
            act()
    config.unlink()
    evaluate(stopped, source, quiet=True)
    config.write_text("# mine\n" + text)
    resume(stopped, quiet=True)
    assert losses(stopped) == losses(finished)


@pytest.mark.parametrize("content", [b"PAR1", None])
def test_a_run_without_its_index_is_not_replaced_by_a_new_one(source, stopped, content):
    """Evaluation and prediction say how to make the index again."""
    (stopped / "index.parquet").unlink()
    if content is not None:
        (stopped / "index.parquet").write_bytes(content)
    with pytest.raises(RunError, match=r"put it back, or have `unsquare train --resume .*` make it again\.$"):
        evaluate(stopped, source, quiet=True)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.toml", b"\xff\xfe"),
        ("config.toml", None),
        ("models.json", b"[]"),
        ("index.parquet", b"PAR1"),
        ("plan.json", b"[]"),
        ("memory.parquet", b"{}"),
    ],
)
def test_damaged_files_are_made_again(stopped, finished, file, content):
    """What the checkpoint or the source can restore is restored, with a message; the losses are the same."""
    (stopped / file).unlink()
    if content is not None:
        (stopped / file).write_bytes(content)
    with pytest.warns(UserWarning, match=file if file != "memory.parquet" else "trace"):
        resume(stopped, quiet=True)
    assert losses(stopped) == losses(finished)
    assert (stopped / "config.toml").read_text() == (finished / "config.toml").read_text()


@pytest.mark.parametrize("file", ["plan.json", "metrics.jsonl"])
def test_a_digit_that_changed_is_said_and_stops_nothing(stopped, finished, file):
    """No weight depends on plan or metrics; a resume names the changed file, and ends with the same weights."""
    text = (stopped / file).read_text()
    at = text.index("0.", text.index("padding_overhead" if file == "plan.json" else "loss")) + 2
    (stopped / file).write_text(text[:at] + ("1" if text[at] != "1" else "2") + text[at + 1 :])
    with pytest.warns(UserWarning, match=rf"{file} .*no weight depends on it"):
        resume(stopped, quiet=True)
    assert weights(stopped) == weights(finished)
    if file == "plan.json":
        assert (stopped / file).read_text() == text


def test_rows_that_are_lost_stop_nothing_and_are_said(stopped, finished):
    """Steps without a row are named; the weights are those of the run that nothing stopped."""
    lines = (stopped / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_bytes(b"".join(lines[:2] + lines[4:]))
    with pytest.warns(UserWarning, match=r"metrics\.jsonl has changed: the rows of 2 steps are lost \(2, 3\)"):
        resume(stopped, quiet=True)
    assert losses(stopped) == losses(finished)[:1] + losses(finished)[3:]
    assert weights(stopped) == weights(finished)


def test_a_damaged_best_is_found_when_going_on(source, stopped, finished):
    """A message says so before training, and the run ends with complete best weights."""
    (stopped / "checkpoints" / "best" / "manifest.json").write_bytes(b"{}")
    with pytest.warns(
        UserWarning, match=r"best weights of .* are damaged \(best/.*\); the best weights from now on will replace"
    ):
        resume(stopped, quiet=True)
    assert losses(stopped) == losses(finished)
    assert evaluate(stopped, source, quiet=True).num_images == 4


def test_a_damaged_best_of_a_finished_run(source, done):
    """The newest checkpoint stands in for an evaluation or a prediction, and the same command makes it the best."""
    shutil.rmtree(done / "checkpoints" / "best")
    for act in (
        lambda: evaluate(done, source, quiet=True),
        lambda: predict(done, [source / "test" / "a" / "0.png"]),
    ):
        with pytest.warns(UserWarning, match=rf"best weights .* those of step-{STEPS} are used instead"):
            act()
    with pytest.warns(UserWarning, match="will replace them"):
        train(source, done, quiet=True, **SETTINGS)
    evaluate(done, source, quiet=True)


def test_damaged_checkpoints_fall_back_and_go(stopped, finished):
    """The newest is damaged, the one before is gone on from, and the damaged one does not count among those kept."""
    (stopped / "checkpoints" / "step-6" / "manifest.json").write_text("[]")
    with pytest.warns(UserWarning, match=r"damaged \(step-6/manifest.json .*\); the run resumes from step-5"):
        resume(stopped, quiet=True)
    assert losses(stopped) == losses(finished)


class TestPictures:
    """Pictures that change during a run are named; a flag uses them as they are."""

    @pytest.fixture
    def begun(self, source, stopped_once, tmp_path):
        """A copy of the stopped run on a copy of its pictures, with their times."""
        pictures = shutil.copytree(source, tmp_path / "pictures")
        with pytest.MonkeyPatch.context() as patch:
            save = loop.save

            def save_and_die(session, state):
                save(session, state)
                if state.step == 2:
                    raise Killed

            patch.setattr(loop, "save", save_and_die)
            with pytest.raises(Killed):
                train(pictures, tmp_path / "run", quiet=True, **SETTINGS)
        return pictures, tmp_path / "run"

    def test_a_picture_of_another_length_time_or_none(self, begun):
        """Length, time and presence are compared; nothing is trained."""
        pictures, run = begun
        one = pictures / "train" / "a" / "0.png"
        content, times = one.read_bytes(), one.stat()
        one.write_bytes(content + b"\x00")
        with pytest.raises(
            RunError, match=r"of 20 in .* have changed or are missing: 'train/a/0\.png' had [\d,]+ bytes and has"
        ):
            resume(run, quiet=True)
        one.write_bytes(content)
        with pytest.raises(RunError, match=r"'train/a/0\.png' was written to since.*--changed-pictures"):
            train(pictures, run, quiet=True, **SETTINGS)
        one.unlink()
        with pytest.raises(RunError, match=r"'train/a/0\.png' cannot be read \(No such file.*\. Put them back\.$"):
            resume(run, quiet=True)
        with pytest.raises(RunError, match=r"'train/a/0\.png' .*put it back"):
            resume(run, changed_pictures=True, quiet=True)
        one.write_bytes(content)
        os.utime(one, ns=(times.st_atime_ns, times.st_mtime_ns))
        resume(run, quiet=True)

    def test_changed_pictures_are_taken_where_that_is_asked_for(self, begun):
        """As they are now, from then on without another word; one of another shape is refused."""
        pictures, run = begun
        one = pictures / "train" / "a" / "0.png"
        with Image.open(one) as image:
            size = image.size
        Image.new("RGB", size).save(one)
        with pytest.warns(UserWarning, match="1 pictures have changed"):
            resume(run, changed_pictures=True, quiet=True)
        resume(run, epochs=3, quiet=True)
        Image.new("RGB", (size[0] + 1, size[1])).save(one)
        with pytest.raises(RunError, match=r"planned by its pictures' shapes, but 'train/a/0\.png' was"):
            resume(run, epochs=4, changed_pictures=True, quiet=True)

    def test_pictures_that_are_new_are_said(self, begun):
        """The run resumes with its own pictures, whatever is new in its source; files that cannot be read do not
        count."""
        pictures, run = begun
        for name in ("train/a/new.png", "val/c/new.png"):
            (pictures / name).parent.mkdir(exist_ok=True)
            shutil.copy(pictures / "train" / "a" / "0.png", pictures / name)
        (pictures / "train" / "a" / "bad.png").write_text("none")
        index = (run / "index.parquet").read_bytes()
        with pytest.warns(UserWarning, match=r"but .*pictures now has 2 others; start another run"):
            train(pictures, run, quiet=True, **SETTINGS)
        assert (run / "index.parquet").read_bytes() == index
        train(pictures, run, quiet=True, **SETTINGS)  # finished: nothing is trained, nothing said

    def test_pictures_that_a_manifest_no_longer_lists_are_said(self, begun, tmp_path):
        """Lost pictures are refused by name; if they are no longer listed, or the manifest is missing, the run
        resumes."""
        pictures, _ = begun
        manifest = tmp_path / "list.csv"
        rows = [f"{path},{path.parent.name},{path.parent.parent.name}" for path in sorted(pictures.rglob("*.png"))]
        manifest.write_text("\n".join(["path,label,split", *rows]))
        run = train(manifest, tmp_path / "listed", quiet=True, **(SETTINGS | {"epochs": 1}))
        manifest.write_text("\n".join(["path,label,split", *rows[1:]]))
        with pytest.warns(UserWarning, match=r"list\.csv now lacks 1 of them; start another run"):
            resume(run, epochs=2, quiet=True)
        manifest.unlink()
        with pytest.warns(UserWarning, match=r"whether its source has new ones is unknown: The source .*list\.csv"):
            resume(run, epochs=3, quiet=True)

    def test_a_manifest_that_changed_is_refused_by_the_same_command(self, begun, tmp_path):
        """A source that is a file has a checksum; a resume, which does not name the source, uses the run's index."""
        pictures, _ = begun
        rows = [(path, path.parent.name, path.parent.parent.name) for path in sorted(pictures.rglob("*.png"))]
        manifest = tmp_path / "list.csv"
        manifest.write_text("path,label,split\n" + "".join(f"{path},{a},{b}\n" for path, a, b in rows))
        run = train(manifest, tmp_path / "listed", quiet=True, **(SETTINGS | {"epochs": 1}))
        manifest.write_text(manifest.read_text() + "\n")
        with pytest.raises(RunError, match=r"list\.csv has changed since.*--resume"):
            train(manifest, run, quiet=True, **(SETTINGS | {"epochs": 2}))
        resume(run, epochs=2, quiet=True)


def test_killed_before_the_first_checkpoint_a_new_run_starts(source, finished, tmp_path, monkeypatch):
    """Wherever it was killed; a resume names the command."""
    out = tmp_path / "run"
    for name in ("prepare", "precision_name", "trainable_index"):

        def die(*_, **__):
            raise Killed

        with monkeypatch.context() as patch:
            patch.setattr(start.RunFolder, "discard", lambda run: None)
            patch.setattr(start.setup, name, die)
            with pytest.raises(Killed):
                train(source, out, quiet=True, **SETTINGS)
    with pytest.raises(RunError, match=r"before its first checkpoint.*unsquare train SOURCE --out"):
        resume(out, quiet=True)
    train(source, out, quiet=True, **SETTINGS)
    assert losses(out) == losses(finished)


@pytest.mark.parametrize("instead", ["nothing", "a file", "a link to a disk that is away"])
def test_checkpoints_that_are_away_are_waited_for(source, stopped, finished, instead):
    """A run whose checkpoints cannot be seen is not taken for one that never had any: nothing of it is deleted."""
    checkpoints, away = stopped / "checkpoints", stopped.with_name("away")
    checkpoints.rename(away)
    if instead == "a file":
        checkpoints.write_text("")
    elif instead != "nothing":
        checkpoints.symlink_to(stopped.with_name("disk"))
    names = sorted(os.listdir(stopped))
    with pytest.raises(RunError, match=r"checkpoints (cannot be read \(.*fix that|is empty, though memory\.parquet)"):
        train(source, stopped, quiet=True, **SETTINGS)
    assert sorted(os.listdir(stopped)) == names
    if instead != "nothing":
        checkpoints.unlink()
    away.rename(checkpoints)
    train(source, stopped, quiet=True, **SETTINGS)
    assert losses(stopped) == losses(finished)


def test_an_index_in_the_run_folder_is_no_source_of_a_new_start(source, stopped):
    """What would be deleted before it is read is refused."""
    shutil.rmtree(stopped / "checkpoints")
    (stopped / "memory.parquet").unlink()
    with pytest.raises(RunError, match=r"the source .*index\.parquet is one of them; move it to"):
        train(stopped / "index.parquet", stopped, quiet=True, **SETTINGS)
    assert (stopped / "index.parquet").exists()


def test_before_the_first_step_the_folder_is_left_as_it_was(source, tmp_path):
    """A start that fails leaves nothing, and a run that is there already stays."""
    with pytest.raises(SourceError):
        train(tmp_path / "nothing", tmp_path / "run", quiet=True, **SETTINGS)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError):
        train(source, tmp_path / "run", quiet=True, **(SETTINGS | {"backbone": "nonsense"}))
    assert not (tmp_path / "run").exists()


def test_a_full_disk_advises_what_works(source, finished, tmp_path, monkeypatch):
    """Before the first checkpoint or after, the same command resumes once there is space."""
    out = tmp_path / "run"

    save_file = loop.checkpoint.save_file

    for step in (1, 4):

        def full(tensors, path, name=f".step-{step}."):
            if name in str(path):
                raise OSError(28, "No space left on device")
            save_file(tensors, path)

        with monkeypatch.context() as patch:
            patch.setattr(loop.checkpoint, "save_file", full)
            with pytest.raises(
                RunError, match=r"\(No space left on device\); free space .* give the same command again"
            ):
                train(source, out, quiet=True, **SETTINGS)
    train(source, out, quiet=True, **SETTINGS)
    assert losses(out) == losses(finished)


def test_a_folder_that_is_removed_is_named(source, tmp_path, monkeypatch):
    """Nothing is written to where the run folder was."""
    out = tmp_path / "run"
    save = loop.save

    def remove_after(session, state):
        save(session, state)
        if state.step == 2:
            shutil.rmtree(out)

    monkeypatch.setattr(loop, "save", remove_after)
    with pytest.raises(RunError, match=r"was removed or replaced while its run"):
        train(source, out, quiet=True, **SETTINGS)
    assert not out.exists()


def test_the_time_before_the_first_step_is_written(finished):
    """A row says when a process began to train, and how long it took to come there."""
    row = json.loads((finished / "metrics.jsonl").read_text().splitlines()[0])
    assert (row["kind"], row["step"], row["time_s"]) == ("start", 0, 0.0)
    assert 0 < row["seconds"] < 100


def test_runs_of_an_earlier_release_are_resumed(stopped, finished):
    """A run resumes from a checkpoint without an origin; later checkpoints have one."""
    for path in (stopped / "checkpoints").iterdir():
        state = json.loads((path / "state.json").read_text())
        del state["origin"], state["metrics"]
        (path / "state.json").write_text(json.dumps(state))
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["sha256"]["state.json"] = start.sha256_of(path / "state.json")
        (path / "manifest.json").write_text(json.dumps(manifest))
    resume(stopped, quiet=True)
    assert losses(stopped) == losses(finished)


class TestNothingHeldOut:
    """A run on all pictures, for a final model."""

    def test_the_last_epochs_weights_are_the_result(self, everything):
        """They are those of the last checkpoint; all pictures are trained on, and no accuracy is told."""
        folder, said = everything
        run = folder / "run"
        assert weights(run) == (run / "checkpoints" / f"step-{STEPS}" / "model.safetensors").read_bytes()
        kinds = {json.loads(line)["kind"] for line in (run / "metrics.jsonl").read_text().splitlines()}
        assert kinds == {"start", "step"}
        assert set(ShapeIndex.read(run / "index.parquet").splits) == {"train"}
        assert "All images were trained on, so no accuracy is known" in said
        assert "val loss" not in said
        page = (run / "report.html").read_text()
        assert "the weights are those of the last one, so no accuracy is known." in page
        assert "All images were trained on, so none are left to tell" in page

    def test_it_predicts_and_is_evaluated_with_caution(self, everything):
        """On its own pictures, which it was trained on."""
        folder, _ = everything
        found = evaluate(folder / "run", folder / "pictures", quiet=True)
        assert (found.num_images, found.split) == (12, "all")
        assert found.caution.startswith("The run was trained on all of these 12 images")
        assert found.last_epoch is None
        assert predict(folder / "run", folder / "pictures" / "a" / "0.png")[0].classes

    def test_it_is_finished_continued_and_restored(self, everything, tmp_path):
        """The same command changes nothing; lost weights come back from the checkpoint; more epochs replace them."""
        folder, _ = everything
        run = shutil.copytree(folder / "run", tmp_path / "run")
        before = (run / "metrics.jsonl").read_bytes()
        train(folder / "pictures", run, validation_fraction=0, quiet=True, **SETTINGS)
        assert (run / "metrics.jsonl").read_bytes() == before
        shutil.rmtree(run / "checkpoints" / "best")
        resume(run, quiet=True)
        assert weights(run) == weights(folder / "run")
        resume(run, epochs=3, quiet=True)
        assert weights(run) == (run / "checkpoints" / "step-12" / "model.safetensors").read_bytes()

    def test_splits_of_the_source_stay(self, source, tmp_path, capsys):
        """A val split still chooses the best epoch; without one, test judges the last epoch's weights."""
        settings = SETTINGS | {"epochs": 1, "validation_fraction": 0}
        run = train(source, tmp_path / "with_val", **settings)
        assert "With the weights best on val, 4 test images" in " ".join(capsys.readouterr().err.split())
        shutil.copytree(source, tmp_path / "source", ignore=shutil.ignore_patterns("val"))
        run = train(tmp_path / "source", tmp_path / "without", **settings)
        said = " ".join(capsys.readouterr().err.split())
        assert "With the last epoch's weights, 4 test images" in said
        assert "optimistic" not in said
        assert "the last one, and the test images judge them." in (run / "report.html").read_text()


def test_a_checkpoint_records_its_size(done):
    """The checkpoint stays complete, and nothing else in it changes."""
    best = done / "checkpoints" / "best"
    others = sorted(path.name for path in best.parent.iterdir())
    before = json.loads((best / "state.json").read_text())
    checkpoint.set_size(best, 12_345)
    assert not problem(best)
    assert read_state(best).max_pixels == 12_345
    assert json.loads((best / "state.json").read_text()) == before | {"max_pixels": 12_345}
    assert sorted(path.name for path in best.parent.iterdir()) == others
