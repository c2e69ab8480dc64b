"""What `unsquare profile` found: sections of a run's page, or a page of their own for a model without a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unsquare.report.kit import trace_figures, units
from unsquare.report.kit.content import (
    Chart,
    Content,
    DataTable,
    Folded,
    Heading,
    Headline,
    Note,
    Page,
    Paragraph,
    Section,
)
from unsquare.report.kit.page import write_page
from unsquare.report.kit.trace import close_up
from unsquare.report.kit.words import PHASES, strategy_words
from unsquare.report.profile import facts, figures
from unsquare.runs.schemas import AttributionRow, LayerRow, NetworkProfile, SweepSection

KIND_WORDS = {
    "process": "process and libraries",
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "saved activations",
    "workspace": "kernel workspace",
    "loader": "prefetched batches",
}
_MOST_LISTED = 300


def write_profile_page(found: NetworkProfile, out: Path) -> Path:
    """Write the page on a profile, whole or not at all, and return its path.

    Args:
        found: what was found.
        out: the HTML file; its folder is made.

    Raises:
        RunError: the file cannot be written.
    """
    page = Page(
        title=f"Memory of {found.subject}",
        lead=[
            f"{found.backbone} on {found.device} in {found.precision}, within a budget of "
            f"{units.size(found.budget_bytes)}."
        ],
        tiles=_headlines(found),
        sections=profile_sections(found),
        footer="Made by unsquare profile.",
    )
    return write_page(out, page)


def profile_sections(found: NetworkProfile) -> list[Section]:
    """The sweep of the batch size, what holds the memory, and memory against time."""
    return [
        Section("sweep", "Batch size and memory", _sweep(found)),
        Section("attribution", "What holds the memory", _attribution(found)),
        Section("watch", "Memory during the sweep", _watch(found)),
    ]


def _headlines(found: NetworkProfile) -> list[Headline]:
    tiles = [Headline(units.size(found.budget_bytes), "memory budget", f"on {found.device}")]
    if found.sweep is not None:
        sweep = found.sweep
        remark = f"of {_canvas(sweep.canvas)}; {sweep.predicted_images:,} were predicted"
        name = "images fit" if sweep.largest_images != 1 else "image fits"
        tiles.append(Headline(f"{sweep.largest_images:,}", name, remark))
    if found.attribution is not None:
        one = found.attribution
        tiles.append(Headline(units.size(one.peak_bytes), "traced peak", f"of {_batch(one)}"))
        if one.kinds:
            name, held = max(one.kinds, key=lambda kind: kind[1])
            remark = f"{units.size(held)}: {KIND_WORDS.get(name, name)}"
            tiles.append(Headline(units.percent(held / one.peak_bytes, 0), "largest part of the peak", remark))
    return tiles


def _watch(found: NetworkProfile) -> list[Content]:
    trace = facts.trace_of_profile(found)
    near = None if trace is None else close_up(trace, ())
    if trace is None or near is None:
        return [Note("This profile has no memory trace.")]
    return [
        Paragraph("Memory while the batch size was doubled, until a batch failed."),
        Chart(
            trace_figures.memory_over_time(trace, found.budget_bytes, ()),
            "Memory and images of the batches over time",
        ),
        Heading("Around the highest peak"),
        Chart(trace_figures.around_the_peak(near, found.budget_bytes), "Memory around its highest, by phase"),
    ]


def _sweep(found: NetworkProfile) -> list[Content]:
    sweep = found.sweep
    if sweep is None:
        return [Note("The batch size was not swept: this profile has no sweep.")]
    rows = [
        (
            f"{row.images:,}",
            units.size(row.peak_bytes),
            units.size(row.predicted_bytes),
            _signed(error),
            units.duration(row.seconds),
        )
        for row, error in zip(sorted(sweep.rows, key=lambda row: row.images), facts.prediction_errors(sweep))
    ]
    head = ("images", "peak memory", "predicted", "prediction error", "time")
    return [
        Paragraph(_sweep_words(sweep)),
        Chart(
            figures.sweep_of_batches(sweep, found.budget_bytes),
            "Peak memory by images in a micro-batch, measured and predicted",
        ),
        Folded(units.plural(len(rows), "batch", "batches"), [DataTable(head, rows, numeric=range(5))]),
    ]


def _sweep_words(sweep: SweepSection) -> str:
    words = (
        f"Training steps with growing batches of {_canvas(sweep.canvas)} images ({strategy_words(sweep.strategy)}, "
        f"{units.plural(sweep.steps_each, 'step')} each). {_fit(sweep.largest_images)}; "
        f"{sweep.predicted_images:,} were predicted."
    )
    if sweep.failed_images is not None:
        words += f" {units.plural(sweep.failed_images, 'image')} failed."
        words += f" {sweep.failure.rstrip('.')}." if sweep.failure else ""
    worst = max(map(abs, facts.prediction_errors(sweep)))
    return words + (
        f" Predicted peaks are within {units.percent(worst)} of the measured ones; they include the kernels that "
        "libraries cache for other canvases."
    )


def _fit(images: int) -> str:
    return "The largest batch that fits has 1 image" if images == 1 else f"The largest batch that fits has {images:,}"


def _attribution(found: NetworkProfile) -> list[Content]:
    one = found.attribution
    if one is None:
        return [Note("Memory was not attributed: this profile has no attribution.")]
    when = PHASES.get(one.phase, f"in the phase {one.phase}" if one.phase else "between steps")
    words = f"Memory is highest {when}" + (f", at the layer {one.at}" if one.at else "")
    words += f": {units.size(one.peak_bytes)} for {_batch(one)} ({strategy_words(one.strategy)})."
    if found.sweep is not None and one.images < found.sweep.largest_images:
        words += " Tracing takes memory itself, so the traced batch is smaller than the largest that fits."
    content: list[Content] = [Paragraph(words)]
    kinds = [(name, held) for name, held in one.kinds if held > 0]
    if kinds:
        content.append(Chart(figures.kinds_in_one_bar(kinds, KIND_WORDS), "What the peak is made of"))
    if not one.layers:
        return [*content, Note("No layer was traced.")]
    return [
        *content,
        Heading("By layer"),
        Paragraph("The activations that each layer saves for the backward pass, and its weights."),
        Chart(figures.layers_that_hold_most(facts.largest_layers(one.layers)), "Memory that each layer holds"),
        _layer_table(one.layers),
    ]


def _layer_table(layers: Sequence[LayerRow]) -> Folded:
    head = ("layer", "type", "activations", "weights")
    rows = [
        (layer.name, layer.type, units.size(layer.activations), units.size(layer.weights))
        for layer in facts.by_size(layers)[:_MOST_LISTED]
    ]
    title = f"{units.plural(len(layers), 'layer')} as a table"
    if len(layers) > len(rows):
        title = f"The first {len(rows)} of {len(layers):,} layers as a table"
    return Folded(title, [DataTable(head, rows, numeric=(2, 3))])


def _batch(one: AttributionRow) -> str:
    return f"{units.plural(one.images, 'image')} of {_canvas(one.canvas)}"


def _canvas(canvas: tuple[int, int]) -> str:
    return f"{canvas[0]} x {canvas[1]}"


def _signed(fraction: float) -> str:
    return ("+" if fraction > 0 else "") + units.percent(fraction)
