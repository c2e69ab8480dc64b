"""The words of the page on a plan: what its sentences say, and what each term means."""

from __future__ import annotations

from collections.abc import Sequence

from unsquare.plan.analysis.ledger import Ledger
from unsquare.plan.analysis.policies import PolicyFigures
from unsquare.plan.config import Limits
from unsquare.report.kit import units
from unsquare.report.kit.content import Headline
from unsquare.report.kit.statistics import random_batch_overhead
from unsquare.report.plan.facts import SHUFFLED_BATCH, Example, Trial
from unsquare.shapes import Sizes

TERMS = (
    ("image", "A picture as training sees it, at its own height and width."),
    ("MP", "A megapixel, one million pixels; kP is a thousand pixels, GP a thousand MP, TP a million MP."),
    ("canvas", "The height and width that all images of a micro-batch are padded to."),
    ("padding", "The part of a canvas outside the image: computed, but without effect on the result."),
    ("padding overhead", "Computed pixels divided by the images' own pixels, minus 1."),
    ("micro-batch", "Images that go through the network together, all on one canvas."),
    ("step", "One update of the network, from the gradients of one or more micro-batches."),
    ("epoch", "One pass over all images."),
    ("budget", "The most computed pixels of a micro-batch, so that it fits in memory."),
    ("fill", "A micro-batch's computed pixels as a share of the budget."),
    ("launch cost", "The fixed time that one more micro-batch takes, expressed in pixels."),
    ("mixed", "Steps are drawn by an ordinary shuffle, and each is then split into micro-batches of similar shape."),
    ("bucket", "Images of similar shape with a common bound on their canvas."),
    ("superbucket", "Buckets whose images have a similar number of pixels."),
    ("b2b", "Buckets to Buckets: each step comes from one bucket, with as many images as fit the budget."),
    ("class skew", "How far a step's class mix is from the dataset's: 0 is the same, 1 has nothing in common."),
    ("by chance", "The class skew of steps of the same size drawn without regard to shape."),
    ("rank", "One process of training on several devices; ranks share each step."),
    ("plan", "An epoch's steps and micro-batches, fixed before any image is decoded."),
)


def lead(figures: Ledger, limits: Limits, sizes: Sizes, *, balanced: bool = False) -> list[str]:
    """What the plan does and what it costs, in a few sentences."""
    pixels = sizes.prod(axis=1)
    span = f"from {units.pixels(pixels.min())} to {units.pixels(pixels.max())}"
    if pixels.min() == pixels.max():
        span = f"of {units.pixels(pixels.max())}"
    per_batch = units.digits(figures.num_images / figures.num_micro_batches, 2)
    compared = ""
    if figures.num_images >= SHUFFLED_BATCH:
        random = units.percent(random_batch_overhead(sizes, SHUFFLED_BATCH))
        compared = f"; shuffled batches of {SHUFFLED_BATCH}, padded to their largest image, would add {random}"
    return [
        f"An epoch trains on {_each(figures.num_images, balanced)}, {span}, in "
        f"{units.plural(figures.num_steps, 'optimizer step')}.",
        f"The plan groups images of similar shape into {_micro_batches(figures)} of {per_batch} on average, each "
        f"within the {units.pixels(limits.budget_pixels)} that fit in memory.",
        f"Padding adds {units.percent(figures.padding_overhead)} to the images' own pixels{compared}. "
        f"At {units.pixels(limits.pixels_per_s)} per second{_on_ranks(limits)} an epoch takes about "
        f"{units.duration(figures.predicted_s)}.",
    ]


def limits(limits: Limits, source: str) -> str:
    """What the plan takes the device to be like."""
    return (
        f"Assumed device: a micro-batch holds {units.pixels(limits.budget_pixels)}, and each launch costs as much as "
        f"{units.pixels(limits.launch_pixels)} ({source})."
    )


