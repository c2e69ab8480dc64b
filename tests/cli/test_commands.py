"""The commands as a user meets them: results on standard output, mistakes in one sentence, never a traceback."""

import json
import shutil
from dataclasses import asdict

import numpy as np
import pytest
from PIL import Image

from unsquare.cli import main
from unsquare.memory.cache import remember_limits
from unsquare.network.config import DeviceConfig
from unsquare.plan.config import Limits

FAST = (
    *("--backbone", "test_resnet", "--epochs", "1", "--budget-pixels", "60000", "--min-side", "33"),
    *("--precision", "32-true", "--step-images", "6"),
)


@pytest.fixture
def command(capsys):
    """Runs a command in this process; returns status, standard output and standard error."""

    def run(*arguments):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:
            status = stop.code or 0
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small run, its pictures beside it."""
    from unsquare.demo.materials import MaterialsConfig, make_materials

    folder = tmp_path_factory.mktemp("trained")
    make_materials(folder / "pictures", MaterialsConfig(num_train=24, num_val=6, num_test=6, mean_pixels=6_000))
    assert main(["train", str(folder / "pictures"), "--out", str(folder / "run"), "--min-scale", "1", *FAST]) == 0
    return folder


def refused(result, *parts, expected=1):
    """A refusal: its status, nothing on standard output, one line without traceback that has these parts."""
    status, out, err = result
    assert status == expected
    assert out == ""
    assert "Traceback" not in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("unsquare: ")
    for part in parts:
        assert part in last


@pytest.mark.parametrize("name", ["demo", "scan", "plan", "train", "evaluate", "predict", "profile", "report"])
def test_help_ends_with_an_example(command, name):
    """Each command explains its settings, and the last line can be run."""
    status, out, _ = command(name, "--help")
    assert status == 0
    assert out.rstrip().splitlines()[-1].strip().startswith(f"unsquare {name}")


def test_a_typo_is_recognised(command):
    """A command that does not exist is answered with the one that was meant."""
    refused(command("trian"), "'trian'", "did you mean train?", expected=2)


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("train", "needs a source and a run folder, as in `unsquare train photos --out"),
        ("train pictures", "needs a source and a run folder"),
        ("train --out run", "needs a source and a run folder"),
        ("predict run", "needs one or more images, as in `unsquare predict"),
        ("verify-exact", "needs one or more networks, as in `unsquare verify-exact"),
        ("plan . --limits-of run --budget-pixels 9", "got both; leave one out"),
    ],
)
def test_an_incomplete_command_ends_with_two(command, line, part):
    """As flags that do not exist do, so that a script can tell a wrong call from a wrong picture."""
    refused(command(*line.split()), part, expected=2)
    assert command("scan", "--nonsense")[0] == command("evaluate")[0] == command("report")[0] == 2


def test_scan_prints_one_json_object_and_reads_only_what_changed(command, make_folder, tmp_path):
    """Scanning twice reads nothing the second time; a new file is read alone; bad files are listed with reasons."""
    folder = make_folder(num_images=3)
    (folder / "cat" / "empty.jpg").write_bytes(b"")
    out = tmp_path / "index.parquet"
    first = json.loads(command("scan", folder, "--out", out, "--json")[1])
    assert first["num_images"] == 6
    assert first["classes"] == {"cat": 3, "dog": 3}
    assert first["problems"] == [{"path": "cat/empty.jpg", "reason": "is empty"}]
    again = json.loads(command("scan", folder, "--out", out, "--json")[1])
    assert (again["num_read"], again["num_reused"]) == (0, 7)
    Image.new("RGB", (40, 50)).save(folder / "dog" / "new.png")
    third = json.loads(command("scan", folder, "--out", out, "--json")[1])
    assert (third["num_read"], third["num_images"]) == (1, 7)


def test_an_index_of_another_source_is_not_overwritten(command, make_folder, tmp_path):
    """An index file is never replaced by that of another folder."""
    out = tmp_path / "index.parquet"
    command("scan", make_folder(name="one"), "--out", out)
    before = out.read_bytes()
    refused(command("scan", make_folder(name="two"), "--out", out), "another source", "--out")
    assert out.read_bytes() == before


@pytest.mark.parametrize("steps", ["mixed", "b2b"])
def test_plan_prints_its_ledger(command, make_folder, steps):
    """The ledger's numbers agree with each other, as one JSON object, and numbers may be written as 2e3."""
    arguments = ("plan", make_folder(num_images=20), "--steps", steps, "--budget-pixels", "8e3", "--buckets", "4")
    status, out, err = command(*arguments, "--step-images", "10", "--launch-pixels", "300", "--json")
    assert status == 0, err
    values = json.loads(out)
    assert values["num_images"] == 40
    assert values["computed_pixels"] / values["real_pixels"] - 1 == pytest.approx(values["padding_overhead"])
    assert values["max_micro_batch_pixels"] <= 8000
    assert values["num_steps"] <= values["num_micro_batches"]
    assert values["num_canvases"] >= 1
    status, text, _ = command(*arguments)
    assert status == 0
    assert "padding overhead" in text


