"""The page on a plan: what it does and what it costs, for somebody who has never heard of buckets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from unsquare.errors import PlanError
from unsquare.files import write_text
from unsquare.plan.analysis.ledger import Ledger, step_skews
from unsquare.plan.analysis.policies import PolicyFigures
from unsquare.plan.analysis.table import PlanTable
from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.epoch import EpochPlan
from unsquare.report.kit import units
from unsquare.report.kit.content import (
    Chart,
    Content,
    DataTable,
    Definitions,
    Folded,
    Note,
    Page,
    Paragraph,
    Section,
    settings_tables,
)
from unsquare.report.kit.figures import thin
from unsquare.report.kit.page import render
from unsquare.report.kit.shape_figures import Canvases, shapes_with_canvases
from unsquare.report.plan import facts, figures, words
from unsquare.report.plan.facts import Example, Labels, Study, Trial

_MOST_CANVASES = 250
_VARIED = {"mixed": "images of a step (mixed)", "b2b": "number of buckets (b2b)"}
_QUARTERS = ("smallest quarter", "second quarter", "third quarter", "largest quarter")


@dataclass(frozen=True, kw_only=True, eq=False)
class PlanView:
    """What the page is about."""

    name: str
    """What was planned, as the user calls it."""
    plan: EpochPlan
    table: PlanTable
    """The plan as a table."""
    ledger: Ledger
    config: PlanConfig
    """The settings that the plan was made with."""
    limits: Limits
    """The limits that the plan was made with."""
    limits_source: str = "as given"
    """Whose they are, a clause."""
    labels: Labels | None = None
    """Class of each planned image, (N,), -1 where unknown; None leaves class skew out."""
    classes: Sequence[str] = ()
    """Names of the classes."""
    policies: Sequence[PolicyFigures] = ()
    """Other ways to batch the same images, to stand beside the plan."""
    rules: Sequence[tuple[str, str, str]] = ()
    """Of each policy its name, what it does, and whose it is."""

    @property
    def num_classes(self) -> int:
        """Number of classes, named or not."""
        largest = -1 if self.labels is None else int(self.labels.max())
        return max(len(self.classes), largest + 1)


def write_plan_page(path: Path, view: PlanView, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write the page on a plan, whole or not at all, and return its path.

    Args:
        path: the HTML file; its folder is made.
        view: the plan and what is known about it.
        progress: called with what is done and how much there is.

    Raises:
        PlanError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, render_plan_page(view, progress))
    except OSError as error:
        raise PlanError(f"{path} cannot be written ({error.strerror}); choose another --html.") from error
    return path


def render_plan_page(view: PlanView, progress: Callable[[int, int], None] | None = None) -> str:
    """The whole page as HTML."""
    plan_table = view.table
    example = facts.example_of(plan_table)
    lead = words.lead(view.ledger, view.limits, view.plan.sizes, balanced=view.config.sampling == "balanced")
    sections = [
        Section("step", "How images are batched", _step(view, example)),
        Section("shapes", "Images and canvases", _shapes(view, example)),
        Section("work", "Where the work is", _work(view, plan_table)),
        Section("choices", "What other settings would cost", _choices(view, progress)),
        Section("classes", "Classes", _classes(view, plan_table)),
    ]
    if view.policies:
        sections.append(Section("policies", "Other ways to batch", _policies(view)))
    sections += [
        Section("figures", "All figures and settings", _figures(view)),
        Section("words", "Terms", [Definitions(words.TERMS)]),
    ]
    page = Page(
        title=f"Plan of {view.name}",
        lead=[*lead, words.limits(view.limits, view.limits_source)],
        tiles=words.headlines(view.ledger, view.limits),
        sections=sections,
        footer=f"Made by unsquare for epoch {view.plan.epoch}.",
    )
    return render(page)


def _step(view: PlanView, example: Example) -> list[Content]:
    figure = figures.example_sheet(example, words.example_titles(example, view.ledger))
    return [
        Paragraph(words.how_steps_form(view.ledger, example)),
        Chart(figure, "Some images batched in shuffled order and as planned, padding hatched"),
    ]


def _shapes(view: PlanView, example: Example) -> list[Content]:
    if view.plan.buckets:
        sizes = np.array([row.canvas for row in view.ledger.buckets], dtype=np.int64)
        overhead = np.array([row.padding_overhead for row in view.ledger.buckets])
        noun, which = "bucket", f"bounds of the {units.plural(len(sizes), 'bucket')}"
    else:
        sizes = np.array([block.canvas for block in example.planned], dtype=np.int64)
        overhead = np.array([block.overhead for block in example.planned])
        noun = "micro-batch"
        which = f"canvases of the step above ({units.plural(len(sizes), 'micro-batch', 'micro-batches')})"
    shown = thin(len(sizes), _MOST_CANVASES)
    if len(shown) < len(sizes):
        which += f", {len(shown)} of them drawn"
    figure = shapes_with_canvases({"images": view.plan.sizes}, Canvases(sizes[shown], overhead[shown]), noun)
    return [
        Paragraph(
            "An image fits on a canvas if it lies to the left of its corner and below; the nearer to the corner, the "
            f"less padding. Corners are the {which}."
        ),
        Chart(figure, "Images by width and height, with canvases"),
    ]


def _work(view: PlanView, plan_table: PlanTable) -> list[Content]:
    rows = facts.groups_of(plan_table, view.limits)
    group = "a bucket" if view.plan.buckets else "the micro-batches of similar canvas size (within a factor of two)"
    head, *lines = view.ledger.bucket_rows()
    table = DataTable(head, lines, numeric=range(len(head)))
    return [
        Paragraph(
            f"Each bar is {group}, small canvases on the left; its width is its share of the work, so orange areas "
            "are wasted work. Fill is low where a step has no more images of that shape, or where padding one more "
            "would cost more than another launch."
        ),
        Chart(
            figures.work_by_canvas(rows, view.ledger.padding_overhead, view.ledger.mean_fill),
            "Padding overhead and fill by canvas",
        ),
        Folded("As a table", [table]),
    ]


def _choices(view: PlanView, progress: Callable[[int, int], None] | None) -> list[Content]:
    study = Study(view.plan, view.config, view.limits, view.labels, view.num_classes)
    total = len(study.values("mixed")) + len(study.values("b2b"))
    done = iter(range(1, total + 1))

    def tell() -> None:
        if progress is not None:
            progress(next(done), total)

    trials = facts.trials_of(study, tell)
    ledger, num_images = view.ledger, len(view.plan.sizes)
    mixed = ledger.steps == "mixed"
    own = Trial(
        value=min(view.config.most_images(num_images) if mixed else len(view.plan.buckets), num_images),
        padding_overhead=ledger.padding_overhead,
        num_micro_batches=ledger.num_micro_batches,
        predicted_s=ledger.predicted_s,
        class_skew=ledger.step_class_skew,
        chance_class_skew=ledger.chance_class_skew,
    )
    figure = figures.price_of_choices(
        {_VARIED[form]: tried for form, tried in trials.items()}, _VARIED[ledger.steps], own
    )
    return [
        Paragraph(words.choices(trials["b2b"][0], study.num_images, num_images)),
        Chart(figure, "Overhead, time and class skew by choice"),
    ]


def _classes(view: PlanView, plan_table: PlanTable) -> list[Content]:
    labels, ledger = view.labels, view.ledger
    if labels is None or ledger.step_class_skew is None:
        return [Note("The images have no labels.")]
    if view.num_classes < 2:
        return [Note("There is only one class.")]
    skew, chance = step_skews(plan_table, labels, view.num_classes, view.plan)
    sentence = (
        f"The mean class skew of a step is {ledger.step_class_skew:.3f}; by chance, steps of these sizes would have "
        f"{ledger.chance_class_skew:.3f}. "
    )
    if ledger.steps == "mixed":
        sentence += "Mixed steps are uniform random draws, so the two differ only by chance."
    else:
        sentence += (
            "The rest comes from shapes that correlate with the class: a step from one bucket has too many images of "
            "some classes, which other steps of the epoch balance."
        )
    content: list[Content] = [
        Paragraph(sentence),
        Chart(figures.skew_of_steps(skew, chance), "Steps by class skew, beside chance"),
    ]
    rows = []
    excess = facts.excess_by_quarter(view.plan.sizes, labels, view.num_classes)
    for quarter, one in zip(_QUARTERS, excess if len(excess) == len(_QUARTERS) else ()):
        name = view.classes[one.label] if one.label < len(view.classes) else f"class {one.label}"
        rows.append((quarter, name, units.percent(one.share), units.percent(one.share_of_all)))
    if rows:
        head = ("images by pixels", "class", "share of the quarter", "share of all images")
        content += [
            Paragraph("The most over-represented class in each quarter of the images by size:"),
            DataTable(head, rows, numeric=(2, 3)),
        ]
    return content


def _policies(view: PlanView) -> list[Content]:
    ledger = view.ledger
    own = PolicyFigures(
        name=f"this plan ({ledger.steps})",
        shuffled=True,
        padding_overhead=ledger.padding_overhead,
        num_micro_batches=ledger.num_micro_batches,
        num_canvases=ledger.num_canvases,
        num_over_budget=0,
        mean_fill=ledger.mean_fill,
        predicted_s=facts.seconds_on_one(ledger, view.limits),
        class_skew=ledger.step_class_skew,
        chance_skew=ledger.chance_class_skew,
    )
    rows: list[PolicyFigures] = [own, *view.policies]
    head = ("rule", "reshuffled", "overhead", "micro-batches", "over budget", "fill", "time", "class skew (chance)")
    content: list[Content] = [
        Paragraph(words.policies(rows, view.limits)),
        Chart(figures.policies_side_by_side(rows), "Overhead and time of each way to batch"),
        DataTable(head, [_policy_cells(row) for row in rows], numeric=range(2, len(head))),
    ]
    if view.rules:
        rules = DataTable(("rule", "what it does", "from"), view.rules)
        content.append(Folded("What each rule does, and where it comes from", [rules]))
    return content


def _policy_cells(row: PolicyFigures) -> tuple[str, ...]:
    skew = "" if row.class_skew is None else f"{row.class_skew:.3f}"
    if row.chance_skew is not None:
        skew += f" ({row.chance_skew:.3f})"
    return (
        row.name,
        "yes" if row.shuffled else "no",
        units.percent(row.padding_overhead),
        f"{row.num_micro_batches:,}",
        f"{row.num_over_budget:,}",
        units.percent(row.mean_fill, 0),
        units.duration(row.predicted_s),
        skew,
    )


def _figures(view: PlanView) -> list[Content]:
    settings = {"plan": asdict(view.config), "limits": asdict(view.limits)}
    return [DataTable(("in this epoch", ""), view.ledger.rows(), numeric=(1,)), *settings_tables(settings)]