def headlines(figures: Ledger, limits: Limits) -> list[Headline]:
    """The tiles."""
    launches = limits.launch_pixels * figures.num_micro_batches
    share = units.percent(launches / (figures.computed_pixels + launches))
    padding = units.pixels(figures.computed_pixels - figures.real_pixels)
    pixels = f"{units.pixels(figures.real_pixels)} per epoch"
    ranks = f", {limits.world_size} ranks" if limits.world_size > 1 else ""
    tiles = [
        Headline(f"{figures.num_images:,}", "image" if figures.num_images == 1 else "images", pixels),
        Headline(units.percent(figures.padding_overhead, 2), "padding overhead", f"{padding} of padding"),
        Headline(
            f"{figures.num_micro_batches:,}",
            "micro-batch" if figures.num_micro_batches == 1 else "micro-batches",
            f"in {units.plural(figures.num_steps, 'step')}{ranks}",
        ),
        Headline(
            units.percent(figures.mean_fill, 0), "mean fill", f"of a budget of {units.pixels(limits.budget_pixels)}"
        ),
        Headline(
            units.duration(figures.predicted_s),
            "predicted time of an epoch",
            f"at {units.pixels(limits.pixels_per_s)} per second{_on_ranks(limits)}; launches are {share} of the work",
        ),
    ]
    if figures.step_class_skew is not None:
        remark = f"{figures.chance_class_skew:.3f} by chance; 0 is the dataset's own mix"
        tiles.append(Headline(f"{figures.step_class_skew:.3f}", "class skew of a step", remark))
    return tiles


def example_titles(example: Example, figures: Ledger) -> tuple[str, str]:
    """The titles of the two parts of the example."""
    mixed = figures.steps == "mixed"
    shuffled = (
        f"Shuffled: {units.plural(len(example.shuffled.sizes), 'image')} of {'this step' if mixed else 'these'}, "
        f"{units.percent(example.shuffled.overhead, 0)} padding overhead"
    )
    overhead = f"{units.percent(example.padding_overhead)} padding overhead"
    num_planned = len(example.planned)
    if not mixed:
        which = f"a micro-batch of each of {num_planned} buckets" if num_planned > 1 else "a micro-batch"
        return shuffled, f"Planned: {which}, {overhead}"
    some = f"{len(example.drawn)} of the step's " if len(example.drawn) < num_planned else ""
    return shuffled, f"Planned: {some}{units.plural(num_planned, 'micro-batch', 'micro-batches')}, {overhead} in all"


def how_steps_form(figures: Ledger, example: Example) -> str:
    """How this plan makes steps, and what the example shows."""
    scale = "All is drawn to one scale."
    if figures.steps == "mixed":
        which = f"a typical one of the {figures.num_steps:,} steps" if figures.num_steps > 1 else "the one step"
        return (
            f"This is {which}: {units.plural(example.num_images, 'image')} drawn at random, as by an ordinary shuffle. "
            "They are sorted into micro-batches of similar shape instead of being padded to the largest of them; the "
            f"update is the same. {scale}"
        )
    return (
        f"The images are sorted into {units.plural(len(figures.buckets), 'bucket')} of similar shape, and each step "
        f"takes as many from one bucket as fit the budget. Shown is one micro-batch from each of a few buckets. {scale}"
    )


def choices(fewest: Trial, num_sampled: int, num_images: int) -> str:
    """What the curves of other settings show.

    Args:
        fewest: the plan with fewest buckets.
        num_sampled: images that the curves were planned on.
        num_images: all images.
    """
    sentences = [
        "Larger mixed steps find more images of similar shape, so they need fewer micro-batches, but update the "
        "network less often. More buckets pad less, but each step is less varied."
    ]
    if num_images > 1 and fewest.padding_overhead == 0 and fewest.num_micro_batches >= num_images:
        sentences.append("With few buckets, images go one by one, because the bound of a bucket exceeds the budget.")
    if num_sampled < num_images:
        sentences.append(
            f"Curves: a random sample of {num_sampled:,} of the {num_images:,} images, times scaled to all. Orange: "
            "this plan, with all images."
        )
    else:
        sentences.append("Orange: this plan.")
    return " ".join(sentences)


def policies(rows: Sequence[PolicyFigures], limits: Limits) -> str:
    """What the rules beside the plan are, and how they are compared."""
    sentences = [
        "The same images, batched by other common rules: with as many images as never exceed the budget (safe), or as "
        "fit on average (typical). Rules that choose images by shape pad less, but their steps are less varied. Times "
        f"are for computed pixels and launches on one device at {units.pixels(limits.pixels_per_s)} per second."
    ]
    if any(row.num_over_budget for row in rows):
        sentences.append("Rules in red exceed the budget, so they would run out of memory.")
    if any(row.padding_overhead < 0 for row in rows):
        sentences.append("Rules with negative overhead shrink the images.")
    return " ".join(sentences)


def _on_ranks(limits: Limits) -> str:
    return f" on each of {limits.world_size} ranks" if limits.world_size > 1 else ""


def _each(num_images: int, balanced: bool) -> str:
    if balanced:
        return f"{num_images:,} images, all classes equally often"
    return "its one image" if num_images == 1 else f"each of {num_images:,} images once"


def _micro_batches(figures: Ledger) -> str:
    return units.plural(figures.num_micro_batches, "micro-batch", "micro-batches")