def test_maximal_use_of_mame(command, shared_data):
    """MAMe at 16 MP within 64 MP pads at most 5 % in mixed steps and at most 12 % in 64 buckets."""
    base = ("plan", shared_data / "mame" / "MAMe_dataset.csv", "--split", "train", "--json")
    base += ("--max-pixels", "16e6", "--budget-pixels", "64e6")
    for arguments, bound in (
        (("--steps", "mixed", "--step-images", "256"), 0.05),
        (("--steps", "b2b", "--buckets", "64"), 0.12),
        (("--steps", "b2b", "--buckets", "64", "--boundaries", "iterative"), 0.12),
    ):
        values = json.loads(command(*base, *arguments)[1])
        assert values["num_images"] == 20300
        assert values["padding_overhead"] <= bound
        assert values["max_micro_batch_pixels"] <= 64e6


def test_a_run_can_be_evaluated_and_asked(command, trained):
    """Evaluation repeats the run's own final figures; prediction names known classes and sums to at most one."""
    rows = [json.loads(line) for line in (trained / "run" / "metrics.jsonl").read_text().splitlines()]
    pinned = ("--budget-pixels", "60000", "--precision", "32-true")
    status, out, err = command("evaluate", trained / "run", trained / "pictures", "--json", *pinned)
    assert status == 0, err
    values = json.loads(out)
    assert values["num_images"] == 6
    for name in ("accuracy", "mean_per_class_accuracy"):
        assert values[name] == rows[-1][name]
    assert values["loss"] == pytest.approx(rows[-1]["loss"], rel=1e-5)
    assert (values["split"], values["optimistic"], values["caution"], values["files"]) == ("test", False, "", [])
    assert sum(each["num_images"] for each in values["per_class"]) == 6
    picture = next((trained / "pictures" / "test").rglob("*.jpg"))
    status, out, _ = command("predict", trained / "run", picture, "--top", "2", "--json", *pinned)
    assert status == 0
    top = json.loads(out)["predictions"][0]["top"]
    assert [len(top), sum(each["probability"] for each in top) <= 1 + 1e-9] == [2, True]
    status, out, _ = command("report", trained / "run")
    assert status == 0
    assert out.strip().endswith("report.html")


def test_an_evaluation_names_its_split_its_classes_and_its_files(command, trained, tmp_path):
    """Pictures that were trained on are called that; with --out three tables are written."""
    pinned = ("--budget-pixels", "60000", "--precision", "32-true", "--out", tmp_path / "results")
    status, out, err = command("evaluate", trained / "run", trained / "pictures", "--split", "train", *pinned)
    assert status == 0, err
    lines = out.splitlines()
    assert lines[0].split() == ["class", "images", "accuracy", "precision", "F1"]
    assert lines[-3].startswith("24 train images: accuracy 0.")
    assert lines[-2].startswith("The run was trained on all of these 24 images, so the figures say little")
    assert lines[-1] == f"predictions.csv, confusion.csv, per_class.csv are in {tmp_path / 'results'}."
    rows = (tmp_path / "results" / "predictions.csv").read_text().splitlines()[1:]
    assert len(rows) == 24
    right = sum(row.split(",")[4] == "yes" for row in rows)
    assert lines[-3].split()[4].rstrip(",") == f"{right / 24:.4f}"


