"""`unsquare scan`: from a source to an index."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from unsquare.cli.arguments import ScanArguments
from unsquare.cli.output import print_json, progress_bar
from unsquare.errors import ConfigError, SourceError
from unsquare.index.alike import Duplicate, duplicate_remarks, with_groups
from unsquare.index.choices import Choices
from unsquare.index.remarks import class_counts, find_remarks
from unsquare.index.scan import ScanResult, scan
from unsquare.index.table import Remark, ShapeIndex
from unsquare.index.text import shown

_MOST_CLASSES = 50
"""Rows of the table of classes; --json lists all."""


_MOST_DUPLICATES = 20


def run(given: ScanArguments) -> int:
    """Run the command."""
    choices = Choices(pages=given.pages, bits=given.bits)
    previous = _previous(given.out)
    with progress_bar("reading headers") as progress:
        result = scan(
            given.source,
            previous=previous,
            choices=choices,
            task=given.task,
            workers=given.workers,
            progress=progress,
        )
    index = result.index
    if previous is not None and previous.root != index.root:
        raise SourceError(
            f"'{given.out}' is the index of another source, '{previous.root}'; name another file with --out."
        )
    if given.verify:
        from unsquare.data.verify import verify  # loads every decoder

        with progress_bar("decoding") as progress:
            index = verify(index, workers=given.workers, progress=progress)
    duplicates: tuple[Duplicate, ...] = ()
    if given.duplicates:
        from unsquare.data.duplicates import find_duplicates  # as above

        with progress_bar("comparing pictures") as progress:
            duplicates = find_duplicates(index, workers=given.workers, progress=progress)
        index = with_groups(index, duplicates)
    try:
        index.write(given.out)
    except OSError as error:
        raise ConfigError(
            f"The index '{given.out}' cannot be written ({error.strerror}); name another file with --out."
        ) from error
    remarks = (*find_remarks(index), *duplicate_remarks(index, duplicates))
    if given.json:
        listed = {"duplicates": [_described(index, each) for each in duplicates]} if given.duplicates else {}
        print_json(_summary(index, result, remarks, given.out) | listed)
    else:
        if given.duplicates:
            _print_duplicates(index, duplicates)
        _print(index, result, remarks, given.out)
    return 0


def _previous(out: Path) -> ShapeIndex | None:
    """The index that is there already; any other file is not overwritten."""
    if out.suffix.lower() != ".parquet" or out.is_dir():
        what = "is a folder" if out.is_dir() else "does not end in .parquet"
        raise ConfigError(f"--out must name the index, a file such as photos.parquet, but '{out}' {what}.")
    if not os.path.lexists(out):
        return None
    try:
        return ShapeIndex.read(out)
    except SourceError as error:
        fix = "name another file with --out, or delete it if it is an old index"
        raise SourceError(f"'{out}' is no index that can be updated; {fix} ({str(error).rstrip('.')}).") from error


def _summary(index: ShapeIndex, result: ScanResult, remarks: Sequence[Remark], out: Path) -> dict[str, Any]:
    return {
        "index": str(out),
        "num_images": len(index),
        "num_problems": len(index.problems),
        "choices": asdict(index.choices),
        "num_read": result.num_read,
        "num_reused": result.num_reused,
        "task": index.task,
        "classes": {name: sum(by_split.values()) for name, by_split in class_counts(index).items()},
        "class_splits": class_counts(index),
        "splits": {str(name): int((index.splits == name).sum()) for name in np.unique(index.splits.astype(str))},
        "pixels": [int(value) for value in _quantiles(index.sizes.prod(axis=1))],
        "problems": [{"path": problem.key, "reason": problem.reason} for problem in index.problems],
        "remarks": [asdict(remark) for remark in remarks],
    }


def _described(index: ShapeIndex, pair: Duplicate) -> dict[str, Any]:
    """A pair of near-duplicates, ready for JSON."""
    rows = (pair.first, pair.second)
    return {
        "paths": [index.keys[row] for row in rows],
        "splits": [index.splits[row] for row in rows],
        "labels": [_label(index, row) for row in rows],
        "distance": pair.distance,
        "in_two_splits": pair.in_two_splits,
        "with_two_labels": pair.with_two_labels,
    }


def _label(index: ShapeIndex, row: int) -> str | None:
    """What a picture is labeled with; None for a picture without a class."""
    return None if index.targets is None and index.labels[row] < 0 else index.label_text(row)


def _print_duplicates(index: ShapeIndex, duplicates: Sequence[Duplicate]) -> None:
    """A line for each of the first pairs of near-duplicates."""
    if not duplicates:
        print("near-duplicates: none found.")
    for pair in duplicates[:_MOST_DUPLICATES]:
        told = _described(index, pair)
        one, other = map(shown, told["paths"])
        splits = " in two splits" if pair.in_two_splits else ""
        between = ", " if index.targets is None else " / "  # several labels have commas of their own
        labels = f" with two labels ({between.join(shown(str(name)) for name in told['labels'])})"
        print(f"near-duplicates{splits}{labels * pair.with_two_labels}: {one} ~ {other} ({pair.distance} of 256 bits)")
    if len(duplicates) > _MOST_DUPLICATES:
        print(f"and {len(duplicates) - _MOST_DUPLICATES:,} more pairs; --json lists all.")


def _quantiles(values: np.ndarray) -> np.ndarray:
    return np.quantile(values, [0, 0.5, 1]) if len(values) else np.zeros(3)


def _print(index: ShapeIndex, result: ScanResult, remarks: Sequence[Remark], out: Path) -> None:
    _print_classes(index)
    for problem in index.problems:
        print(f"problem: {shown(problem.key)} {problem.reason}")
    for remark in remarks:
        print(f"remark: {remark.text}")
    least, median, most = _quantiles(index.sizes.prod(axis=1) / 1e6)
    splits = [
        f"{int((index.splits == name).sum()):,} {name or 'without split'}"
        for name in np.unique(index.splits.astype(str))
    ]
    print(
        f"{len(index):,} images ({', '.join(splits)}) {_learned(index)}, {least:.2f} to {most:.2f} MP, "
        f"median {median:.2f}; problems: {len(index.problems)}, remarks: {len(remarks)}."
    )
    print(f"Read {result.num_read:,} headers ({result.num_reused:,} were known) and wrote the index to {out}.")
    trainable = index.targets is not None or len(np.unique(index.labels[index.labels >= 0])) > 1
    task = "" if index.targets is None else f" --task {index.task}"
    if index.problems and trainable:
        print(f"`unsquare train {out}{task} --skip-bad` trains without these problems.", file=sys.stderr)
    elif index.choices != Choices() and trainable:
        print(f"`unsquare train {out}{task}` trains with these --pages and --bits.", file=sys.stderr)


def _learned(index: ShapeIndex) -> str:
    """What the images are labeled with, in words."""
    if index.targets is None:
        return f"of {len(index.classes)} class{'' if len(index.classes) == 1 else 'es'}"
    if index.task == "multilabel":
        return f"with {len(index.classes)} labels"
    known = index.targets[index.labeled, 0]
    span = f" from {known.min():g} to {known.max():g}" if len(known) else ""
    return f"with the number '{shown(index.classes[0])}'{span}"


def _print_classes(index: ShapeIndex) -> None:
    """The table of classes and their images by split."""
    counts = class_counts(index)
    if not counts:
        return
    splits = list(next(iter(counts.values())))
    table = Table(box=None)
    for name in ("class" if index.targets is None else "label", *(split or "images" for split in splits)):
        table.add_column(name, justify="left" if name in ("class", "label") else "right", overflow="fold")
    for name, by_split in list(counts.items())[:_MOST_CLASSES]:
        table.add_row(Text(shown(name)), *(f"{by_split[split]:,}" for split in splits))
    Console(highlight=False).print(table)
    if len(counts) > _MOST_CLASSES:
        print(f"and {len(counts) - _MOST_CLASSES:,} more classes; --json lists all.")
