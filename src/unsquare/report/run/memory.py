"""The section on memory: over the run, around its highest, predicted and measured, and by execution strategy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unsquare.execution.strategy import Strategy
from unsquare.report.kit import trace_figures, units
from unsquare.report.kit.content import Chart, Content, DataTable, Folded, Heading, Note, Paragraph
from unsquare.report.kit.statistics import FloatArray
from unsquare.report.kit.trace import CloseUp, close_up
from unsquare.report.kit.words import PHASES, STRATEGIES, strategy_words
from unsquare.report.run import memory_figures
from unsquare.report.run.memory_facts import MicroBatches, predicted_bytes
from unsquare.report.run.record import Record
from unsquare.runs.memory_profile import MemoryProfile, RunLimits, StrategyProfile


def memory_content(record: Record) -> list[Content]:
    """Memory of a run: what it took, what was predicted, and by which strategies."""
    limits = record.limits
    profile = limits.training if limits else None
    batches = MicroBatches.of(record.steps)
    return [
        *_over_time(record, profile),
        *_shortages(record),
        *_predicted_and_measured(batches, profile, limits.world_size if limits else 1),
        *(_strategies(limits, batches) if limits and profile else ()),
        *([_pinned(limits)] if limits and profile is None else ()),
        *(() if limits else [Note(record.lack_of("models.json", "There is no memory profile"))]),
    ]


def _over_time(record: Record, profile: MemoryProfile | None) -> list[Content]:
    trace, budget = record.memory, profile.budget_bytes if profile else None
    if trace is None:
        return [Note(record.lack_of("memory.parquet", "There is no memory trace"))]
    where = "on the device" if trace.on_device else "of the process (resident)"
    words = (
        f"Memory {where} over the run. Micro-batches have fewer images where images are larger, so that memory stays "
        "within the budget; a step is one or more micro-batches."
    )
    content: list[Content] = [
        Paragraph(words),
        Chart(trace_figures.memory_over_time(trace, budget, record.steps), "Memory and batch sizes over time"),
    ]
    near = close_up(trace, record.steps)
    if near is None:
        return content
    return [
        *content,
        Heading("Around the highest peak"),
        Paragraph(_describe_peak(near)),
        Chart(
            trace_figures.around_the_peak(near, budget),
            "Memory, phases and micro-batches around the highest peak",
        ),
    ]


def _describe_peak(near: CloseUp) -> str:
    peak = near.peak
    when = PHASES.get(peak.phase, "between steps")
    words = f"The highest sample, {units.size(near.used_bytes.max())}, was taken {when}"
    if peak.images:
        words += f" of {units.plural(peak.images, 'image')} on a canvas of {peak.canvas[0]} x {peak.canvas[1]}"
    return words + "."


def _shortages(record: Record) -> list[Content]:
    short = [row for row in record.steps if row.shortages]
    if not short:
        return []
    total = sum(row.shortages for row in short)
    where = f"in step {short[0].step}" if len(short) == 1 else f"in {len(short)} steps, first in {short[0].step}"
    times = {1: "once", 2: "twice"}.get(total, f"{total:,} times")
    return [
        Paragraph(
            f"Memory ran short {times} ({where}). Micro-batches that ran out of memory were halved and run again "
            "(single images with a fallback), and later ones were made smaller; no image was lost. If other processes "
            "need memory, lower --memory."
        )
    ]


def _predicted_and_measured(batches: MicroBatches, profile: MemoryProfile | None, num_ranks: int) -> list[Content]:
    probed = profile is not None and any(each.probes for each in profile.measured)
    if not len(batches.pixels) and not probed:
        return []
    content: list[Content] = [Heading("Predicted and measured")]
    if not len(batches.pixels):
        content.append(Note("No micro-batch of the run was measured (metrics.jsonl)."))
    else:
        content.append(Paragraph(_describe_errors(batches, profile, num_ranks)))
    figure = memory_figures.predicted_and_measured(batches, profile, STRATEGIES)
    return [*content, Chart(figure, "Peak memory of each micro-batch against its computed pixels")]


def _describe_errors(batches: MicroBatches, profile: MemoryProfile | None, num_ranks: int) -> str:
    num = len(batches.pixels)
    whose = "run" if num_ranks == 1 else f"first of {num_ranks} ranks"
    words = f"{units.plural(num, 'micro-batch', 'micro-batches')} of the {whose}, by peak memory. "
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
        words += f" {units.plural(int((~known).sum()), 'micro-batch', 'micro-batches')} ran with unmeasured strategies."
    return f"{words} {_count(over, num)} exceeded the budget of {units.size(profile.budget_bytes)}."


def _error_words(error: FloatArray) -> str:
    size = np.abs(error)
    above = int((error > 0).sum())
    words = (
        f"Peaks differ from the prediction by {units.percent(float(np.median(size)))} (median), 95\u00a0% of them by "
        f"at most {units.percent(float(np.quantile(size, 0.95)))}."
    )
    if above:
        words += f" {_count(above, len(error))} exceeded the prediction, by up to {units.percent(float(error.max()))}."
    return words


def _kept_words(highest: float, bound: float) -> str:
    off = highest / bound - 1
    return (
        "The heap keeps freed memory, which is faster, so only micro-batches that raised the peak are drawn. The "
        f"highest, {units.size(highest)}, is {units.percent(abs(off))} {'above' if off > 0 else 'below'} the bound of "
        "the largest micro-batch. Lines are bounds: twice the slope through the probes, plus decoding."
    )


def _count(some: int, num: int) -> str:
    return "None" if not some else f"{some:,} of {num:,}"


def _strategies(limits: RunLimits, batches: MicroBatches) -> list[Content]:
    profile, evaluation = limits.training, limits.evaluation
    assert profile is not None
    assert evaluation is not None
    base, most = profile.base, dict(zip(profile.strategies, profile.most_pixels))
    head = (
        "strategy",
        "largest micro-batch",
        "bytes per pixel",
        "fixed",
        "time per megapixel",
        "relative time",
        "micro-batches run",
    )
    rows = []
    for name, each in zip(_names(profile.measured), profile.measured):
        price = each.time.s_per_pixel / base.time.s_per_pixel if base.time.s_per_pixel else 1.0
        rows.append(
            (
                name,
                units.pixels(most[each]) if each in most else "not used",
                units.digits(each.memory.bytes_per_pixel),
                units.size(each.memory.fixed_bytes),
                units.duration(1e6 * each.time.s_per_pixel),
                f"{price:.2f}",
                f"{int((batches.strategies == each.name).sum()):,}" if len(batches.strategies) else "unknown",
            )
        )
    return [
        Heading("Execution strategies"),
        Paragraph(
            "The memory profile of this device. Images share a micro-batch as long as it fits with the first "
            "strategy; an image too large for it uses the next fallback that fits."
        ),
        DataTable(head, rows, numeric=range(1, 7)),
        DataTable(("memory budget", ""), _budget_rows(profile), numeric=(1,)),
        *_probes("training", profile.measured),
        *_probes("evaluation", evaluation.measured),
    ]


def _budget_rows(profile: MemoryProfile) -> list[tuple[str, str]]:
    return [
        ("in all", units.size(profile.budget_bytes)),
        ("reserved for decoding", units.size(profile.reserved_bytes)),
        ("usable by plans, after headroom", units.size(profile.usable_bytes)),
        ("launch cost of one more micro-batch", units.pixels(profile.launch_pixels)),
    ]


def _probes(kind: str, measured: Sequence[StrategyProfile]) -> list[Content]:
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
        return []
    head = ("strategy", "images", "height x width", "peak memory", "time")
    table = DataTable(head, rows, numeric=(1, 2, 3, 4))
    return [Folded(f"{units.plural(len(rows), 'probe')} of {kind}", [table])]


def _names(measured: Sequence[StrategyProfile]) -> list[str]:
    """Name and words of each strategy; those of one name are numbered."""
    names: list[str] = []
    for number, each in enumerate(measured):
        words = f"{each.name}: {STRATEGIES[each.name]}" if _says_more(each.name) else each.name
        before = sum(other.name == each.name for other in measured[:number])
        names.append(f"{words} ({before + 1})" if before else words)
    return names


def _says_more(name: str) -> bool:
    return name in ("bf16", "checkpoint", "offload", "tile")


def _pinned(limits: RunLimits) -> Paragraph:
    return Paragraph(
        "Memory was not measured before training, because the settings pinned the limits: up to "
        f"{units.pixels(limits.budget_pixels)} computed in a micro-batch, with "
        f"{pinned_strategy_words(limits.strategy)}. Whether they fit was not checked."
    )


def pinned_strategy_words(strategy: Strategy) -> str:
    """An execution strategy in words, by what saves most memory in it."""
    kinds = ((strategy.tiles, "tile"), (strategy.offload, "offload"), (strategy.is_plain, "plain"))
    name = next((name for holds, name in kinds if holds), "checkpoint")
    return strategy_words(name) + (" in bfloat16" if strategy.bf16 else "")