def test_a_run_is_profiled_into_its_report(command, trained):
    """The canvas is the run's, standard output is one object, and the report shows the sweep."""
    status, out, err = command("profile", trained / "run", "--memory", "880MiB", "--canvas", "384x512", "--json")
    assert status == 0, err
    values = json.loads(out)
    assert values["sweep"]["canvas"] == [384, 512]
    assert values["sweep"]["largest_images"] >= 4
    written = json.loads((trained / "run" / "profile.json").read_text())
    assert written.pop("crc32")
    assert written == values
    assert 'id="sweep"' in (trained / "run" / "report.html").read_text()


def test_two_plans_are_compared(command, trained, tmp_path):
    """Side by side, with a page; a folder that is no run is named."""
    page = tmp_path / "comparison.html"
    status, out, _ = command("profile", trained / "run", "--against", trained / "run", "--out", page)
    assert status == 0
    assert "micro-batches" in out
    assert page.is_file()
    refused(command("profile", trained / "run", "--against", tmp_path), "config.toml")


def test_plans_take_the_limits_that_a_run_measured(command, trained, tmp_path):
    """The run's budget is the plan's; where there is no plan, the message says so."""
    status, out, _ = command("plan", trained / "pictures", "--min-side", "33", "--limits-of", trained / "run", "--json")
    assert status == 0
    assert json.loads(out)["max_micro_batch_pixels"] <= 60_000
    refused(command("plan", trained / "pictures", "--limits-of", tmp_path), "has none; give the folder")
    refused(
        command("plan", trained / "pictures", "--limits-of", trained / "run", "--budget-pixels", "9e6"),
        "got both",
        expected=2,
    )


def test_names_that_a_terminal_would_obey_are_spelled_out(command, trained, tmp_path):
    """Good and bad files: no control character comes out, the rest is answered, and the status tells of the bad."""
    picture = next((trained / "pictures" / "test").rglob("*.jpg"))
    good, bad = tmp_path / "a\x1b]0;b\x07\nc\u202e,'\"d.jpg", tmp_path / "e\x1b[2J.jpg"
    shutil.copy(picture, good)
    bad.write_text("no picture")
    pinned = ("--budget-pixels", "60000")
    status, out, err = command("predict", trained / "run", good, bad, *pinned)
    assert status == 1
    assert out.splitlines()[0] == str(tmp_path / r"a\x1b]0;b\x07\nc\u202e,'") + '"d.jpg'
    assert all(line.isprintable() for line in (out + err).splitlines())
    status, out, _ = command("predict", trained / "run", good, bad, good, "--json", *pinned)
    values = json.loads(out)
    assert status == 1
    assert [each["path"] for each in values["predictions"]] == [str(good)] * 2
    assert [each["path"] for each in values["problems"]] == [str(bad)]
    refused(command("predict", f"{tmp_path}/\x1b[31mrun", good), r"\x1b[31mrun")


def test_a_folder_is_asked_about_whole(command, trained):
    """Every picture below it is answered, with status 0."""
    status, out, _ = command("predict", trained / "run", trained / "pictures", "--json", "--budget-pixels", "60000")
    assert status == 0
    assert len(json.loads(out)["predictions"]) == 36


def limits_of(command, *arguments):
    """Limits and whose they are, as JSON says them; the text and the page say the same."""
    status, out, err = command("plan", *arguments, "--json")
    assert status == 0, err
    values = json.loads(out)
    text = " ".join(command("plan", *arguments)[1].split())
    assert f"{values['limits']['launch_pixels']:,}" in text
    return values, text


