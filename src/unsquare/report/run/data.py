"""The sections on what was trained on: shapes, padding, and files that could not be used."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from unsquare.index.by_shape import MOST_ASKED, ShapeOnly
from unsquare.index.table import ShapeIndex
from unsquare.report.kit import units
from unsquare.report.kit.content import Chart, Content, DataTable, Folded, Note, Paragraph, Section
from unsquare.report.kit.figures import thin
from unsquare.report.kit.shape_figures import Canvases, shapes_with_canvases
from unsquare.report.kit.statistics import random_batch_overhead
from unsquare.report.kit.words import ledger_rows, whole
from unsquare.report.run import figures
from unsquare.report.run.record import Record
from unsquare.runs.schemas import BucketRow
from unsquare.shapes import Sizes

_MOST_LISTED = 200
_BUCKETS_SHOWN = 12
_MOST_CANVASES = 300
_RANDOM_BATCHES = (8, 32)


def data_sections(record: Record) -> list[Section]:
    """The shapes that training sees, and what padding them costs."""
    return [Section("shapes", "Shapes", _shapes(record)), Section("padding", "Padding", _padding(record))]


def problem_sections(record: Record) -> list[Section]:
    """Files that could not be used, where there are any."""
    if record.index is None or not record.index.problems:
        return []
    problems = record.index.problems
    words = f"{units.plural(len(problems), 'file')} could not be used"
    words += f"; the first {_MOST_LISTED}:" if len(problems) > _MOST_LISTED else "."
    rows = [(problem.key, problem.reason) for problem in problems[:_MOST_LISTED]]
    return [Section("problems", "Unusable files", [Paragraph(words), DataTable(("file", "reason"), rows)])]


def _shapes(record: Record) -> list[Content]:
    if record.index is None:
        return [Note(record.lack_of("index.parquet", "There is no index"))]
    sizes = _by_split(record, record.index)
    if not sizes:
        return [Note("The index has no images.")]
    content: list[Content] = []
    if "config.toml" in record.damaged and not record.config:
        content.append(Note("Shapes are those of the files, because the run's settings cannot be read."))
    canvases = _canvases(record)
    shown = canvases[thin(len(canvases), _MOST_CANVASES)] if len(canvases) else canvases
    words = "Images as training sees them at full size."
    if len(canvases):
        some = f" ({len(shown):,} of them drawn)" if len(shown) < len(canvases) else ""
        words += (
            f" Corners are the {units.plural(len(canvases), 'canvas', 'canvases')} of an epoch{some}: an image "
            "fits on a canvas if it lies to the left of its corner and below."
        )
    figure = shapes_with_canvases(sizes, Canvases(shown))
    content += [Paragraph(words), Chart(figure, "Images by width and height, with canvases")]
    return [*content, Paragraph(_by_shape_alone(record.shape_only))] if record.shape_only else content


def _by_shape_alone(found: ShapeOnly) -> str:
    """How far shapes tell the class."""
    judges = "judges" if found.neighbors == 1 else "vote"
    images = f"{units.plural(found.num_asked, 'image')}" + (" (a sample)" if found.num_asked == MOST_ASKED else "")
    return (
        f"Width and height alone tell the class of {units.percent(found.accuracy)} of {images}: the "
        f"{units.plural(found.neighbors, 'training image')} nearest in shape {judges}. Always answering the class that "
        f"is most frequent in training is right for {units.percent(found.chance)}."
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


def _canvases(record: Record) -> Sizes:
    """The canvases of the planned epoch, smallest first, (n, 2)."""
    micro_batches = record.plan.micro_batches if record.plan else []
    canvases = sorted({(height, width) for _, height, width in micro_batches}, key=lambda one: (one[0] * one[1], one))
    return np.array(canvases, dtype=np.int64).reshape(-1, 2)


def _padding(record: Record) -> list[Content]:
    if record.plan is None:
        return [Note(record.lack_of("plan.json", "There is no plan"))]
    ledger = record.plan.ledger
    bars = [("this run", ledger.padding_overhead)]
    sizes = record.training_sizes()
    for batch_size in _RANDOM_BATCHES:
        if len(sizes) >= batch_size:
            bars.append((f"random batches of {batch_size}", random_batch_overhead(sizes, batch_size)))
    rows = ledger_rows(msgspec.structs.asdict(ledger))
    content: list[Content] = [
        *map(Note, record.plan.remarks),
        Paragraph(
            "Computed pixels of an epoch at full size, beside those of shuffled batches of the same images padded to "
            "their largest. Here one more micro-batch takes as long as "
            f"{units.pixels(record.plan.limits.launch_pixels)}, so more padding is chosen where that costs less time."
        ),
        Chart(figures.padding_bars(bars), "Computed pixels against real pixels"),
        DataTable(("in an epoch at full size", ""), rows, numeric=(1,)),
    ]
    return [*content, _bucket_table(ledger.buckets)] if ledger.buckets else content


def _bucket_table(buckets: Sequence[BucketRow]) -> Folded:
    head = (
        "largest canvas (height x width)",
        "images",
        "micro-batches",
        "images in each: least / median / most",
        "padding overhead",
        "class skew",
    )
    rows = [_bucket_row(bucket) for bucket in buckets]
    content: list[Content] = [
        Paragraph(
            "By bucket, or by powers of two of the canvas's pixels. Class skew is how far the class mix is from that "
            "of all images: 0 is the same, 1 has nothing in common."
        ),
        DataTable(head, rows[:_BUCKETS_SHOWN], numeric=range(6)),
    ]
    if len(rows) > _BUCKETS_SHOWN:
        rest = DataTable(head, rows[_BUCKETS_SHOWN:], numeric=range(6))
        content.append(Folded(f"{len(rows) - _BUCKETS_SHOWN:,} more", [rest]))
    return Folded("Micro-batches by canvas", content)


def _bucket_row(bucket: BucketRow) -> tuple[str, ...]:
    height, width = bucket.canvas
    batches = (bucket.smallest_batch, bucket.median_batch, bucket.largest_batch)
    return (
        f"{height} x {width}",
        whole(bucket.num_images),
        whole(bucket.num_micro_batches),
        " / ".join(f"{value:g}" for value in batches if value is not None),
        "" if bucket.padding_overhead is None else units.percent(bucket.padding_overhead),
        "" if bucket.class_skew is None else f"{bucket.class_skew:.2f}",
    )
