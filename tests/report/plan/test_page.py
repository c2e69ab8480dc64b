"""The page on a plan: true to the ledger, safe, complete, and never without an answer."""

import base64
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from unsquare.cli import main
from unsquare.errors import PlanError
from unsquare.plan import Limits, PlanConfig, ledger, plan_epoch
from unsquare.plan.analysis.policies import PolicyFigures
from unsquare.plan.analysis.table import PlanTable
from unsquare.report.plan import facts as plan_facts
from unsquare.report.plan import page as plan_page
from unsquare.report.plan.page import PlanView, render_plan_page, write_plan_page

LIMITS = Limits(budget_pixels=200_000, launch_pixels=2_000)
HOSTILE = ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "a&b\u202ec")


def view_of(sizes, labels=None, classes=(), config=None, limits=LIMITS, turns=False, **more):
    """What the page is made from, for these shapes."""
    config = config or PlanConfig(step_images=16, buckets=4)
    sizes = np.asarray(sizes, dtype=np.int64)
    labels = None if labels is None else np.asarray(labels, dtype=np.int64)
    plan = plan_epoch(sizes, config, limits, 0, turns=turns)
    table = PlanTable.of_plan(plan)
    figures = ledger(plan, config, limits, labels, len(classes), table=table)
    return PlanView(
        name="pictures",
        plan=plan,
        table=table,
        ledger=figures,
        config=config,
        limits=limits,
        labels=labels,
        classes=classes,
        **more,
    )


def shapes(num_images=60, seed=0):
    """Shapes of every aspect, up to 40 kP."""
    return np.random.default_rng(seed).integers(20, 200, size=(num_images, 2))


