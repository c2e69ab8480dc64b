"""What `unsquare scan` says of a source, and what training repeats of it."""

import json
import os
import shutil
import unicodedata

import pytest

from unsquare.cli import main

FAST = (
    *("--backbone", "test_resnet", "--epochs", "1", "--budget-pixels", "60000", "--min-side", "33"),
    *("--precision", "32-true", "--step-images", "6"),
)
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.fixture
def command(capsys):
    """Runs a command in this process; returns status, standard output and standard error."""

    def run(*arguments):
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture
def awkward(make_folder):
    """A source with an empty class, a class that val alone has, a picture in both splits, and more."""
    root = make_folder(splits=("train", "val"), num_images=3)
    shutil.copytree(root / "val/dog", root / "val/owl")
    shutil.rmtree(root / "val/dog")
    shutil.copy(root / "train/cat/0.jpg", root / "val/cat/copy.jpg")
    (root / "train/owl").mkdir()
    (root / "self").symlink_to("self")
    (root / "train/cat/._0.jpg").write_bytes(b"\x00\x05\x16\x07")
    return root


def test_classes_and_remarks_are_printed(command, awkward, tmp_path):
    """A table of the classes by split, then a line for each remark, then the totals."""
    status, out, _ = command("scan", awkward, "--out", tmp_path / "i.parquet")
    lines = [line.split() for line in out.splitlines()]
    assert status == 0
    for row in (["class", "train", "val"], ["cat", "3", "4"], ["dog", "3", "0"], ["owl", "0", "3"]):
        assert row in lines
    for words in ("'train/owl'", "never learned: 'owl'", "'train/cat/0.jpg = val/cat/copy.jpg'", "'self'", "._0.jpg"):
        assert any(line.startswith("remark: ") and words in line for line in out.splitlines()), words
    assert "problems: 0, remarks: 6." in out


def test_programs_get_the_same_by_kind(command, awkward, tmp_path):
    """--json has the classes by split, and each remark with its kind, count and names."""
    values = json.loads(command("scan", awkward, "--out", tmp_path / "i.parquet", "--json")[1])
    assert values["class_splits"]["owl"] == {"train": 0, "val": 3}
    remarks = {remark["kind"]: remark for remark in values["remarks"]}
    assert set(remarks) == {
        "hidden",
        "lost_link",
        "empty_folder",
        "only_in_val",
        "not_in_val",
        "in_two_splits",
    }
    assert remarks["empty_folder"]["names"] == ["train/owl"]
    assert [remarks[kind]["important"] for kind in ("hidden", "only_in_val")] == [False, True]


def test_names_that_are_not_utf8_are_valid_json(command, make_folder, tmp_path):
    """Standard output is UTF-8 and JSON to every reader, whatever bytes the names have."""
    root = make_folder(num_images=1)
    os.rename(root / "dog/0.jpg", os.fsencode(root) + b"/dog/\xe9.jpg")
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.parquet")
    status, out, _ = command("scan", root, "--out", odd, "--json")
    assert status == 0
    out.encode("utf-8")
    values = json.loads(out)
    assert values["problems"][0]["path"] == "dog/\\udce9.jpg"
    assert values["index"].endswith("caf\\udce9.parquet")


def test_names_cannot_write_on_the_screen(command, make_folder, tmp_path):
    """Line breaks, escapes and markup in names are spelled out."""
    root = make_folder(("cat\nfake: 9 images", "\x1b[31mred", "[bold]b"), num_images=1)
    (root / "[bold]b/bad\n.jpg").write_bytes(b"")
    _, out, _ = command("scan", root, "--out", tmp_path / "i.parquet")
    assert "\x1b" not in out
    assert "cat\\nfake: 9 images" in out
    assert "[bold]b/bad\\n.jpg is empty" in out


def test_a_folder_is_no_index_and_is_not_to_be_deleted(command, make_folder):
    """Nobody is told to delete the pictures."""
    root = make_folder()
    status, _, err = command("scan", root, "--out", root)
    assert status == 1
    assert "a file such as photos.parquet, but" in err


