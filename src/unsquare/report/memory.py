"""The section on memory: over the run, around its highest, against what was predicted, and by which strategies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from unsquare.execution.strategy import Strategy
from unsquare.report import markup, memory_figures, run_figures, units
from unsquare.report.memory_facts import CloseUp, MicroBatches, budget_is_far, close_up, predicted_bytes
from unsquare.report.record import Record
from unsquare.runs.memory_profile import MemoryProfile, RunLimits, StrategyProfile

STRATEGY_WORDS = {
    "plain": "as it is",
    "bf16": "in bf16",
    "checkpoint": "activation checkpointing",
    "offload": "activations offloaded",
    "tile": "tiled",
    "pinned": "as pinned",
}
PHASE_WORDS = {
    "data": "while waiting for images",
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "update": "in the update of the weights",
}


def memory_section(record: Record) -> str:
    """Memory of a run: what it took, what was predicted, and by which strategies."""
    limits = record.limits
    profile = limits.training if limits else None
    batches = MicroBatches.of(record.steps)
    return (
        _over_time(record, profile)
        + _shortages(record)
        + _against_predicted(batches, profile, limits.world_size if limits else 1)
        + (_strategies(limits, batches) if limits and profile else "")
        + (_pinned(limits) if limits and profile is None else "")
        + ("" if limits else markup.note(record.lack_of("models.json", "There are no bounds")))
    )


def _over_time(record: Record, profile: MemoryProfile | None) -> str:
    trace, budget = record.memory, profile.budget_bytes if profile else None
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
            "images that were alone took a fallback; where one took more than the budget, later ones were smaller; "
            "no image was lost. Others may have taken the memory meanwhile: a smaller --memory leaves "
            "them more."
        )
    )


def _against_predicted(batches: MicroBatches, profile: MemoryProfile | None, num_ranks: int) -> str:
    probed = profile is not None and any(each.probes for each in profile.measured)
    if not len(batches.pixels) and not probed:
        return ""
    body = markup.heading("Predicted and measured")
    if not len(batches.pixels):
        body += markup.note("No micro-batch of the run was measured (metrics.jsonl).")
    else:
        body += markup.paragraph(markup.text(_describe_errors(batches, profile, num_ranks)))
    figure = memory_figures.predicted_and_measured(batches, profile, STRATEGY_WORDS)
    return body + markup.image(figure, "Peak memory of each micro-batch against its computed pixels")


def _describe_errors(batches: MicroBatches, profile: MemoryProfile | None, num_ranks: int) -> str:
    num = len(batches.pixels)
    whose = "run" if num_ranks == 1 else f"first of {num_ranks} ranks"
    words = f"Each dot is a micro-batch of the {whose}, {num:,} in all. "
    if profile is None:
        return words + "Nothing was predicted, because the limits were pinned."
    predicted = predicted_bytes(profile, batches)
    known = np.isfinite(predicted)
    over = int((batches.peak_bytes > profile.budget_bytes).sum())
    if known.any():
        if profile.heap == "keep":
            words += _kept_words(float(batches.peak_bytes[known].max()), float(predicted[known].max()))
        else:
            words += _error_words(batches.peak_bytes[known] / predicted[known] - 1)
    if (~known).any():
        num_unknown = units.plural(int((~known).sum()), "micro-batch", "micro-batches")
        words += f" {num_unknown} took strategies that were not measured."
    words += f" {_count(over, num)} took more than the budget."
    if budget_is_far(profile, batches):
        words += f" The budget, {units.size(profile.budget_bytes)}, lies far above what is drawn."
    return words


def _error_words(error: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    size = np.abs(error)
    above = int((error > 0).sum())
    words = (
        f"Peaks lie {units.percent(float(np.median(size)))} from what was predicted (median), and 95 % of them within "
        f"{units.percent(float(np.quantile(size, 0.95)))}."
    )
    if above:
        words += f" {_count(above, len(error))} took more than predicted, by up to {units.percent(float(error.max()))}."
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


def _strategies(limits: RunLimits, batches: MicroBatches) -> str:
    profile, evaluation = limits.training, limits.evaluation
    assert profile is not None
    assert evaluation is not None
    base, held = profile.base, dict(zip(profile.strategies, profile.most_pixels))
    head = (
        "strategy",
        "holds",
        "bytes a pixel",
        "fixed",
        "time a megapixel",
        "over the first",
        "micro-batches run",
    )
    rows = []
    for name, each in zip(_names(profile.measured), profile.measured):
        price = each.time.s_per_pixel / base.time.s_per_pixel if base.time.s_per_pixel else 1.0
        rows.append(
            (
                name,
                units.pixels(held[each]) if each in held else "not used",
                units.digits(each.memory.bytes_per_pixel),
                units.size(each.memory.fixed_bytes),
                units.duration(1e6 * each.time.s_per_pixel),
                f"{price:.2f}",
                f"{int((batches.strategies == each.name).sum()):,}" if len(batches.strategies) else "unknown",
            )
        )
    words = (
        "What a micro-batch takes grows with its computed pixels. Several images go together as long as the first "
        "strategy holds them; an image that it does not hold alone is run by the first fallback that does."
    )
    return (
        markup.heading("Execution strategies")
        + markup.paragraph(words)
        + f'<div class="named">{markup.table(head, rows, numeric=range(1, 7))}</div>'
        + markup.table(("within the budget", ""), _budget_rows(profile), numeric=(1,))
        + _probes("training", profile.measured)
        + _probes("evaluation", evaluation.measured)
    )


def _budget_rows(profile: MemoryProfile) -> list[tuple[str, str]]:
    return [
        ("memory budget", units.size(profile.budget_bytes)),
        ("of it for decoding", units.size(profile.reserved_bytes)),
        ("of it for plans, some held back", units.size(profile.usable_bytes)),
        ("cost of one more micro-batch", f"as {units.pixels(profile.launch_pixels)}"),
    ]


def _probes(kind: str, measured: Sequence[StrategyProfile]) -> str:
    rows = [
        (
            name,
            probe.images,
            f"{probe.height} x {probe.width}",
            units.size(probe.peak_bytes),
            units.duration(probe.seconds),
        )
        for name, each in zip(_names(measured), measured)
        for probe in each.probes
    ]
    if not rows:
        return ""
    head = ("strategy", "images", "height x width", "peak memory", "time")
    return markup.folded(
        f"{units.plural(len(rows), 'probe')} of {kind}", markup.table(head, rows, numeric=(1, 2, 3, 4))
    )


def _names(measured: Sequence[StrategyProfile]) -> list[str]:
    """Name and words of each strategy; those of one name are numbered."""
    names: list[str] = []
    for number, each in enumerate(measured):
        words = f"{each.name}: {STRATEGY_WORDS[each.name]}"
        before = sum(other.name == each.name for other in measured[:number])
        names.append(f"{words} ({before + 1})" if before else words)
    return names


def _pinned(limits: RunLimits) -> str:
    words = (
        f"Nothing was measured before training: the limits were pinned by the settings, up to "
        f"{units.pixels(limits.budget_pixels)} computed in a micro-batch, run {strategy_words(limits.strategy)}"
    )
    return markup.paragraph(markup.text(f"{words}. Whether memory holds that was not looked at."))


def strategy_words(strategy: Strategy) -> str:
    """How a micro-batch is run, to follow "run"."""
    name = (
        "tile" if strategy.tiles else "offload" if strategy.offload else "plain" if strategy.is_plain else "checkpoint"
    )
    return strategy_phrase(name) + (", in bf16" if strategy.bf16 else "")


def strategy_phrase(name: str) -> str:
    """How a micro-batch is run, from the name of its strategy, to follow "run"."""
    words = STRATEGY_WORDS.get(name, f"by {name}")
    return f"with {words}" if name in ("checkpoint", "offload") else words
