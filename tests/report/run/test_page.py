"""The page: complete, self-contained, safe, and never without an answer."""

from __future__ import annotations

import base64
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from unsquare.cli import main
from unsquare.errors import RunError
from unsquare.index.table import ShapeIndex
from unsquare.report import write_report
from unsquare.report.run.record import read_record
from unsquare.runs.folder import RunFolder
from unsquare.runs.schemas import Origin
from unsquare.toml import tomllib
from unsquare.training.checkpoint import TrainState, save

HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "$\\frac{1$", "a&b\u202ec", "Öl")
SECTIONS = ("training", "classes", "mistakes", "by-shape", "shapes", "padding", "memory", "machine", "settings")
FILES = (
    "config.toml",
    "index.parquet",
    "models.json",
    "plan.json",
    "metrics.jsonl",
    "memory.parquet",
    "evaluation.parquet",
)


class Elements(HTMLParser):
    """Collects the tags of a page, and checks that they nest."""

    void = ("meta", "img", "source", "br", "link")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """An element ends."""
        assert self._open.pop() == tag


def figures(page: str) -> list[str]:
    """The SVG figures of a page."""
    found = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    return [base64.b64decode(each).decode("utf-8") for each in found]


def test_every_section_is_there_and_linked(page: str) -> None:
    """A complete run has every section, and the navigation leads to each."""
    elements = Elements(page)
    anchors = [attributes["id"] for tag, attributes in elements.tags if tag == "section"]
    links = [attributes["href"] for tag, attributes in elements.tags if tag == "a"]
    assert [anchor for anchor in anchors if anchor in SECTIONS] == list(SECTIONS)
    assert links == [f"#{anchor}" for anchor in anchors]
    assert "missing" not in re.sub(r"<style>.*?</style>", "", page, flags=re.S)


def test_headlines_tell_what_was_reached(page: str) -> None:
    """Accuracy with its interval, overhead, memory against its budget, data wait."""
    tiles = page[: page.index("<nav>")].replace("\u00a0", " ")
    for words in ("resnet18 trained for 150 steps", "79.1 %", "77.9 %", "71 to 85 %", "3.1 %", "6 GiB"):
        assert words in tiles


@pytest.mark.usefixtures("unrendered")
def test_the_best_epoch_is_the_one_whose_weights_were_kept(run: Path) -> None:
    """The highest mean per-class accuracy on val, of equals the lower loss; that of the saved weights, if they are
    there."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["kind"] == "eval":
            row["mean_per_class_accuracy"] = {5: 0.7, 8: 0.7}.get(row["step"], 0.1)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    best = read_record(run).best
    assert best is not None
    assert best.step == 8
    page = write_report(run).read_text(encoding="utf-8")
    assert '<div class="value">8</div><div class="name">best epoch</div>' in page
    _save_checkpoint(run, {}, "best", step=5)
    assert read_record(run).best.step == 5


@pytest.mark.usefixtures("unrendered")
def test_what_shapes_alone_reach_stands_beside_the_accuracy(run: Path) -> None:
    """With the most frequent class; and how it was found is with the shapes."""
    index = ShapeIndex.read(run / "index.parquet")
    index.sizes[:] = 100 + 300 * index.labels[:, None]  # shapes that tell the class
    index.write(run / "index.parquet")
    test, train = index.of_split("test").labels, index.of_split("train").labels
    chance = f"{100 * (test == np.bincount(train).argmax()).mean():.1f} %"
    page = write_report(run).read_text(encoding="utf-8").replace("\u00a0", " ")
    assert '<div class="value">100.0 %</div><div class="name">by shape alone</div>' in page
    assert f"width and height; by the most frequent class {chance}" in page
    assert f"Width and height alone tell the class of 100.0 % of {len(test)} images" in page


@pytest.mark.usefixtures("unrendered")
def test_the_best_of_several_epochs_is_called_optimistic(run: Path) -> None:
    """Where the images that chose the epoch judge it, with the last epoch's accuracy beside it; never on test."""
    assert "optimistic" not in write_report(run).read_text(encoding="utf-8")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    rows[-1]["split"] = "val"
    rows[-2] |= {"accuracy": 0.654, "mean_per_class_accuracy": 0.1}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(run).read_text(encoding="utf-8").replace("\u00a0", " ")
    assert '<div class="name">accuracy, optimistic</div>' in page
    assert '<div class="value">65.4 %</div><div class="name">accuracy, last epoch</div>' in page
    assert "The best of 12 epochs on the same images is optimistic; the last epoch has accuracy 0.654" in page
    assert "not chosen, unlike the best of 12 epochs" in page
    rows[-2]["max_pixels"] = 1000  # below the size of the epochs before
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page = write_report(run).read_text(encoding="utf-8")
    assert "its size of pictures was chosen on the same images" in page
    assert "not chosen, unlike" not in page
    only = [row for row in rows if row["kind"] != "eval"] + [rows[-2]]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in only))
    assert "optimistic" not in write_report(run).read_text(encoding="utf-8")  # one epoch is no choice


