"""The section on memory: over the run, around its highest, against what was foreseen, and by what rungs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unsquare.report import markup, memory_figures, run_figures, units
from unsquare.report.memory_facts import CloseUp, Measured, MicroBatches, Rung, close_up
from unsquare.report.record import Record

RUNG_WORDS = {
    "plain": "as it is",
    "bf16": "in bf16",
    "checkpoint": "activations computed again",
    "offload": "activations kept elsewhere",
    "stream": "piece by piece",
    "pinned": "as pinned",
}
PHASE_WORDS = {
    "data": "while waiting for images",
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "update": "in the update of the weights",
}


def memory_section(record: Record) -> str:
    """Memory of a run: what it took, what was foreseen, and by which ways."""
    models = record.models or {}
    measured = Measured.of(models["measured"]) if models.get("measured") else None
    pinned = models.get("pinned")
    batches = MicroBatches.of(record.steps)
    return (
        _over_time(record, measured)
        + _shortages(record)
        + _against_foreseen(batches, measured, models.get("world_size", 1))
        + (_ladder(measured, batches) if measured else "")
        + (_pinned(pinned) if isinstance(pinned, Mapping) else "")
        + ("" if models else markup.note(record.lack_of("models.json", "There are no bounds")))
    )


def _over_time(record: Record, measured: Measured | None) -> str:
    trace, budget = record.memory, measured.budget_bytes if measured else None
    if trace is None:
        return markup.note(record.lack_of("memory.parquet", "There is no memory trace"))
    where = "on the device" if trace.on_device else "held by the process (resident)"
    words = (
        f"Memory {where} over the run. The number of images in a micro-batch follows their size, so that "
        "memory stays below the budget whatever the shapes; a step is one or more micro-batches."
    )
    figure = run_figures.memory_over_time(trace, budget, record.steps)
    body = markup.paragraph(words) + markup.image(figure, "Memory and batch sizes over time")
    near = close_up(trace, record.steps)
    if near is None:
        return body
    figure = memory_figures.around_the_peak(near, budget)
    return (
        body
        + markup.heading("Around the highest peak")
        + markup.paragraph(markup.text(_describe_peak(near)))
        + markup.image(figure, "Memory, phases and micro-batches around the highest peak")
    )


def _describe_peak(near: CloseUp) -> str:
    peak = near.peak
    when = PHASE_WORDS.get(peak.phase, "between steps")
    words = f"The highest sample, {units.size(near.used_bytes.max())}, was taken {when}"
    if peak.images:
        words += f" of {units.plural(peak.images, 'image')} on a canvas of {peak.canvas[0]} x {peak.canvas[1]}"
    return words + ". Samples are moments: a peak between two of them is not seen here."


def _shortages(record: Record) -> str:
    short = [row for row in record.steps if row.get("shortages")]
    if not short:
        return ""
    total = sum(int(row["shortages"]) for row in short)
    where = f"in step {short[0]['step']}" if len(short) == 1 else f"in {len(short)} steps, first in {short[0]['step']}"
    times = {1: "once", 2: "twice"}.get(total, f"{total:,} times")
    return markup.paragraph(
        markup.text(
            f"Memory ran short {times} ({where}). Where it ran out, micro-batches were halved and computed again, and "
            "images that were alone took a way with less memory; where one took more than the budget, later ones were "
            "made smaller; no image was lost. Others may have taken the memory meanwhile: a smaller --memory leaves "
            "them more."
        )
    )


def _against_foreseen(batches: MicroBatches, measured: Measured | None, num_ranks: int) -> str:
    probed = measured is not None and any(rung.probes for rung in measured.rungs)
    if not len(batches.pixels) and not probed:
        return ""
    body = markup.heading("Foreseen and measured")
    if not len(batches.pixels):
        body += markup.note("No micro-batch of the run was measured (metrics.jsonl).")
    else:
        body += markup.paragraph(markup.text(_describe_errors(batches, measured, num_ranks)))
    figure = memory_figures.foreseen_and_measured(batches, measured, RUNG_WORDS)
    return body + markup.image(figure, "Peak memory of each micro-batch against its computed pixels")


def _describe_errors(batches: MicroBatches, measured: Measured | None, num_ranks: int) -> str:
    num = len(batches.pixels)
    whose = "run" if num_ranks == 1 else f"first of {num_ranks} ranks"
    words = f"Each dot is a micro-batch of the {whose}, {num:,} in all. "
    if measured is None:
        return words + "Nothing was foreseen, because the bounds were pinned."
    predicted = measured.predicted(batches)
    known = np.isfinite(predicted)
    over = int((batches.peak_bytes > measured.budget_bytes).sum())
    if known.any():
        if measured.keeps_heap:
            words += _kept_words(float(batches.peak_bytes[known].max()), float(predicted[known].max()))
        else:
            words += _error_words(batches.peak_bytes[known] / predicted[known] - 1)
    if (~known).any():
        words += f" {units.plural(int((~known).sum()), 'micro-batch', 'micro-batches')} took ways never measured."
    words += f" {_count(over, num)} took more than the budget."
    if measured.budget_is_far(batches):
        words += f" The budget, {units.size(measured.budget_bytes)}, lies far above what is drawn."
    return words


def _error_words(error: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    size = np.abs(error)
    above = int((error > 0).sum())
    words = (
        f"Peaks lie {units.percent(float(np.median(size)))} from what was foreseen (median), and 95 % of them within "
        f"{units.percent(float(np.quantile(size, 0.95)))}."
    )
    if above:
        words += f" {_count(above, len(error))} took more than foreseen, by up to {units.percent(float(error.max()))}."
    return words.replace("95 %", "95\u00a0%")


def _kept_words(highest: float, bound: float) -> str:
    off = highest / bound - 1
    return (
        "The heap kept what was freed, which is quicker: a peak counts memory that is free again, so that small "
        "micro-batches stand as high as larger ones before them, and the highest alone tells something. It is "
        f"{units.size(highest)}, {units.percent(abs(off))} {'above' if off > 0 else 'below'} the bound of the largest "
        "micro-batch. The lines are such bounds: twice the slope through the probes, and what decoding may take."
    )


def _count(some: int, num: int) -> str:
    return "None" if not some else f"{some:,} of {num:,}"


def _ladder(measured: Measured, batches: MicroBatches) -> str:
    base = measured.rungs[0]
    head = (
        "way",
        "holds",
        "bytes a pixel",
        "fixed",
        "time a megapixel",
        "over the first",
        "micro-batches run",
    )
    rows = []
    for name, rung in zip(_names(measured.rungs), measured.rungs):
        price = rung.time.s_per_pixel / base.time.s_per_pixel if base.time.s_per_pixel else 1.0
        rows.append(
            (
                name,
                "not used" if rung.held_pixels is None else units.pixels(rung.held_pixels),
                units.digits(rung.memory.bytes_per_pixel),
                units.size(rung.memory.fixed_bytes),
                units.duration(1e6 * rung.time.s_per_pixel),
                f"{price:.2f}",
                f"{int((batches.rungs == rung.name).sum()):,}" if len(batches.rungs) else "unknown",
            )
        )
    words = (
        "What a micro-batch takes grows with its computed pixels. Several images go together as long as the first way "
        "holds them; an image that it does not hold alone takes the next one that does."
    )
    return (
        markup.heading("Ways to run a micro-batch")
        + markup.paragraph(words)
        + f'<div class="named">{markup.table(head, rows, numeric=range(1, 7))}</div>'
        + markup.table(("within the budget", ""), _budget_rows(measured), numeric=(1,))
        + _probes("training", measured.rungs)
        + _probes("evaluation", measured.evaluation_rungs)
    )


def _budget_rows(measured: Measured) -> list[tuple[str, str]]:
    return [
        ("memory budget", units.size(measured.budget_bytes)),
        ("of it for decoding", units.size(measured.reserved_bytes)),
        ("of it for plans, some held back", units.size(measured.usable_bytes)),
        ("cost of one more micro-batch", f"as {units.pixels(measured.launch_pixels)}"),
    ]


def _probes(kind: str, rungs: Sequence[Rung]) -> str:
    rows = [
        (
            name,
            probe["images"],
            f"{probe['height']} x {probe['width']}",
            units.size(probe["peak_bytes"]),
            units.duration(probe["seconds"]),
        )
        for name, rung in zip(_names(rungs), rungs)
        for probe in rung.probes
    ]
    if not rows:
        return ""
    head = ("way", "images", "height x width", "peak memory", "time")
    return markup.folded(
        f"{units.plural(len(rows), 'probe')} of {kind}", markup.table(head, rows, numeric=(1, 2, 3, 4))
    )


def _names(rungs: Sequence[Rung]) -> list[str]:
    """Name and words of each rung; those of one name are numbered."""
    names: list[str] = []
    for number, rung in enumerate(rungs):
        words = f"{rung.name}: {RUNG_WORDS[rung.name]}" if rung.name in RUNG_WORDS else rung.name
        before = sum(other.name == rung.name for other in rungs[:number])
        names.append(f"{words} ({before + 1})" if before else words)
    return names


def _pinned(pinned: Mapping[str, Any]) -> str:
    most = pinned.get("budget_pixels")
    words = "Nothing was measured before training: the bounds were pinned by the settings"
    if most:
        words += f", up to {units.pixels(most)} computed in a micro-batch, run {way_words(pinned.get('way') or {})}"
    return markup.paragraph(markup.text(f"{words}. Whether memory holds that was not looked at."))


def way_words(way: Mapping[str, Any]) -> str:
    """How a micro-batch is run, from the content of a way."""
    hows = {segment.get("how") for segment in way.get("segments") or ()}
    name = "stream" if "stream" in hows else "offload" if way.get("offload") else "checkpoint" if hows else "plain"
    return rung_phrase(name) + (", in bf16" if way.get("bf16") else "")


def rung_phrase(name: str) -> str:
    """How a micro-batch is run, from the name of its rung, to follow "run"."""
    words = RUNG_WORDS.get(name, f"by {name}")
    return f"with {words}" if name in ("checkpoint", "offload") else words
