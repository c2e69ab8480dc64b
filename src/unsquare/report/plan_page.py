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
from unsquare.report import markup, plan_facts, plan_figures, plan_words, units
from unsquare.report.figures import thin
from unsquare.report.markup import Section
from unsquare.report.plan_facts import Example, Labels, Study, Trial
from unsquare.report.plan_figures import Canvases
from unsquare.report.shell import page_of

_MOST_CANVASES = 250
_VARIED = {"mixed": "images of a step, in mixed steps", "b2b": "number of buckets, in b2b steps"}
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
    table = view.table
    example = plan_facts.example_of(table)
    lead = plan_words.lead(view.ledger, view.limits, view.plan.sizes, balanced=view.config.sampling == "balanced")
    lead.append(plan_words.limits(view.limits, view.limits_source))
    tiles = plan_words.headlines(view.ledger, view.limits)
    sections = [
        Section("step", "How images go together", _step(view, example)),
        Section("shapes", "Images and canvases", _shapes(view, example)),
        Section("work", "Where the work is", _work(view, table)),
        Section("choices", "The price of each choice", _choices(view, progress)),
        Section("classes", "Classes", _classes(view, table)),
    ]
    if view.policies:
        sections.append(Section("policies", "Other ways to batch", _policies(view)))
    sections += [
        Section("figures", "All figures and settings", _figures(view)),
        Section("words", "Words", markup.definitions(plan_words.WORDS)),
    ]
    title = f"Plan of {view.name}"
    sentences = "".join(f'<p class="lead">{markup.text(sentence)}</p>' for sentence in lead)
    head = f"<h1>{markup.text(title)}</h1>{sentences}{markup.tiles(tiles)}"
    return page_of(title, head, sections, f"Made by unsquare for epoch {view.plan.epoch}.")


def _step(view: PlanView, example: Example) -> str:
    figure = plan_figures.example_sheet(example, plan_words.example_titles(example, view.ledger))
    return markup.paragraph(markup.text(plan_words.how_steps_form(view.ledger, example))) + markup.image(
        figure, "Some images batched in shuffled order and as planned, padding hatched"
    )


def _shapes(view: PlanView, example: Example) -> str:
    buckets = view.plan.buckets
    if buckets:
        every = Canvases(
            sizes=np.array([row.canvas for row in view.ledger.buckets], dtype=np.int64),
            overhead=np.array([row.padding_overhead for row in view.ledger.buckets]),
        )
        noun, which = "bucket", f"the bounds of {units.plural(len(buckets), 'bucket')}"
    else:
        every = Canvases(
            sizes=np.array([block.canvas for block in example.planned], dtype=np.int64),
            overhead=np.array([block.overhead for block in example.planned]),
        )
        noun = "micro-batch"
        which = f"those of the {units.plural(len(every.sizes), 'micro-batch', 'micro-batches')} of the step above"
    shown = thin(len(every.sizes), _MOST_CANVASES)
    if len(shown) < len(every.sizes):
        which += f", {len(shown)} of which are drawn"
    words = (
        "Each image lies where its width and height put it, the darker the more there are. A corner is a canvas: the "
        "images that fit on it lie to the left of it and below, and the nearer to it, the less is padding. The "
        f"canvases drawn are {which}; green ones waste least. Both axes go by doublings; along a dotted line "
        "the number of pixels is the same."
    )
    figure = plan_figures.shapes_with_canvases(
        view.plan.sizes, Canvases(every.sizes[shown], every.overhead[shown]), noun
    )
    return markup.paragraph(markup.text(words)) + markup.image(figure, "Images by width and height, with canvases")


def _work(view: PlanView, table: PlanTable) -> str:
    rows = plan_facts.rows_of(table, view.limits)
    group = "a bucket" if view.plan.buckets else "all micro-batches whose canvas is alike in pixels, to a factor of two"
    words = (
        f"A bar is {group}, from small canvases at the left to large ones. It is as wide as its part of the epoch's "
        "work, so that the orange areas are the waste. A micro-batch of low fill leaves memory unused: mostly because "
        "the step has no more images of that shape, or because one more would cost more padding than it saves launches."
    )
    figure = plan_figures.work_by_canvas(rows, view.ledger.padding_overhead, view.ledger.mean_fill)
    head, *lines = view.ledger.bucket_rows()
    cells = markup.table(head, lines, numeric=range(len(head)))
    return (
        markup.paragraph(markup.text(words))
        + markup.image(figure, "Padding overhead and fill by canvas")
        + markup.folded("As a table" if len(lines) > 1 else "As a line", cells)
    )