def test_the_page_needs_nothing_from_outside(page: str) -> None:
    """No script, no address but those within the page, every image inline."""
    elements = Elements(page)
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in elements.tags}
    assert "http://" not in page
    assert "https://" not in page
    for tag, attributes in elements.tags:
        for name in ("src", "srcset", "href"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/svg+xml;base64,")), tag
    assert "url(" not in page
    assert len(figures(page)) == 8


def test_the_same_run_gives_the_same_page(run: Path) -> None:
    """No clock and no random number reaches the page."""
    first = write_report(run).read_bytes()
    assert write_report(run).read_bytes() == first
    assert not list(run.glob(".*"))


def test_hostile_names_stay_names(write_run: Callable[..., Path], tmp_path: Path) -> None:
    """Class names, keys, problems and settings cannot become markup, and reach the reader as they are."""
    run = write_run(tmp_path / "<b>run", num_images=200, num_steps=8, classes=HOSTILE)
    (run / "config.toml").write_text('[model]\nbackbone = "<script>alert(3)</script>"\n', encoding="utf-8")
    page = write_report(run).read_text(encoding="utf-8")
    tags = [tag for tag, _ in Elements(page).tags]
    assert "script" not in tags
    assert "b" not in tags
    assert all("alert" not in name for tag, attributes in Elements(page).tags for name in attributes)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\u202e" not in page
    assert "a&amp;b\\u202ec" in page
    assert "Öl" in page


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("missing", FILES)
def test_a_missing_file_is_named_not_fatal(run: Path, missing: str) -> None:
    """Without any one of its files a run has a page that says what is not there."""
    (run / missing).unlink()
    page = write_report(run).read_text(encoding="utf-8")
    Elements(page)
    if missing != "models.json":
        assert f"({missing})" in page or "no evaluation.parquet" in page


@pytest.mark.parametrize("kept", FILES[:-1])
def test_a_run_that_just_began_has_a_page(run: Path, kept: str) -> None:
    """Any single file is enough."""
    for name in FILES:
        if name != kept:
            (run / name).unlink()
    Elements(write_report(run).read_text(encoding="utf-8"))


def test_a_single_step_can_be_drawn(run: Path) -> None:
    """One step, no evaluation, one memory sample."""
    first = (run / "metrics.jsonl").read_text().splitlines()[0]
    (run / "metrics.jsonl").write_text(first + "\n")
    memory = pq.read_table(run / "memory.parquet").slice(0, 1)
    pq.write_table(memory, run / "memory.parquet")
    assert "not evaluated yet" in write_report(run).read_text(encoding="utf-8")


@pytest.mark.usefixtures("unrendered")
def test_a_line_cut_short_is_left_out(run: Path) -> None:
    """A run that was killed while writing a row reports the rows before it."""
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole + '{"kind": "step", "st')
    page = write_report(run).read_text(encoding="utf-8")
    assert "trained for 12 steps" in page


