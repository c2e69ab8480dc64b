"""The sections on what was trained on: headline numbers, shapes, padding, problems, settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unsquare.index.table import ShapeIndex
from unsquare.report import figures, markup, shape_figures, units
from unsquare.report.ledger_words import ledger_rows, whole
from unsquare.report.markup import Section
from unsquare.report.record import Record
from unsquare.report.statistics import random_batch_overhead, wilson_interval
from unsquare.report.timing import data_wait_share, pixels_per_second, total_seconds
from unsquare.shapes import Shape, Sizes

_MOST_LISTED = 200
_BUCKETS_SHOWN = 12
_MOST_CANVASES = 300
_RANDOM_BATCHES = (8, 32)


def overview_sections(record: Record) -> tuple[str, list[Section]]:
    """The head of the page, and the sections on the data and the plan."""
    head = (
        f"<h1>{markup.text(record.name)}</h1>"
        f'<p class="lead">{markup.text(_describe(record))}</p>{"".join(map(markup.note, record.damage()))}'
        f"{markup.tiles(_headlines(record))}"
    )
    return head, [
        Section("shapes", "Shapes", _shapes(record)),
        Section("padding", "Padding", _padding(record)),
    ]


def closing_sections(record: Record) -> list[Section]:
    """What could not be used, where there is any, and the settings."""
    sections = []
    if record.index is not None and record.index.problems:
        sections.append(Section("problems", "Problems", _problems(record.index)))
    sections.append(Section("settings", "Settings", _settings(record)))
    return sections


def _describe(record: Record) -> str:
    """What was trained, in one sentence."""
    backbone = record.setting("model", "backbone") or "A network"
    words = [f"{backbone} trained"]
    if record.steps:
        words.append(f"for {units.plural(len(record.steps), 'step')}")
        epochs = record.steps[-1].get("epoch")
        if epochs is not None:
            words.append(f"({units.digits(epochs)} epochs)")
    sizes = record.training_sizes()
    if record.index is not None and len(sizes):
        pixels, aspect = sizes.prod(axis=1), sizes[:, 1] / sizes[:, 0]
        words.append(f"on {units.plural(len(sizes), 'image')}")
        words.append(f"of {units.plural(len(record.index.classes), 'class', 'classes')},")
        words.append(f"from {units.pixels(pixels.min())} to {units.pixels(pixels.max())}")
        words.append(f"and from {units.aspect(aspect.min())} to {units.aspect(aspect.max())} (width to height)")
    return " ".join(words) + "."


def _headlines(record: Record) -> list[tuple[str, str, str]]:
    tiles = []
    last = record.final or (record.evals[-1] if record.evals else None)
    if last is not None:
        low, high = wilson_interval(round(last["accuracy"] * last["num_images"]), last["num_images"])
        images = units.plural(last["num_images"], f"{last['split']} image".strip())
        remark = f"on {images}; {units.percent_range(low, high)} with 95\u00a0% confidence"
        tiles.append((units.percent(last["accuracy"]), "accuracy", remark))
        mean = last.get("mean_per_class_accuracy")
        if mean is not None:
            tiles.append((units.percent(mean), "mean per-class accuracy", "every class counts the same"))
    sizes = record.training_sizes()
    if len(sizes):
        total = int(sizes.prod(axis=1).sum())
        tiles.append((f"{len(sizes):,}", "training images", f"{units.pixels(total)} an epoch"))
    ledger = _ledger(record)
    if "padding_overhead" in ledger:
        tiles.append((units.percent(ledger["padding_overhead"]), "padding overhead", "computed beyond real pixels"))
    if record.memory is not None:
        tiles.append(_memory_tile(record))
    if record.steps:
        speed = pixels_per_second(record.steps)
        remark = f"{units.pixels(speed)} a second while training" if speed else ""
        tiles.append((units.duration(total_seconds(record)), "time", remark))
        tiles.append((units.percent(data_wait_share(record.steps)), "waiting for data", "of the time of the steps"))
    return tiles


def _memory_tile(record: Record) -> tuple[str, str, str]:
    assert record.memory is not None
    peak = float(record.memory.used_bytes.max())
    profile = record.limits.training if record.limits else None
    budget = profile.budget_bytes if profile else None
    where = "on the device" if record.memory.on_device else "of the process"
    remark = f"{units.percent(peak / budget, 0)} of the budget of {units.size(budget)}" if budget else where
    return units.size(peak), "peak memory", remark


def _shapes(record: Record) -> str:
    if record.index is None:
        return markup.note(record.lack_of("index.parquet", "There is no index"))
    sizes = _by_split(record, record.index)
    if not sizes:
        return markup.note("The index has no images.")
    note = ""
    if "config.toml" in record.damaged and not record.config:
        note = markup.note("Shapes are those of the files, since the run's settings cannot be read.")
    canvases = _canvases(record)
    shown = figures.thin(len(canvases), _MOST_CANVASES) if canvases else ()
    words = "Each point is an image as training sees it: to the right the wider, upwards the larger, both in doublings."
    if canvases:
        some = f" ({len(shown):,} are drawn)" if len(shown) < len(canvases) else ""
        words += (
            " Images are computed together on a common canvas, "
            f"{units.plural(len(canvases), 'canvas', 'canvases')} in the first epoch{some}. A canvas is "
            "drawn as a roof: the images that fit on it lie below its two slopes, and the closer they are to "
            "its tip, the less is padding."
        )
    return (
        note
        + markup.paragraph(words)
        + markup.image(
            shape_figures.shape_scatter(sizes, [canvases[at] for at in shown]),
            "Pixels of each image against its aspect ratio",
        )
    )


def _by_split(record: Record, index: ShapeIndex) -> dict[str, Sizes]:
    """Shapes as training or evaluation sees them, by split."""
    geometry = record.geometry()
    known = [name for name in ("train", "val", "test") if (index.splits == name).any()]
    parts = {name: index.sizes[index.splits == name] for name in known}
    rest = index.sizes[~np.isin(index.splits.astype(str), known)]
    if len(rest):
        parts["no split" if known else "all images"] = rest
    resized = {name: geometry.resize(sizes) for name, sizes in parts.items()}
    return {name: geometry.crop(sizes) if name == "train" else sizes for name, sizes in resized.items()}


def _canvases(record: Record) -> list[Shape]:
    """The canvases of the first epoch, smallest first."""
    micro_batches = (record.plan or {}).get("micro_batches", ())
    return sorted({Shape(height, width) for _, height, width in micro_batches}, key=lambda one: (one.pixels, one))


def _padding(record: Record) -> str:
    ledger = _ledger(record)
    if "padding_overhead" not in ledger:
        return markup.note(record.lack_of("plan.json", "There is no plan"))
    words = (
        "Images of different shapes go through the network together only when padded to one canvas, and what "
        "is computed on padding is wasted. For comparison, shuffled batches padded to their largest image, "
        "simulated on the same images."
    )
    bars = [("this run", float(ledger["padding_overhead"]))]
    sizes = record.training_sizes()
    for batch_size in _RANDOM_BATCHES:
        if len(sizes) >= batch_size:
            bars.append((f"random batches of {batch_size}", random_batch_overhead(sizes, batch_size)))
    figure = markup.image(shape_figures.padding_bars(bars), "Computed pixels against real pixels")
    body = (
        markup.paragraph(words) + figure + markup.table(("in the first epoch", ""), ledger_rows(ledger), numeric=(1,))
    )
    buckets = ledger.get("buckets") or ()
    return body + (_bucket_table(buckets) if buckets else "")


def _bucket_table(buckets: Sequence[Mapping[str, Any]]) -> str:
    head = (
        "largest canvas (height x width)",
        "images",
        "micro-batches",
        "images in each: least / median / most",
        "padding overhead",
        "class skew",
    )
    rows = [_bucket_row(bucket) for bucket in buckets]
    shown = markup.table(head, rows[:_BUCKETS_SHOWN], numeric=range(6))
    if len(rows) > _BUCKETS_SHOWN:
        rest = markup.table(head, rows[_BUCKETS_SHOWN:], numeric=range(6))
        shown += markup.folded(f"{len(rows) - _BUCKETS_SHOWN:,} more", rest)
    words = (
        "By bucket, or by doubling of the canvas where there are no buckets. Class skew is how far the "
        "classes there differ from those of all images: 0 is alike, 1 has none in common."
    )
    return markup.folded("Micro-batches by canvas", markup.paragraph(words) + shown)


def _bucket_row(bucket: Mapping[str, Any]) -> tuple[str, ...]:
    height, width = bucket["canvas"]
    skew, overhead = bucket.get("class_skew"), bucket.get("padding_overhead")
    batches = [bucket.get(name) for name in ("smallest_batch", "median_batch", "largest_batch")]
    return (
        f"{height} x {width}",
        whole(bucket.get("num_images", 0)),
        whole(bucket.get("num_micro_batches", 0)),
        " / ".join(f"{value:g}" for value in batches if value is not None),
        "" if overhead is None else units.percent(overhead),
        "" if skew is None else f"{skew:.2f}",
    )


def _problems(index: ShapeIndex) -> str:
    listed = index.problems[:_MOST_LISTED]
    words = f"{units.plural(len(index.problems), 'file')} could not be used."
    if len(listed) < len(index.problems):
        words += f" The first {len(listed)}:"
    rows = [(problem.key, problem.reason) for problem in listed]
    return markup.paragraph(words) + markup.table(("file", "reason"), rows)


def _settings(record: Record) -> str:
    if not record.config:
        return markup.note(record.lack_of("config.toml", "There are no settings"))
    words = ""
    if record.edited:
        words = markup.note(f"Not as the last checkpoint was trained with: {record.edited}.")
    elif "config.toml" in record.damaged:
        words = markup.note("These are the last checkpoint's.")
    return words + markup.settings(record.config)


def _ledger(record: Record) -> Mapping[str, Any]:
    return (record.plan or {}).get("ledger") or {}