def words_of(page):
    """The text of the page, each space a plain one; checks that its elements nest."""

    class Reader(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.tags, self.words = [], [], []

        def handle_starttag(self, tag, attrs):
            self.tags.append(tag)
            if tag not in ("meta", "img", "source"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            self.words.append(data)

    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert not {"script", "link", "iframe"} & set(reader.tags)
    return " ".join(reader.words).replace("\u00a0", " ")


@pytest.fixture(autouse=True)
def few_choices(monkeypatch):
    """Three choices of each kind: the others are drawn alike."""
    monkeypatch.setattr(plan_facts, "STEP_IMAGES", (4, 16, 32))
    monkeypatch.setattr(plan_facts, "NUM_BUCKETS", (1, 2, 8))


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("steps", ["mixed", "b2b"])
def test_figures_are_the_ledgers(steps):
    """Headlines, the summary table and the table of buckets say what the ledger says."""
    config = PlanConfig(steps=steps, step_images=16, buckets=4)
    view = view_of(shapes(), np.arange(60) % 3, ("a", "b", "c"), config)
    words = words_of(render_plan_page(view))
    for name, value in view.ledger.rows():
        assert name in words
        assert value in words
    for row in view.ledger.bucket_rows():
        assert " ".join(row) in words
    assert f"{100 * view.ledger.padding_overhead:.2f} %" in words
    assert f"{view.ledger.step_class_skew:.3f}" in words


@pytest.mark.parametrize("steps", ["mixed", "b2b"])
def test_the_table_adds_up_to_the_ledger(steps):
    """Walking through the plan finds the ledger's pixels, and each row its number of micro-batches and overhead."""
    view = view_of(shapes(), config=PlanConfig(steps=steps, step_images=16, buckets=4))
    table = view.table
    assert table.computed_pixels.sum() == view.ledger.computed_pixels
    assert table.real_pixels.sum() == view.ledger.real_pixels
    rows = plan_facts.groups_of(table, LIMITS)
    assert sum(row.computed_pixels for row in rows) == view.ledger.computed_pixels
    assert sorted(row.padding_overhead for row in rows) == pytest.approx(
        sorted(row.padding_overhead for row in view.ledger.buckets)
    )


@pytest.mark.parametrize("turns", [False, True])
@pytest.mark.parametrize("steps", ["mixed", "b2b"])
def test_the_users_choice_lies_on_the_curve(steps, turns):
    """Where no sample is needed, trying the plan's own setting again gives the plan's own figures."""
    config = PlanConfig(steps=steps, step_images=10, buckets=3)
    view = view_of(shapes(), np.arange(60) % 3, ("a", "b", "c"), config, turns=turns)
    study = plan_facts.Study(view.plan, config, LIMITS, view.labels, 3)
    own = 10 if steps == "mixed" else 3
    assert own in study.values(steps)
    trial = study.trial(steps, own)
    assert trial.padding_overhead == view.ledger.padding_overhead
    assert trial.num_micro_batches == view.ledger.num_micro_batches
    assert trial.predicted_s == pytest.approx(view.ledger.predicted_s)
    assert trial.class_skew == view.ledger.step_class_skew


def test_predicted_time_is_that_of_the_busiest_ranks():
    """An epoch takes as long as the costliest rank of each step, one step after the other."""
    limits = replace(LIMITS, world_size=3)
    view = view_of(shapes(), limits=limits)
    expected = sum(
        max(sum(each.computed_pixels + limits.launch_pixels for each in rank) for rank in step.ranks)
        for step in view.plan.steps
    )
    assert view.ledger.predicted_s == pytest.approx(expected / limits.pixels_per_s)


def test_a_sample_is_named_and_scaled(monkeypatch):
    """Beyond so many images the curves come from a sample, the page says so, and times are those of all images."""
    monkeypatch.setattr(plan_facts, "SAMPLE_IMAGES", 200)
    view = view_of(shapes(1000))
    words = words_of(render_plan_page(view))
    assert "random sample of 200 of the 1,000 images" in words
    study = plan_facts.Study(view.plan, view.config, LIMITS, None, 0)
    assert study.trial("mixed", 16).predicted_s == pytest.approx(view.ledger.predicted_s, rel=0.1)


def test_hostile_names_stay_names():
    """Names of classes, of the dataset and of policies are text whatever they hold."""
    policy = PolicyFigures(
        num_canvases=1,
        name=HOSTILE[0],
        shuffled=True,
        padding_overhead=-0.1,
        num_micro_batches=9,
        num_over_budget=2,
        mean_fill=0.5,
        predicted_s=3.0,
        class_skew=None,
        chance_skew=None,
    )
    view = replace(
        view_of(shapes(), np.repeat([0, 1, 2], 20), HOSTILE, policies=(policy,), rules=(HOSTILE,)), name=HOSTILE[1]
    )
    page = render_plan_page(view)
    words = words_of(page)
    assert HOSTILE[0] in words
    assert HOSTILE[1] in words
    assert "onerror=alert(2)&gt;" in page
    assert "\u202e" not in page
    figures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', page)
    assert all(b"<script" not in base64.b64decode(figure) for figure in figures)


@pytest.mark.usefixtures("unrendered")
def test_policies_stand_beside_the_plan():
    """Each row handed over has a line in the table under the plan's own; without rows there is no such section."""
    view = view_of(shapes())
    assert 'id="policies"' not in render_plan_page(view)
    row = PolicyFigures(
        num_canvases=1,
        name="as they come",
        shuffled=False,
        padding_overhead=1.234,
        num_micro_batches=77,
        num_over_budget=5,
        mean_fill=0.61,
        predicted_s=42.0,
        class_skew=0.321,
        chance_skew=0.3,
    )
    words = words_of(render_plan_page(replace(view, policies=(row,))))
    assert "as they come no 123.4 % 77 5 61 % 42 s 0.321 (0.300)" in words
    assert words.index("this plan (mixed)") < words.index("as they come no")


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("steps", "sizes", "labels", "classes"),
    [
        ("mixed", [[30, 40]], [0], ("only",)),
        ("b2b", [[1, 1]], None, ()),
        ("mixed", [[50, 70]] * 30, np.arange(30) % 2, ("a", "b")),
        ("b2b", [[50, 70]] * 30, np.arange(30) % 2, ("a", "b")),
        ("mixed", shapes(12), [-1] * 12, ("a", "b")),
        ("b2b", shapes(12), [0] * 12, ("one",)),
        ("b2b", shapes(3), [0, 1, -1], ("a", "b")),
        ("mixed", [[1, 4770], [4770, 1], [20, 20]], [0, 1, 2], ()),
    ],
    ids=["one image", "one pixel", "one shape", "one shape, b2b", "unlabelled", "one class", "three images", "slivers"],
)
def test_degenerate_datasets_have_a_page(steps, sizes, labels, classes):
    """Whatever can be planned can be shown, with turns and on more ranks than there are images too."""
    config = PlanConfig(steps=steps, buckets=4)
    view = view_of(sizes, labels, classes, config, replace(LIMITS, world_size=3), turns=True)
    words = words_of(render_plan_page(view))
    assert "nan" not in words.split()
    assert "1 images" not in words


def test_equal_sizes_show_no_class_in_excess():
    """Images of one size, listed class by class, do not look as if size told the class."""
    labels = np.repeat(np.arange(4), 500)
    nearly = np.where(np.arange(2000)[:, None] % 1999, [[50, 50]], [[50, 51]])
    assert max(one.share - one.share_of_all for one in plan_facts.excess_by_quarter(nearly, labels, 4)) < 0.1
    assert plan_facts.excess_by_quarter(np.full((2000, 2), 50), labels, 4) == []


@pytest.mark.usefixtures("unrendered")
def test_progress_ends_at_its_total(tmp_path):
    """Progress counts every plan tried, and the same plan gives the same page."""
    calls = []
    path = write_plan_page(tmp_path / "new" / "plan.html", view_of(shapes()), lambda *now: calls.append(now))
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
    assert calls[-1] == (len(calls), len(calls))
    assert path.read_text(encoding="utf-8") == render_plan_page(view_of(shapes()))
    assert [each.name for each in path.parent.iterdir()] == ["plan.html"]


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    """A file in the way of the folder ends in one sentence."""
    (tmp_path / "file").write_text("")
    with pytest.raises(PlanError, match=r"file.plan\.html cannot be written"):
        write_plan_page(tmp_path / "file" / "plan.html", view_of(shapes(20)))


def test_the_page_stays_small(monkeypatch):
    """Images by the hundred thousand make a page of less than 2 MB."""
    monkeypatch.setattr(plan_page, "_choices", lambda *_: "")
    sizes = shapes(100_000)
    view = view_of(sizes, np.arange(len(sizes)) % 5, config=PlanConfig(steps="b2b", buckets=64))
    assert len(render_plan_page(view)) < 2_000_000


@pytest.mark.parametrize("json_too", [False, True])
def test_plan_writes_the_page(make_folder, tmp_path, capsys, json_too):
    """`unsquare plan FOLDER --html` writes the page and says where; with --json, standard output is JSON alone."""
    page = tmp_path / "plan.html"
    words = ["plan", str(make_folder(num_images=6)), "--html", str(page), "--budget-pixels", "20e3"]
    assert main([*words, *(["--json"] if json_too else [])]) == 0
    captured = capsys.readouterr()
    assert str(page) in (captured.err if json_too else captured.out)
    assert "Plan of pictures" in words_of(page.read_text(encoding="utf-8"))
    if json_too:
        assert json.loads(captured.out)["num_images"] == 12