@pytest.mark.usefixtures("unrendered")
def test_repeated_steps_count_once(run: Path) -> None:
    """A resumed run that repeats its last steps has each step once."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    (run / "metrics.jsonl").write_text("\n".join(lines + lines[4:]) + "\n")
    assert "trained for 12 steps" in write_report(run).read_text(encoding="utf-8")


@pytest.mark.usefixtures("unrendered")
def test_a_perfect_network_has_no_mistakes(run: Path) -> None:
    """No wrong image is said in words."""
    table = pq.read_table(run / "evaluation.parquet")
    table = table.set_column(table.schema.get_field_index("predicted"), "predicted", table["label"])
    pq.write_table(table, run / "evaluation.parquet")
    assert "No image was classified wrongly." in write_report(run).read_text(encoding="utf-8")


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("num_classes", [2, 60, 61])
def test_the_confusion_matrix_is_bounded(write_run: Callable[..., Path], tmp_path: Path, num_classes: int) -> None:
    """Up to 60 classes have a matrix; more are told by their most frequent confusions."""
    names = [f"class {number:02d}" for number in range(num_classes)]
    run = write_run(tmp_path / "run", num_images=600, num_steps=4, classes=names)
    page = write_report(run).read_text(encoding="utf-8")
    assert ('class="scroll matrix' in page) == (num_classes <= 60)
    assert "Most frequent confusions" in page


@pytest.mark.usefixtures("unrendered")
def test_device_memory_is_preferred(run: Path) -> None:
    """On a GPU the curve is the device's, not the process's."""
    table = pq.read_table(run / "memory.parquet")
    column = pa.array([3 * 2**30] * table.num_rows, pa.int64())
    table = table.set_column(table.schema.get_field_index("reserved_bytes"), "reserved_bytes", column)
    pq.write_table(table, run / "memory.parquet")
    page = write_report(run).read_text(encoding="utf-8").replace("\u00a0", " ")
    assert "Memory on the device" in page
    assert ">3 GiB<" in page


@pytest.mark.usefixtures("unrendered")
def test_images_without_a_split_are_shown(run: Path) -> None:
    """An index that names no splits is one cloud of points."""
    index = ShapeIndex.read(run / "index.parquet")
    index.splits[:] = ""
    index.write(run / "index.parquet")
    assert "resnet18 trained for 12 steps (12 epochs) on 480 images" in write_report(run).read_text("utf-8")


def put(path: Path, content: bytes | str) -> None:
    """Other content in a file's place, or another thing."""
    path.unlink(missing_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("name", "content"),
    [
        *itertools.product((*FILES, "profile.json"), ("folder", "pipe")),
        *itertools.product(
            [name for name in (*FILES, "profile.json") if name != "metrics.jsonl"], (b"{]\n", b"\xff\xfe")
        ),
    ],
)
def test_what_is_whole_is_drawn(run: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes | str) -> None:
    """Whatever one file holds, the others have their sections, and the page and the command say which it is."""
    put(run / name, content)
    assert main(["report", str(run)]) == 1
    out, err = capsys.readouterr()
    assert out.strip() == str(run / "report.html")
    assert re.search(rf"unsquare: .* but {name} of run cannot be read \(.+\); put it back, or move it away\.", err)
    page = (run / "report.html").read_text(encoding="utf-8")
    Elements(page)
    assert f"{name} of run cannot be read (" in page
    assert f"({name}) in this run folder" not in page
    without = {"config.toml": 0, "models.json": 0, "profile.json": 0, "memory.parquet": 2, "index.parquet": 1}
    assert len(figures(page)) >= 8 - without.get(name, 3)