def test_a_damaged_index_does_not_lock_the_user_out(command, make_folder, tmp_path):
    """What stands in the way of --out is not replaced, and the sentence says what to do."""
    (tmp_path / "i.parquet").write_text("no index")
    status, _, err = command("scan", make_folder(), "--out", tmp_path / "i.parquet")
    assert status == 1
    assert "is no index that can be updated; name another file with --out, or delete it if it is an old index" in err
    assert (tmp_path / "i.parquet").read_text() == "no index"


def test_training_says_what_matters_before_it_starts(command, awkward, tmp_path):
    """The important remarks stand before the run's own first line, also from an index made before."""
    assert command("scan", awkward, "--out", tmp_path / "i.parquet")[0] == 0
    status, _, err = command("train", tmp_path / "i.parquet", "--out", tmp_path / "run", *FAST)
    assert status == 0, err
    before = err[: err.index(" on cpu, ")]
    for words in ("'train/owl'", "never learned: 'owl'", "1 image of val in train as well", "broken link: 'self'"):
        assert words in before, words
    assert "._0.jpg" not in err


def test_a_run_knows_its_classes_in_every_unicode_form(command, make_folder, tmp_path):
    """Trained on composed names, evaluated on decomposed ones; a picture whose name is not UTF-8 is answered."""
    run = tmp_path / "run"
    status, _, err = command("train", make_folder(("cat", NFC)), "--out", run, *FAST)
    assert status == 0, err
    other = make_folder(("cat", NFD), name="other")
    status, out, err = command("evaluate", run, other, "--json", "--budget-pixels", "60000")
    assert status == 0, err
    assert json.loads(out)["num_images"] == 8
    odd = os.fsdecode(os.fsencode(other) + b"/\xe9.jpg")
    shutil.copy(other / "cat/0.jpg", odd)
    status, out, err = command("predict", run, odd, "--json", "--budget-pixels", "60000")
    assert status == 0, err
    out.encode("utf-8")
    assert json.loads(out)["predictions"][0]["path"].endswith("/\\udce9.jpg")


def test_a_run_folder_that_is_not_utf8_is_refused_at_the_start(command, make_folder, tmp_path):
    """Tensors cannot be stored under such a name, so nothing is trained for it."""
    odd = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    status, _, err = command("train", make_folder(), "--out", odd, *FAST)
    assert status == 1
    assert "must be UTF-8" in err
    assert not os.path.exists(odd)


def test_labels_and_numbers_are_shown_as_such(command, make_folder, tmp_path):
    """A table of labels with how many images have each; of numbers their range; both with the task in --json."""
    root = make_folder(("x",), num_images=3)
    lines = ["path,label,age", "x/0.jpg,a;b,3", "x/1.jpg,b,40", "x/2.jpg,;,7.5"]
    (root / "list.csv").write_text("\n".join(lines))
    index = ("--out", tmp_path / "i.parquet")
    _, out, _ = command("scan", root / "list.csv", "--task", "multilabel", *index)
    rows = [line.split() for line in out.splitlines()]
    assert ["b", "2"] in rows
    assert "3 images (3 without split) with 2 labels," in out
    _, out, _ = command("scan", root / "list.csv", *index, "--task", "regression", "--label-columns", "age")
    assert "with the number 'age' from 3 to 40," in out
    _, out, _ = command("scan", root / "list.csv", *index, "--task", "multilabel", "--json")
    values = json.loads(out)
    assert (values["task"], values["classes"]) == ("multilabel", {"a": 1, "b": 2})


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            ("--task", "multi"),
            "must be one of classification, multilabel, regression, but is 'multi'; did you mean multilabel?",
        ),
        (("--task", "regression", "--sampling", "balanced"), "the task regression has none; leave --sampling out"),
        (("--label-columns", "a", "b"), "Several label_columns are for the task multilabel"),
        (("--task", "regression"), "A regression needs a number for each image, but 4 of 4 have none"),
    ],
)
def test_tasks_that_do_not_fit_are_refused_before_anything_is_written(command, make_folder, tmp_path, flags, words):
    """One sentence, and no run folder."""
    status, _, err = command("train", make_folder(num_images=2), "--out", tmp_path / "run", *FAST, *flags)
    assert status != 0
    assert words in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