def test_a_plan_says_whose_limits_it_assumes(command, make_folder, tmp_path, monkeypatch):
    """An accelerator's where nothing was measured; else those measured here last, unless flags say otherwise."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "500")
    folder = make_folder(num_images=8)
    values, text = limits_of(command, folder)
    assert values["limits"]["launch_pixels"] == 1_000_000
    assert "typical of an accelerator, since nothing was measured here" in text
    old = Limits(budget_pixels=7_000_000, launch_pixels=1 << 10)
    new = Limits(budget_pixels=5_000_000, launch_pixels=1 << 14, pixels_per_s=123_456)
    for backbone, limits in (("resnet18", old), ("resnet10t", new)):
        remember_limits(backbone, "32-true", "cpu: Some CPU", asdict(limits))
    values, text = limits_of(command, folder)
    assert values["limits"]["budget_pixels"] == 5_000_000
    assert values["limits"]["launch_pixels"] == 1 << 14
    assert "as measured here on 20" in values["limits_source"]
    assert "with resnet10t in 32-true on cpu: Some CPU" in text
    page = tmp_path / "plan.html"
    assert command("plan", folder, "--html", page)[0] == 0
    assert "with resnet10t in 32-true on cpu: Some CPU" in page.read_text()
    values, _ = limits_of(command, folder, "--launch-pixels", "77")
    assert (values["limits"]["budget_pixels"], values["limits"]["launch_pixels"]) == (5_000_000, 77)
    assert "launch cost as given" in values["limits_source"]
    values, _ = limits_of(command, folder, "--budget-pixels", "9000")
    assert values["limits"]["launch_pixels"] == DeviceConfig().launch_pixels
    assert f"--launch-pixels {1 << 14} was measured here" in values["limits_source"]
    values, _ = limits_of(command, folder, "--budget-pixels", "9000", "--launch-pixels", "5", "--world-size", "2")
    assert [values["limits"][name] for name in ("budget_pixels", "launch_pixels", "world_size")] == [9000, 5, 2]
    assert values["limits_source"] == "as given"


@pytest.mark.parametrize("content", ["", "[]", "null", "3", '{"version": 1, "key": 1, "value": {"time_s": 1.0}}'])
def test_damaged_measurements_are_none(command, make_folder, tmp_path, monkeypatch, content):
    """A file in the cache that is no measurement changes nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    limits = tmp_path / "cache" / "unsquare" / "limits"
    limits.mkdir(parents=True)
    (limits / "a.json").write_text(content)
    assert "nothing was measured" in limits_of(command, make_folder(num_images=4))[0]["limits_source"]


def test_limits_that_do_not_hold_the_largest_picture_are_not_assumed(command, make_folder, tmp_path, monkeypatch):
    """Training would measure on, so a plan is made for an accelerator, and says why."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    remember_limits("resnet18", "32-true", "cpu: Some CPU", asdict(Limits(budget_pixels=300)))
    source = limits_of(command, make_folder(num_images=4))[0]["limits_source"]
    assert "typical of an accelerator, since the largest picture exceeds the 300 pixels measured here" in source


def test_a_plan_with_the_flags_of_a_run_is_the_runs(command, trained, tmp_path):
    """With --budget-pixels alone the padding that is shown is what the run has."""
    flags = ("--budget-pixels", "60000", "--min-side", "33", "--step-images", "6")
    values, _ = limits_of(command, trained / "pictures", *flags)
    written = json.loads((trained / "run" / "plan.json").read_text())
    assert values["padding_overhead"] == written["ledger"]["padding_overhead"]
    assert values["limits"]["launch_pixels"] == written["limits"]["launch_pixels"]


@pytest.mark.parametrize("canvas", ["0x5", "5", "axb"])
def test_a_canvas_is_two_numbers(command, canvas):
    """What is no canvas is quoted back."""
    refused(command("profile", "resnet18", "--canvas", canvas), canvas)


def test_prediction_goes_on_past_a_bad_file(command, trained, tmp_path):
    """Files that are no picture, too small or damaged inside are named with status 1; the others are answered."""
    bad = tmp_path / "bad.jpg"
    bad.write_text("<html>not a picture</html>")
    picture = next((trained / "pictures" / "test").rglob("*.jpg"))
    cut = tmp_path / "cut.jpg"
    content = picture.read_bytes()
    cut.write_bytes(content[: len(content) // 2] + content[-2:])
    status, out, err = command(
        "predict", trained / "run", bad, picture, cut, picture, "--json", "--budget-pixels", "9e4"
    )
    assert status == 1
    values = json.loads(out)
    assert [each["path"] for each in values["predictions"]] == [str(picture)] * 2
    assert {problem["path"] for problem in values["problems"]} == {str(bad), str(cut)}
    assert "HTML" in err


def test_pictures_of_other_classes_are_refused(command, trained, make_folder):
    """A source with a class that the run does not know says which."""
    refused(
        command("evaluate", trained / "run", make_folder(), "--budget-pixels", "60000"), "'cat' is not one of the run's"
    )


def test_settings_come_from_a_file_and_flags_win(command, trained, tmp_path):
    """A run's own config.toml starts another run; a flag beside it changes that one setting."""
    status, _, err = command(
        *("train", trained / "pictures", "--out", tmp_path / "run"),
        *("--config", trained / "run" / "config.toml", "--lr", "0.0005"),
    )
    assert status == 0, err
    text = (tmp_path / "run" / "config.toml").read_text()
    assert "lr = 0.0005" in text
    assert 'backbone = "test_resnet"' in text