def test_a_run_of_which_nothing_can_be_read_has_a_page(run: Path) -> None:
    """It names each file."""
    for name in FILES:
        put(run / name, "folder")
    with pytest.warns(UserWarning, match="cannot be read"):
        page = write_report(run).read_text(encoding="utf-8")
    Elements(page)
    assert all(f"{name} of run cannot be read (" in page for name in FILES)


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("damaged", ["[", "[geometry]\nscale = -1.0\n", "[geometry]\nscale = [1]\n", "geometry = 3\n"])
def test_the_last_checkpoints_settings_stand_in(run: Path, damaged: str) -> None:
    """Where config.toml cannot be used; shapes are drawn by them, or by none where there is no checkpoint."""
    whole = (run / "config.toml").read_text()
    (run / "config.toml").write_text(damaged)
    with pytest.warns(UserWarning, match=r"config\.toml of run cannot be read"):
        assert "Shapes are those of the files" in write_report(run).read_text(encoding="utf-8")
    _save_checkpoint(run, tomllib.loads(whole.replace("crop_fraction = 1.0", "crop_fraction = 0.5")))
    with pytest.warns(UserWarning, match=r"config\.toml of run cannot be read"):
        page = write_report(run).read_text(encoding="utf-8")
    assert "Shapes are those of the files" not in page
    assert "These are the last checkpoint&#39;s." in page
    assert read_record(run).geometry().crop_fraction == 0.5


def test_a_digit_that_changed_is_told(run: Path) -> None:
    """A plan or a profile that is valid but not what was written is named like any other damage."""
    folder = RunFolder(run)
    folder.write_json(folder.plan, json.loads(folder.plan.read_text()))
    assert not read_record(run).damaged
    folder.plan.write_text(folder.plan.read_text().replace('"num_steps": 9', '"num_steps": 8'))
    assert read_record(run).damaged == {"plan.json": "it has changed since it was written"}


@pytest.mark.usefixtures("unrendered")
def test_rows_that_are_lost_are_told(run: Path) -> None:
    """A page is made of the rows that there are, and says what is not there."""
    lines = (run / "metrics.jsonl").read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:20] + b"\xff" + lines[2][21:]
    (run / "metrics.jsonl").write_bytes(b"".join(lines[:8] + lines[10:]))
    page = write_report(run).read_text(encoding="utf-8")
    assert "1 line is damaged and the rows of" in page


@pytest.mark.usefixtures("unrendered")
def test_settings_that_were_edited_are_told(run: Path) -> None:
    """The page shows the settings that are there, and which of them the run was not trained with."""
    _save_checkpoint(run, tomllib.loads((run / "config.toml").read_text()))
    (run / "config.toml").write_text((run / "config.toml").read_text().replace("resnet18", "resnet50"))
    page = write_report(run).read_text(encoding="utf-8")
    assert "model.backbone was &#39;resnet18&#39; and is &#39;resnet50&#39;" in page


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    """A missing folder and a folder of something else, each in one sentence."""
    with pytest.raises(RunError, match="is not a folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(RunError, match="is not a run folder"):
        write_report(tmp_path)


def test_the_report_needs_no_torch_and_no_pyplot() -> None:
    """A laptop without either can read a run; global plotting state stays untouched."""
    code = (
        "import sys, unsquare.report; assert not {'torch', 'timm', 'matplotlib.pyplot'} & set(sys.modules), "
        "sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def _save_checkpoint(run: Path, settings: dict[str, Any], name: str = "step-12", step: int = 12) -> None:
    """A checkpoint of the run, trained with these settings."""
    model = torch.nn.Linear(1, 1)
    origin = Origin(settings=settings, bounds={}, index_sha256="0" * 64, source="/pictures")
    state = TrainState(step=step, epoch=step, step_of_epoch=0, time_s=1.0)
    save(run / "checkpoints", name, model, torch.optim.SGD(model.parameters(), lr=0.1), state, origin)
