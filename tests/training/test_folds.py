"""Cross-validation: ordinary runs, one for each fold, which the same command continues."""

import shutil

import pytest

from unsquare.api import cross_validate, evaluate, train
from unsquare.cli import main
from unsquare.errors import ConfigError, RunError
from unsquare.index.table import ShapeIndex
from unsquare.training import folds as folds_of_runs
from unsquare.training.config import SavingConfig, TrainConfig

from .conftest import write_noise

SETTINGS = {
    "backbone": "test_resnet",
    "epochs": 2,
    "step_images": 6,
    "budget_pixels": 20_000,
    "precision": "32-true",
    "min_side": 33,
    "workers": 1,
}


class Killed(BaseException):
    """Stands for SIGKILL."""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Noise of two classes without splits, and a test split."""
    return write_noise(tmp_path_factory.mktemp("source") / "pictures", {"train": (5, 5), "test": (2, 2)})


@pytest.fixture(scope="module")
def killed_and_continued(source, tmp_path_factory):
    """Two folds, of which the second was killed before it began, and the figures once the command was repeated."""
    out = tmp_path_factory.mktemp("folds") / "runs"
    with pytest.MonkeyPatch.context() as patch:
        start = folds_of_runs.start.train

        def start_or_die(source, out, *arguments, **settings):
            if out.name == "fold-2":
                raise Killed
            return start(source, out, *arguments, **settings)

        patch.setattr(folds_of_runs.start, "train", start_or_die)
        with pytest.raises(Killed):
            cross_validate(source, out, folds=2, quiet=True, **SETTINGS)
    first = (out / "fold-1" / "metrics.jsonl").read_bytes()
    found = cross_validate(source, out, folds=2, quiet=True, **SETTINGS)
    assert (out / "fold-1" / "metrics.jsonl").read_bytes() == first
    return out, found


def test_every_image_judges_once(killed_and_continued):
    """The val splits of the runs are apart and hold all images but those of test; each run has its report."""
    out, found = killed_and_continued
    indexes = [ShapeIndex.read(out / name / "index.parquet") for name in ("fold-1", "fold-2")]
    held = [set(index.keys[index.splits == "val"]) for index in indexes]
    assert not held[0] & held[1]
    assert held[0] | held[1] == set(indexes[0].keys[indexes[0].splits != "test"])
    assert found.num_images == 10
    assert [row.last.num_images for row in found.folds] == list(map(len, held))
    assert found.test is not None
    for path in ("report.html", "folds.json", "fold-1/report.html", "fold-2/report.html"):
        assert (out / path).is_file()


def test_a_fold_is_a_run_like_any_other(killed_and_continued, source, tmp_path):
    """Trained alone it is the same; it is evaluated on what it held out; other numbers of folds are refused."""
    out, found = killed_and_continued
    alone = train(source, tmp_path / "alone", folds=2, fold=2, quiet=True, **SETTINGS)
    for name in ("checkpoints/best/model.safetensors", "index.parquet"):
        assert (alone / name).read_bytes() == (out / "fold-2" / name).read_bytes()
    judged = evaluate(out / "fold-1", source, split="val", quiet=True)
    assert judged.num_images == found.folds[0].last.num_images
    assert judged.last_epoch["accuracy"] == found.folds[0].last.figures["accuracy"]
    with pytest.raises(RunError, match=r"saving\.folds was 2 and is 3"):
        cross_validate(source, out, TrainConfig(saving=SavingConfig(folds=3)), quiet=True, **SETTINGS)


def test_the_command_prints_all_folds(killed_and_continued, source, tmp_path, capsys):
    """Finished runs stay, and the figures are printed again; the folder of all is no run to resume."""
    out = shutil.copytree(killed_and_continued[0], tmp_path / "runs")
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SETTINGS.items()]
    assert main(["train", str(source), "--out", str(out), "--folds", "2", *flags]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "fold" in lines[1].split()
    found = killed_and_continued[1]
    assert found.last["accuracy"].text("accuracy") in lines[-3]
    assert lines[-2] == f"Each image judged once: {found.num_right} of 10 are right, {found.num_right / 10:.3f}."
    assert lines[-1] == f"The report is {out / 'report.html'}, the figures are in {out / 'folds.json'}."
    assert main(["train", "--resume", str(out)]) == 1
    assert "holds a run for each fold" in capsys.readouterr().err


def test_a_fold_that_there_is_not_is_refused():
    """With how many there are."""
    with pytest.raises(ConfigError, match=r"fold must be one of the folds, but is 3 and there are 2\."):
        SavingConfig(folds=2, fold=3)
    with pytest.raises(ConfigError, match=r"but is 1 and folds is not set"):
        SavingConfig(fold=1)
