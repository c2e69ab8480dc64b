"""Flags, values and files that are wrong: one sentence, a status that is not 0, and nothing left behind."""

import os

import pytest
import torch
from safetensors.torch import save_file

from unsquare.cli import main

FAST = ("--backbone", "test_resnet", "--epochs", "1", "--budget-pixels", "60000", "--min-side", "33")


@pytest.fixture
def refusal(capsys):
    """Runs a command that must be refused; returns what it says."""

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code
        captured = capsys.readouterr()
        assert status in (1, 2)
        assert captured.out == ""
        assert "Traceback" not in captured.err
        if status == 1:
            assert captured.err.startswith("unsquare: ")
            assert captured.err.count("\n") == 1
        return captured.err

    return run


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            "--seed 1180591620717411303424",
            "seed must be at most 9,223,372,036,854,775,807, but is 1180591620717411303424",
        ),
        ("--memory 1e400GiB", "A memory size must be a number and a unit, such as 8GiB"),
        ("--memory nan%", "A memory size must be"),
        ("--memory 200%", "A memory size must be"),
        ("--pyramid 1000000", "pyramid must be at most 64, but is 1000000"),
        ("--pyramid 64 64", "pyramid must list levels that make from 1 to 4,096 bins, but [64, 64] make 8,192"),
        ("--optimizer adahessian", "The optimizer 'adahessian' cannot be used"),
        ("--optimizer adamx", "did you mean adam"),
        ("--epochs 1e30", "epochs must be at most 1,000,000"),
        ("--lr-policy x", "--lr-policy must be one of none, sqrt, linear, but is 'x'"),
        ("--max-pixels nan", "nan"),
        ("--max-pixels 1e400", "1e400"),
        ("--scale inf", "scale must be a finite number above 0 and at most 64, but is inf"),
        ("--clip-norm inf", "--clip-norm must be a finite number"),
        ("--workers 0", "workers must be at least 1"),
        ("--weights nowhere.safetensors", "The weights in 'nowhere.safetensors' cannot be loaded (No such file"),
        ("--backbone resnet19", "did you mean resnet18"),
        ("--backbone mobilevit_xxs", "cannot be made padding-exact"),
        ("--backbone vgg11 --drop-path 0.1", "has no stochastic depth"),
        ("--epoch 3", "There is no flag --epoch here; did you mean --epochs?"),
        ("--epochs", "Argument --epochs: expected one argument"),
    ],
)
def test_a_wrong_setting_is_refused_before_a_folder_is_made(refusal, make_folder, tmp_path, flags, message):
    """Ranges, choices, names and networks are judged first; not even the folders above the run's stay."""
    said = refusal("train", make_folder(num_images=2), "--out", tmp_path / "new" / "run", *FAST, *flags.split())
    assert message in " ".join(said.split())
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[[[", "must be a TOML file, but it is not"),
        (b"\x00\x00", "must be a TOML file, but it is not"),
        (b"[model]\nbackbone = '\xe9'\n", "cannot be read"),
        (b"[optimizer]\nepoch = 3\n", "table optimizer: There is no setting 'epoch' here; did you mean epochs?"),
        (b"[optimiser]\nepochs = 3\n", "has no setting 'optimiser' here; did you mean optimizer?"),
        (b"epochs = 3\n", "has no setting 'epochs' here; the names are task, geometry"),
        (b"optimizer = 3\n", "optimizer must be a table of settings, but is 3"),
        (b"[optimizer]\nepochs = 'many'\n", "epochs must be a whole number from 1 to 1,000,000 or None, but is 'many'"),
        (b"[learning_rate]\nlr = nan\n", "lr must be a finite number above 0"),
        (b"[model]\nweights = 1979-05-27\n", "weights must be a path or None"),
        (b"[model]\npyramid = [[1]]\n", "pyramid must be a list, each item a whole number from 1 to 64"),
    ],
)
def test_a_wrong_settings_file_is_refused(refusal, make_folder, tmp_path, content, message):
    """What is no TOML, names that do not exist, wrong types and ranges: as for flags, with the file's name."""
    path = tmp_path / "settings.toml"
    path.write_bytes(content)
    said = refusal("train", make_folder(num_images=2), "--out", tmp_path / "run", "--config", path)
    assert message in said
    assert str(path) in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("flag", ["--config", "--weights"])
@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nothing", "(No such file or directory); check the path"),
        ("a pipe", "is not a regular file); check the path"),
        ("a folder", "is not a regular file); check the path"),
        ("a device", "is not a regular file); check the path"),
    ],
)
def test_what_is_no_file_is_not_waited_for(refusal, make_folder, tmp_path, flag, what, message):
    """A pipe would wait for its writer, and a device may never end; neither is opened."""
    path = tmp_path / "one.safetensors"
    if what == "a pipe":
        os.mkfifo(path)
    elif what == "a folder":
        path.mkdir()
    elif what == "a device":
        path.symlink_to("/dev/zero")
    said = refusal("train", make_folder(num_images=2), "--out", tmp_path / "run", *FAST, flag, path)
    assert message in said
    assert str(path) in said
    assert "Errno" not in said


@pytest.mark.parametrize("out", ["", "file/run", "a" * 300])
def test_a_run_folder_that_cannot_be(refusal, make_folder, tmp_path, out):
    """No name, a name below a file, and one longer than file systems take."""
    (tmp_path / "file").write_text("")
    said = refusal("train", make_folder(num_images=2), "--out", out and tmp_path / out, *FAST)
    assert "must be a path" in said or "cannot be written" in said


def test_a_tensor_that_does_not_fit_is_named(refusal, make_folder, tmp_path):
    """Its name, its shape and the backbone's."""
    from unsquare.torchvision_guard import import_timm

    weights = import_timm().create_model("test_resnet", num_classes=0).state_dict()
    save_file({**weights, "conv1.0.weight": torch.zeros(3, 3)}, tmp_path / "x.safetensors")
    source = make_folder(num_images=2)
    said = refusal("train", source, "--out", tmp_path / "run", *FAST, "--weights", tmp_path / "x.safetensors")
    assert "'conv1.0.weight'" in said
    assert "the shape (3, 3), but (16, 3, 3, 3) there" in said


@pytest.mark.parametrize(
    "flags", ["--epochs 0", "--epochs 1e30", "--seed -1", "--lr nan", "--memory 1e400GiB", "--backbone resnet19"]
)
def test_the_demo_makes_no_pictures_for_wrong_settings(refusal, tmp_path, flags):
    """Settings come first, pictures after."""
    refusal("demo", "--out", tmp_path / "demo", *flags.split())
    assert not (tmp_path / "demo").exists()


@pytest.mark.parametrize(
    "line",
    [
        *("plan . --epoch -1", "plan . --epoch 1e40", "plan . --world-size 1e12", "plan . --multiple 0"),
        *("plan . --budget-pixels 1e40", "plan .  --seed 1e40", "scan . --workers 1e12", "scan . --workers 0"),
        *("profile resnet18 --canvas 99999999999x1", "profile resnet18 --num-classes 0", "profile resnet19"),
        *(
            "verify-exact test_resnet --tolerance nan",
            "verify-exact test_resnet --images 1",
            "verify-exact test_resnet --seed -1",
        ),
        *("verify-exact test_resnet --max-side 1e9", "predict run x.jpg --workers 0", "evaluate run . --memory 0%"),
    ],
)
def test_numbers_of_every_command_have_bounds(refusal, line, tmp_path, monkeypatch):
    """Each is refused by the same check."""
    monkeypatch.chdir(tmp_path)
    refusal(*line.split())
    assert list(tmp_path.iterdir()) == []
