"""The sections on the run as it went: memory, learning, time."""

from __future__ import annotations

from unsquare.report import markup, run_figures, units
from unsquare.report.markup import Section
from unsquare.report.record import Record
from unsquare.report.timing import data_wait_share, time_parts, total_seconds


def progress_sections(record: Record) -> list[Section]:
    """Memory against time, the curves, and where the time went."""
    return [
        Section("memory", "Memory", _memory(record)),
        Section("training", "Training", _training(record)),
        Section("time", "Time", _time(record)),
    ]


def _memory(record: Record) -> str:
    models, trace = record.models or {}, record.memory
    body = ""
    budget = models.get("budget_bytes")
    if trace is None:
        body += markup.note("There is no memory trace (memory.parquet) in this run folder.")
    else:
        where = "on the device" if trace.on_device else "held by the process (resident)"
        words = (
            f"Memory {where} over the run. The number of images in a micro-batch follows their size, so that "
            "memory stays below the budget whatever the shapes; a step is one or more micro-batches."
        )
        figure = run_figures.memory_over_time(trace, budget, record.steps)
        body += markup.paragraph(words) + markup.image(figure, "Memory and batch sizes over time")
    return body + (_model_table(record) if models else "")


def _model_table(record: Record) -> str:
    models = record.models or {}
    memory, time = models.get("memory") or {}, models.get("time") or {}
    rows = []
    if "budget_bytes" in models:
        rows.append(("memory budget", units.size(models["budget_bytes"])))
    if "bytes_per_pixel" in memory:
        per_megapixel = units.size(1e6 * memory["bytes_per_pixel"])
        rows.append(("predicted memory", f"{units.size(memory['fixed_bytes'])} + {per_megapixel} a megapixel"))
    if "s_per_pixel" in time:
        per_megapixel = units.duration(1e6 * time["s_per_pixel"])
        rows.append(("predicted time", f"{units.duration(time['fixed_s'])} + {per_megapixel} a megapixel"))
    if "budget_pixels" in models:
        rows.append(("largest micro-batch within the budget", units.pixels(models["budget_pixels"])))
    if "launch_pixels" in models:
        rows.append(("cost of one more micro-batch", f"as {units.pixels(models['launch_pixels'])}"))
    probes = models.get("probes") or ()
    head = ("images", "height", "width", "peak memory", "time")
    measured = [
        (
            each["images"],
            each["height"],
            each["width"],
            units.size(each["peak_bytes"]),
            units.duration(each["seconds"]),
        )
        for each in probes
    ]
    body = markup.table(("measured before training, for one micro-batch", ""), rows, numeric=(1,)) if rows else ""
    if measured:
        table = markup.table(head, measured, numeric=range(5))
        body += markup.folded(units.plural(len(measured), "probe step"), table)
    return body


def _training(record: Record) -> str:
    if not record.steps:
        return markup.note("There are no steps (metrics.jsonl) in this run folder.")
    words = "Points are single steps."
    if not record.evals:
        words += " The run was not evaluated yet."
    figure = run_figures.training_curves(record.steps, record.evals)
    return markup.paragraph(words) + markup.image(figure, "Loss, accuracy, learning rate and batch size by step")


def _time(record: Record) -> str:
    if not record.steps:
        return markup.note("There are no steps (metrics.jsonl) in this run folder.")
    share = data_wait_share(record.steps)
    words = (
        f"The run took {units.duration(total_seconds(record))}. Of the time of its steps, "
        f"{units.percent(share)} was spent waiting for images to be read and decoded."
    )
    if share > 0.1:
        words += " More workers, or faster storage, would shorten it."
    parts = [part for part in time_parts(record) if part[1] > 0]
    figure = markup.image(run_figures.time_shares(parts), "Shares of the time") if parts else ""
    return markup.paragraph(words) + figure