def _choices(view: PlanView, progress: Callable[[int, int], None] | None) -> str:
    study = Study(view.plan, view.config, view.limits, view.labels, view.num_classes)
    total = len(study.values("mixed")) + len(study.values("b2b"))
    done = iter(range(1, total + 1))

    def tell() -> None:
        if progress is not None:
            progress(next(done), total)

    trials = plan_facts.trials_of(study, tell)
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
    words = (
        "Left: the more images a step has, the more of like shape meet in it, in fewer micro-batches; but the network "
        "is updated less often. In a small step most images go alone, which pads little and launches often. Right: "
        "more buckets pad less, but a step from one small bucket shows fewer kinds of image at a time. "
    )
    fewest = trials["b2b"][0]
    if num_images > 1 and fewest.padding_overhead == 0 and fewest.num_micro_batches >= num_images:
        words += (
            "A bucket so wide that its bound exceeds the budget gives one image at a time: nothing is padded, but "
            "nothing goes together. "
        )
    if study.num_images < num_images:
        words += (
            f"The curves were planned on a random sample of {study.num_images:,} of the {num_images:,} images, times "
            "scaled to all; in many buckets a sample is somewhat emptier than the whole. The orange point is the whole "
            "plan."
        )
    else:
        words += "Every point is a plan of all images, with nothing else changed; the orange point is this plan."
    figure = plan_figures.price_of_choices(
        {_VARIED[form]: tried for form, tried in trials.items()}, _VARIED[ledger.steps], own
    )
    return markup.paragraph(markup.text(words)) + markup.image(figure, "Overhead, time and class skew by choice")


def _classes(view: PlanView, table: PlanTable) -> str:
    labels, ledger = view.labels, view.ledger
    if labels is None or ledger.step_class_skew is None:
        return markup.note("The images have no labels, so there is nothing to say about classes.")
    if view.num_classes < 2:
        return markup.note("There is only one class, so that all steps are alike in this.")
    skew, chance = step_skews(table, labels, view.num_classes, view.plan)
    words = (
        f"A step's class skew is {ledger.step_class_skew:.3f} on average; steps as large as these would have "
        f"{ledger.chance_class_skew:.3f} by chance. "
    )
    if ledger.steps == "mixed":
        words += "Steps are uniform draws, whatever the shapes, so the two are alike but for luck."
    else:
        words += (
            "What lies beyond chance comes from shapes that tell something of the class: a step from one bucket then "
            "shows some classes too often, and makes up for it in other steps of the epoch."
        )
    body = markup.paragraph(markup.text(words)) + markup.image(
        plan_figures.skew_of_steps(skew, chance), "Steps by class skew, beside chance"
    )
    rows = []
    excess = plan_facts.excess_by_quarter(view.plan.sizes, labels, view.num_classes)
    for quarter, one in zip(_QUARTERS, excess if len(excess) == len(_QUARTERS) else ()):
        name = view.classes[one.label] if one.label < len(view.classes) else f"class {one.label}"
        rows.append((quarter, name, units.percent(one.share), units.percent(one.share_of_all)))
    if rows:
        intro = "Do shapes tell the class here? Of each quarter of the images by pixels, the class most in excess:"
        head = ("images", "class", "part of them", "part of all images")
        body += markup.paragraph(intro) + markup.table(head, rows, numeric=(2, 3))
    return body


def _policies(view: PlanView) -> str:
    ledger = view.ledger
    own = PolicyFigures(
        name=f"this plan ({ledger.steps})",
        shuffled=True,
        padding_overhead=ledger.padding_overhead,
        num_micro_batches=ledger.num_micro_batches,
        num_canvases=ledger.num_canvases,
        num_over_budget=0,
        mean_fill=ledger.mean_fill,
        predicted_s=plan_facts.seconds_on_one(ledger, view.limits),
        class_skew=ledger.step_class_skew,
        chance_skew=ledger.chance_class_skew,
    )
    rows: list[PolicyFigures] = [own, *view.policies]
    words = (
        "The same images, batched by other rules that people use: as many images at a time as never exceed the budget "
        "(safe), or as it holds on average (typical). Mixed steps are drawn from all images alike; a rule that chooses "
        "images by shape pads less and updates on fewer kinds of image at a time, as b2b does. Times are computed "
        f"pixels and launches on one device at {units.pixels(view.limits.pixels_per_s)} a second."
    )
    if any(row.num_over_budget for row in rows):
        words += " Those in red make micro-batches larger than the budget, which would run out of memory."
    if any(row.padding_overhead < 0 for row in rows):
        words += (
            " An overhead below zero comes of making images smaller: what is computed is less than there is to see."
        )
    head = ("rule", "drawn anew", "overhead", "micro-batches", "over budget", "fill", "time", "class skew (chance)")
    rules = markup.table(("rule", "what it does", "from"), view.rules)
    cells = markup.table(head, [_policy_cells(row) for row in rows], numeric=range(2, len(head)))
    return (
        markup.paragraph(markup.text(words))
        + markup.image(plan_figures.policies_side_by_side(rows), "Overhead and time of each way to batch")
        + f'<div class="named">{cells}</div>'
        + (markup.folded("What each rule does, and whose it is", rules) if view.rules else "")
    )


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


def _figures(view: PlanView) -> str:
    settings = {"plan": asdict(view.config), "limits": asdict(view.limits)}
    return markup.table(("in this epoch", ""), view.ledger.rows(), numeric=(1,)) + markup.settings(settings)
