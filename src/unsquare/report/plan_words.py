"""The words of the page on a plan: what its sentences say, and what each word means."""

from __future__ import annotations

from unsquare.plan.analysis.ledger import Ledger
from unsquare.plan.config import Limits
from unsquare.report import units
from unsquare.report.plan_facts import SHUFFLED_BATCH, Example
from unsquare.report.statistics import random_batch_overhead
from unsquare.shapes import Sizes

WORDS = (
    ("image", "A picture as training sees it, with its own height and width: neither squashed nor cut to a square."),
    ("MP", "A megapixel, one million pixels; kP is a thousand, GP a thousand and TP a million MP."),
    ("canvas", "The height and width that all images of a micro-batch are padded to."),
    ("padding", "The part of a canvas that an image does not cover: it is computed, and it counts for nothing."),
    ("padding overhead", "Computed pixels divided by the images' own pixels, minus 1: at 5 %, one in 21 is padding."),
    ("micro-batch", "Images that go through the network together, all on one canvas."),
    ("step", "One update of the network: one or more micro-batches whose images together say where to go."),
    ("epoch", "One pass over all images."),
    ("budget", "The most computed pixels of one micro-batch, so that the device does not run out of memory."),
    ("fill", "A micro-batch's computed pixels as a part of the budget."),
    ("launch cost", "The fixed time that one more micro-batch takes whatever it holds, expressed as pixels."),
    ("mixed", "Steps are drawn as by an ordinary shuffle; each is then cut into micro-batches of like shape."),
    ("bucket", "Images of like shape that share a bound on their canvas; micro-batches are drawn among them."),
    ("superbucket", "Buckets whose images have a like number of pixels."),
    ("b2b", "Buckets to Buckets: each step comes from one bucket, as many images as fit the budget."),
    ("class skew", "How far the classes of a step are from those of all images: 0 is alike, 1 nothing in common."),
    ("by chance", "What the class skew would be if classes had nothing to do with shapes."),
    ("rank", "One process of a training that runs on several devices; they share each step."),
    ("plan", "The whole epoch as steps and micro-batches, known before any image is opened."),
)


def lead(figures: Ledger, limits: Limits, sizes: Sizes, *, balanced: bool = False) -> list[str]:
    """What the plan does and what it costs, in three sentences."""
    pixels = sizes.prod(axis=1)
    span = f"from {units.pixels(pixels.min())} to {units.pixels(pixels.max())}"
    if pixels.min() == pixels.max():
        span = f"of {units.pixels(pixels.max())}"
    per_batch = units.digits(figures.num_images / figures.num_micro_batches, 2)
    compared = ""
    if figures.num_images >= SHUFFLED_BATCH:
        random = units.percent(random_batch_overhead(sizes, SHUFFLED_BATCH))
        compared = f"; shuffled batches of {SHUFFLED_BATCH}, padded to their largest image, would compute {random} more"
    return [
        f"An epoch shows the network {_each(figures.num_images, balanced)}, {span}, in "
        f"{units.plural(figures.num_steps, 'optimizer step')}; images of different shapes can be computed together "
        "only when they are padded to one size, and work on padding is wasted.",
        f"This plan gathers images of like shape into {_micro_batches(figures)} of {per_batch} on average, "
        f"none larger than the {units.pixels(limits.budget_pixels)} that memory is given for.",
        f"It computes {units.percent(figures.padding_overhead)} more pixels than the images have{compared}. "
        f"At {units.pixels(limits.pixels_per_s)} a second{_on_ranks(limits)} an epoch takes about "
        f"{units.duration(figures.predicted_s)}.",
    ]


def limits(limits: Limits, source: str) -> str:
    """What the plan takes the device to be like."""
    return (
        f"That is for a device on which a micro-batch holds {units.pixels(limits.budget_pixels)}, and one more of them "
        f"costs as much as {units.pixels(limits.launch_pixels)}: {source}."
    )


def headlines(figures: Ledger, limits: Limits) -> list[tuple[str, str, str]]:
    """The tiles: value, name, remark."""
    launches = limits.launch_pixels * figures.num_micro_batches
    share = units.percent(launches / (figures.computed_pixels + launches))
    padding = units.pixels(figures.computed_pixels - figures.real_pixels)
    pixels = f"{units.pixels(figures.real_pixels)} an epoch"
    ranks = f", {limits.world_size} ranks" if limits.world_size > 1 else ""
    tiles = [
        (f"{figures.num_images:,}", "image" if figures.num_images == 1 else "images", pixels),
        (units.percent(figures.padding_overhead, 2), "padding overhead", f"{padding} computed for nothing"),
        (
            f"{figures.num_micro_batches:,}",
            "micro-batch" if figures.num_micro_batches == 1 else "micro-batches",
            f"in {units.plural(figures.num_steps, 'step')}{ranks}",
        ),
        (
            units.percent(figures.mean_fill, 0),
            "fill, on average",
            f"of the {units.pixels(limits.budget_pixels)} that one micro-batch may compute",
        ),
        (
            units.duration(figures.predicted_s),
            "predicted time of an epoch",
            f"at {units.pixels(limits.pixels_per_s)} a second{_on_ranks(limits)}; launches are {share} of the work",
        ),
    ]
    if figures.step_class_skew is not None:
        remark = f"{figures.chance_class_skew:.3f} by chance; 0 is the dataset's own mix"
        tiles.append((f"{figures.step_class_skew:.3f}", "class skew of a step", remark))
    return tiles


def example_titles(example: Example, figures: Ledger) -> tuple[str, str]:
    """The titles of the two parts of the example."""
    mixed = figures.steps == "mixed"
    shuffled = (
        f"Usual: {units.plural(len(example.shuffled.sizes), 'image')} of {'this step' if mixed else 'these'} in "
        f"shuffled order, {units.percent(example.shuffled.overhead, 0)} padding overhead"
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
    scale = "All is drawn at one scale; images lie at the top left of their canvas, as in training."
    if figures.steps == "mixed":
        which = (
            f"one of the {figures.num_steps:,} steps, of typical overhead" if figures.num_steps > 1 else "the one step"
        )
        return (
            f"This is {which}: {units.plural(example.num_images, 'image')} drawn at random, as an ordinary shuffle "
            "draws them. Batched as they come, all would be padded to the largest. Instead they are sorted into "
            "micro-batches of like shape, and the network is updated once all of them are computed: the same update, "
            f"without the waste. {scale}"
        )
    return (
        f"The images are sorted into {units.plural(len(figures.buckets), 'bucket')} of like shape, and each step takes "
        "from one bucket as many as fit the budget. Here is one micro-batch from each of a few buckets; in shuffled "
        f"order, all images would be padded to the largest. {scale}"
    )


def _on_ranks(limits: Limits) -> str:
    return f" on each of {limits.world_size} ranks" if limits.world_size > 1 else ""


def _each(num_images: int, balanced: bool) -> str:
    if balanced:
        return f"{num_images:,} images, all classes as often"
    return "its one image" if num_images == 1 else f"each of {num_images:,} images once"


def _micro_batches(figures: Ledger) -> str:
    return units.plural(figures.num_micro_batches, "micro-batch", "micro-batches")