class TestBadInput:
    """Each mistake is one sentence, exits with 1, and leaves no run folder behind."""

    def check(self, command, source, out, *parts, extra=()):
        """Training on the source is refused with these parts, and `out` does not exist afterwards."""
        refused(command("train", source, "--out", out, *FAST, *extra), *parts)
        assert not out.exists()

    def test_no_images(self, command, tmp_path):
        """An empty folder holds no images."""
        (tmp_path / "empty").mkdir()
        self.check(command, tmp_path / "empty", tmp_path / "run", "o images")

    def test_no_source(self, command, tmp_path):
        """A source that does not exist."""
        self.check(command, tmp_path / "nowhere", tmp_path / "run", "does not exist")

    def test_one_class(self, command, make_folder, tmp_path):
        """A single class cannot be told apart from anything."""
        self.check(command, make_folder(("cat",)), tmp_path / "run", "at least two classes", "'cat'")

    def test_label_missing(self, command, make_folder, tmp_path):
        """A manifest with an empty label names the row."""
        folder = make_folder(num_images=2)
        manifest = folder / "manifest.csv"
        manifest.write_text("path,label\ncat/0.jpg,cat\ncat/1.jpg,\ndog/0.jpg,dog\n")
        self.check(command, manifest, tmp_path / "run", "no label", "cat/1.jpg")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"", "is empty"), (b"<html></html>", "HTML"), (None, "cut short")],
        ids=["zero-byte", "wrong-content", "truncated"],
    )
    def test_bad_files(self, command, make_folder, tmp_path, content, reason):
        """A file that cannot be read stops the start with its name and reason; --skip-bad reports the count."""
        folder = make_folder(num_images=6)
        bad = folder / "cat" / "0.jpg"
        bad.write_bytes(bad.read_bytes()[:-80] if content is None else content)
        self.check(command, folder, tmp_path / "run", "cat/0.jpg", reason, "--skip-bad")
        status, _, err = command("train", folder, "--out", tmp_path / "run", *FAST, "--skip-bad")
        assert status == 0, err
        assert "Left out 1 file" in err

    def test_a_wrong_extension_is_no_mistake(self, command, make_folder, tmp_path):
        """A PNG that is called JPEG is read by its content."""
        folder = make_folder(num_images=6)
        shutil.move(str(folder / "cat" / "0.jpg"), tmp_path / "x.jpg")
        Image.open(tmp_path / "x.jpg").save(tmp_path / "x.png")
        shutil.move(tmp_path / "x.png", folder / "cat" / "0.jpg")
        assert command("train", folder, "--out", tmp_path / "run", *FAST)[0] == 0

    def test_a_bomb(self, command, make_folder, tmp_path):
        """A small file that claims a huge picture is a problem before any memory is taken for it."""
        folder = make_folder(num_images=2)
        Image.fromarray(np.zeros((9000, 9000), dtype=np.uint8)).save(folder / "cat" / "bomb.png", optimize=True)
        self.check(command, folder, tmp_path / "run", "bomb.png", "--skip-bad")

    def test_smaller_than_the_stride(self, command, make_folder, tmp_path):
        """A picture smaller than the network's stride leaves it no region; --min-side is the way out."""
        extra = ("--min-side", "0")
        self.check(command, make_folder(), tmp_path / "run", "stride of 32", "--min-side 33", extra=extra)

    def test_a_test_picture_that_cannot_be_judged(self, command, make_folder, tmp_path):
        """A picture of the test split that is too small stops the start, not the end."""
        folder = make_folder(num_images=3, splits=("train", "val", "test"))
        for path in (folder / "train").rglob("*.jpg"):
            Image.new("RGB", (50, 60)).save(path)
        for path in (folder / "val").rglob("*.jpg"):
            Image.new("RGB", (50, 60)).save(path)
        Image.new("RGB", (7, 60)).save(folder / "test" / "dog" / "narrow.png")
        extra = ("--min-side", "0", "--scale", "2")
        self.check(command, folder, tmp_path / "run", "narrow.png", "stride of 32", extra=extra)

    def test_a_single_pixel_of_batch_norm(self, command, make_folder, tmp_path):
        """Pictures that leave batch norm one pixel are refused, with the side that is enough."""
        folder = make_folder(num_images=3)
        for path in folder.rglob("*.jpg"):
            Image.new("RGB", (40, 40)).save(path)
        extra = ("--min-side", "32", "--max-pixels", "1024")
        self.check(command, folder, tmp_path / "run", "--min-side 33", extra=extra)

    def test_no_val_split_can_be_drawn(self, command, make_folder, tmp_path):
        """One picture for each class leaves none to hold out."""
        self.check(command, make_folder(num_images=1), tmp_path / "run", "none in val")

    def test_a_loss_that_is_no_number(self, command, make_folder, tmp_path):
        """A learning rate that blows the loss up ends the run with a sentence; NaN is no learning rate."""
        folder = make_folder(num_images=4)
        self.check(command, folder, tmp_path / "run", "lr must be a finite number above 0", extra=("--lr", "nan"))

    @pytest.mark.parametrize("content", [b"", b"PAR1 not really"])
    def test_a_broken_parquet(self, command, tmp_path, content):
        """A file that is called Parquet and is none."""
        source = tmp_path / "manifest.parquet"
        source.write_bytes(content)
        self.check(command, source, tmp_path / "run", "cannot be read as a Parquet file")

    def test_larger_than_the_budget(self, command, make_folder, tmp_path):
        """A picture that exceeds the budget alone is named with its size."""
        folder = make_folder(num_images=2)
        Image.new("RGB", (400, 300)).save(folder / "cat" / "large.jpg")
        self.check(command, folder, tmp_path / "run", "large.jpg", "300 x 400", "--max-pixels 60000")

    def test_unknown_backbone(self, command, make_folder, tmp_path):
        """A backbone that timm does not have is answered with close names."""
        self.check(command, make_folder(), tmp_path / "run", "'resnet19'", "resnet18", extra=("--backbone", "resnet19"))

    def test_a_backbone_that_cannot_be_exact(self, command, make_folder, tmp_path):
        """A backbone outside what can be made exact is refused by the module's name."""
        extra = ("--backbone", "mobilevit_xxs")
        self.check(command, make_folder(), tmp_path / "run", "MobileVitBlock", extra=extra)

    def test_unwritable_run_folder(self, command, make_folder, tmp_path):
        """A run folder below a file cannot be made."""
        (tmp_path / "file").write_text("")
        refused(command("train", make_folder(), "--out", tmp_path / "file" / "run", *FAST), "cannot be written")

    def test_run_folder_not_empty(self, command, trained, make_folder):
        """Neither a run nor other files are ever written over; the message names what is there."""
        refused(command("train", make_folder(), "--out", trained / "run", *FAST), "trains on", "--out")
        refused(command("train", make_folder(), "--out", trained, *FAST), "must be empty", "'pictures'")

    def test_run_folder_in_use(self, command, trained):
        """Two processes cannot train into one folder."""
        from unsquare.runs.folder import RunFolder

        other = RunFolder(trained / "run")
        other.lock()
        try:
            refused(command("train", "--resume", trained / "run"), "Another process is training")
        finally:
            other.unlock()

    def test_no_run(self, command, tmp_path):
        """A folder without a run is no run."""
        for name in ("evaluate", "predict"):
            refused(command(name, tmp_path, tmp_path / "x.jpg"), "config.toml")

    def test_too_little_memory(self, command, make_folder, tmp_path):
        """A budget below what the process takes says how much that is."""
        arguments = ("--memory", "100MiB", "--backbone", "test_resnet", "--min-side", "33")
        refused(command("train", make_folder(), "--out", tmp_path / "run", *arguments), "alone take", "--memory")

    def test_too_much_memory(self, command, make_folder, tmp_path):
        """A budget above what there is says what there is."""
        arguments = ("--memory", "4000GiB", "--backbone", "test_resnet", "--min-side", "32")
        refused(
            command("train", make_folder(), "--out", tmp_path / "run", *arguments),
            "is available on this machine",
            "--memory",
        )

    def test_settings_out_of_range(self, command, make_folder, tmp_path):
        """A value that a setting may not have is refused by the setting's name."""
        self.check(command, make_folder(), tmp_path / "run", "epochs must be at least 1", extra=("--epochs", "0"))
