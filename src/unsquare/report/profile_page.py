"""What `unsquare profile` found: two sections of a run's page, or a page of their own for a model without a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unsquare.report import markup, memory_figures, profile_figures, run_figures, units
from unsquare.report.markup import Section
from unsquare.report.memory import PHASE_WORDS, strategy_phrase
from unsquare.report.memory_facts import close_up
from unsquare.report.profile_facts import Attribution, Layer, Profile, Sweep
from unsquare.report.shell import page_of, write_page

KIND_WORDS = {
    "process": "process and libraries",
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "state of the optimizer",
    "activations": "activations kept for the backward pass",
    "workspace": "workspace of kernels",
    "loader": "batches read ahead",
}
_MOST_LISTED = 300


def write_profile_page(profile: Mapping[str, Any], out: Path) -> Path:
    """Write the page on a profile, whole or not at all, and return its path.

    Args:
        profile: the content of profile.json.
        out: the HTML file; its folder is made.

    Raises:
        RunError: the profile is of another version, or the file cannot be written.
    """
    found = Profile.of(profile)
    title = f"Memory of {found.subject}"
    head = (
        f'<h1>{markup.text(title)}</h1><p class="lead">{markup.text(_describe(found))}</p>'
        f"{markup.tiles(_headlines(found))}"
    )
    return write_page(out, page_of(title, head, profile_sections(profile), "Made by unsquare profile."))


def profile_sections(profile: Mapping[str, Any]) -> list[Section]:
    """The sweep of the batch size, what holds the memory, and memory against time."""
    found = Profile.of(profile)
    return [
        Section("sweep", "Batch size and memory", _sweep(found)),
        Section("attribution", "What holds the memory", _attribution(found)),
        Section("watch", "Memory while the batch grew", _watch(found)),
    ]


def _describe(found: Profile) -> str:
    return (
        f"{found.backbone} on {found.device} in {found.precision}, within a budget of {units.size(found.budget_bytes)}."
    )


def _headlines(found: Profile) -> list[tuple[str, str, str]]:
    tiles = [(units.size(found.budget_bytes), "memory budget", f"on {found.device}")]
    if found.sweep is not None:
        sweep = found.sweep
        remark = f"of {sweep.canvas[0]} x {sweep.canvas[1]}; {sweep.predicted_images:,} were foreseen"
        tiles.append((f"{sweep.largest_images:,}", "images fit" if sweep.largest_images != 1 else "image fits", remark))
    if found.attribution is not None:
        one = found.attribution
        tiles.append((units.size(one.peak_bytes), "peak taken apart", f"of {_batch(one)}"))
        if one.kinds and one.peak_bytes:
            name, held = max(one.kinds, key=lambda kind: kind[1])
            remark = f"{units.size(held)}: {KIND_WORDS.get(name, name)}"
            tiles.append((units.percent(held / one.peak_bytes, 0), "is the largest part", remark))
    return tiles


def _watch(found: Profile) -> str:
    trace = found.watch
    near = None if trace is None else close_up(trace, ())
    if trace is None or near is None:
        return markup.note("Memory was not watched: this profile has no trace.")
    over_time = run_figures.memory_over_time(trace, found.budget_bytes, ())
    closer = memory_figures.around_the_peak(near, found.budget_bytes)
    return (
        markup.paragraph("Memory against time while the batch was doubled, until it failed.")
        + markup.image(over_time, "Memory and images of the batches over time")
        + markup.paragraph("Close to the highest moment, with what was done then.")
        + markup.image(closer, "Memory around its highest, by phase")
    )


def _sweep(found: Profile) -> str:
    sweep = found.sweep
    if sweep is None:
        return markup.note("The batch size was not swept: this profile has no sweep.")
    if not sweep.rows:
        return markup.note(f"Not even one image could be run. {sweep.failure or ''}".rstrip())
    figure = profile_figures.sweep_of_batches(sweep, found.budget_bytes)
    rows = [
        (
            f"{row.images:,}",
            units.size(row.peak_bytes),
            units.size(row.predicted_bytes),
            _signed(row.predicted_bytes / row.peak_bytes - 1),
            units.duration(row.seconds),
        )
        for row in sweep.rows
    ]
    table = markup.table(
        ("images", "peak memory", "foreseen", "foreseen over measured", "time"), rows, numeric=range(5)
    )
    return (
        markup.paragraph(markup.text(_sweep_words(sweep)))
        + markup.image(figure, "Peak memory by images in a micro-batch, measured and foreseen")
        + markup.folded(units.plural(len(rows), "batch", "batches"), table)
    )


def _sweep_words(sweep: Sweep) -> str:
    height, width = sweep.canvas
    words = (
        f"Real steps of training with more and more images of {height} x {width} at once, run "
        f"{strategy_phrase(sweep.strategy)}, {units.plural(sweep.steps_each, 'step')} each. "
        f"{_fit(sweep.largest_images)}; {sweep.predicted_images:,} were foreseen."
    )
    if sweep.failed_images is not None:
        words += f" {units.plural(sweep.failed_images, 'image')} failed."
        words += f" {sweep.failure.rstrip('.')}." if sweep.failure else ""
    errors = [abs(row.predicted_bytes / row.peak_bytes - 1) for row in sweep.rows]
    words += (
        f" What was foreseen is no more than {units.percent(max(errors))} from any peak; it also counts the kernels "
        "that libraries keep for other canvases."
    )
    return words


def _fit(images: int) -> str:
    return "The largest batch that fits has 1 image" if images == 1 else f"The largest batch that fits has {images:,}"


def _attribution(found: Profile) -> str:
    one = found.attribution
    if one is None:
        return markup.note("Memory was not attributed: this profile has no attribution.")
    when = PHASE_WORDS.get(one.phase, f"in the phase {one.phase}" if one.phase else "between steps")
    words = f"Memory is highest {when}" + (f", at the layer {one.at}" if one.at else "")
    words += f": {units.size(one.peak_bytes)} for {_batch(one)}, run {strategy_phrase(one.strategy)}"
    fewer = found.sweep is not None and one.images < found.sweep.largest_images
    words += ". Looking takes memory, too, so that fewer are looked at than fit." if fewer else "."
    body = markup.paragraph(markup.text(words))
    kinds = [kind for kind in one.kinds if kind[1] > 0]
    if kinds:
        figure = profile_figures.kinds_in_one_bar(kinds, KIND_WORDS)
        body += markup.image(figure, "What memory is made of at its highest")
    if not one.layers:
        return body + markup.note("No layer was watched.")
    shown = one.largest()
    what = f"The {len(one.layers):,} layers" if len(shown) == len(one.layers) else "The layers that hold most"
    return (
        body
        + markup.heading("By layer")
        + markup.paragraph(f"{what}: the activations that each keeps for the backward pass, and its weights.")
        + markup.image(profile_figures.layers_that_hold_most(shown), "Memory that each layer holds")
        + _layer_table(one.layers)
    )


def _layer_table(layers: tuple[Layer, ...]) -> str:
    head = ("layer", "type", "activations", "weights")
    rows = [
        (layer.name, layer.type, units.size(layer.activations), units.size(layer.weights))
        for layer in layers[:_MOST_LISTED]
    ]
    title = f"{units.plural(len(layers), 'layer')} as a table"
    if len(layers) > len(rows):
        title = f"The first {len(rows)} of {len(layers):,} layers as a table"
    return markup.folded(title, markup.table(head, rows, numeric=(2, 3)))


def _batch(one: Attribution) -> str:
    return f"{units.plural(one.images, 'image')} of {one.canvas[0]} x {one.canvas[1]}"


def _signed(fraction: float) -> str:
    return ("+" if fraction > 0 else "") + units.percent(fraction)
