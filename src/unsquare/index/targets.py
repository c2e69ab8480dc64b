"""What is learned of each picture: one class, several labels, or a number; made of the label texts of a source.

A source lists a text for each picture, as its class folder or in its manifest. The task decides how that text is read,
so that folders, manifests and indexes need no kinds of their own: as a class, as labels with a separator between them,
or as a number. Several columns of 0 and 1 are joined to such a text first (`joined_columns`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from unsquare.errors import ConfigError, SourceError
from unsquare.index.listing import class_name
from unsquare.index.table import TARGETS_VERSION, ShapeIndex, Task
from unsquare.index.text import Strings, shown, strings
from unsquare.settings import check_settings

VALUE = "value"
"""Name of what a regression predicts where no column names it."""
_YES, _NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
_LARGEST = 1e30
"""Largest value of a target: its square is a number, too."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """What is learned, and where a manifest has it.

    Example:
        >>> unsquare.TaskConfig(task="multilabel", label_columns=("cat", "dog")).task
        'multilabel'
    """

    task: Task = "classification"
    """What to learn of each picture: classification (one class), multilabel (any number of labels) or regression (a
    number)."""
    label_columns: tuple[str, ...] = ()
    """Columns of the manifest with the labels (default: label, class or medium). One column for every task; for
    multilabel also several, named after the labels, with 0 or 1 in each row."""
    label_separator: str = ";"
    """Text between the labels in a cell, for multilabel. A cell that holds nothing else is an image with none of the
    labels; a blank cell is an image whose labels are not known."""

    def __post_init__(self) -> None:
        check_settings(self)
        if not self.label_separator:
            raise ConfigError("label_separator must not be empty; the default is ;.")
        plain = [class_name(name.strip()).lower() for name in self.label_columns]
        if not all(plain) or len(set(plain)) < len(plain):
            raise ConfigError(f"label_columns must be different names, but are {', '.join(self.label_columns)!r}.")
        if len(plain) > 1 and self.task != "multilabel":
            raise ConfigError(
                f"Several label_columns are for the task multilabel, but the task is {self.task}; name one column, or "
                "give --task multilabel."
            )
        if inside := [name for name in self.label_columns if len(plain) > 1 and self.label_separator in name]:
            raise ConfigError(
                f"No name of several label_columns may contain the separator {self.label_separator!r}, but "
                f"{inside[0]!r} does; give another --label-separator."
            )


def with_task(index: ShapeIndex, config: TaskConfig) -> ShapeIndex:
    """The index with targets for a task in place of classes; images without a label get NaN.

    Raises:
        SourceError: the index was made for another task, or a label is not what the task needs.
    """
    if index.task != "classification":
        if config.task != index.task:
            raise SourceError(
                f"The index was made for the task {index.task}, but the task is {config.task}; give --task "
                f"{index.task}, or the source that the index was made of."
            )
        return index
    if config.task == "classification":
        return index
    names, of_text = _labels(index, config) if config.task == "multilabel" else _values(index, config)
    targets = np.append(of_text, np.full((1, len(names)), np.nan), axis=0)[index.labels]
    return replace(
        index,
        task=config.task,
        classes=names,
        labels=np.full(len(index), -1, dtype=np.int32),
        targets=targets,
        problems=tuple(replace(problem, label=-1) for problem in index.problems),
        version=TARGETS_VERSION,
    )


def joined_columns(columns: Mapping[str, Strings], separator: str, where: str) -> Strings:
    """Several columns of 0 and 1 as one of texts: the names of the columns that have 1 in a row.

    Raises:
        SourceError: a cell is neither 0 nor 1.
    """
    names = [class_name(name) for name in columns]
    there = np.zeros((len(next(iter(columns.values()))), len(names)), dtype=bool)
    for position, (name, cells) in enumerate(columns.items()):
        plain = [cell.lower() for cell in cells]
        if wrong := [row for row, cell in enumerate(plain) if cell not in (*_YES, *_NO)]:
            raise SourceError(
                f"Row {wrong[0] + 1} of {where} has '{shown(cells[wrong[0]])}' in the label column '{shown(name)}'; "
                "each row of several label columns must have 0 or 1 there."
            )
        there[:, position] = [cell in _YES for cell in plain]
    chosen = np.array(names, dtype=object)
    return strings([separator.join(chosen[row]) or separator for row in there])


def _labels(index: ShapeIndex, config: TaskConfig) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """The names of all labels, and which of them each text of the index has, (texts, labels)."""
    parts = [_parts(text, config.label_separator) for text in index.classes]
    columns = config.label_columns if len(config.label_columns) > 1 else ()
    # A column without a single 1 is a label all the same.
    names = tuple(class_name(name.strip()) for name in columns) or tuple(sorted(set().union(*parts)))
    if not names and index.classes:
        raise SourceError("No image has any label; an image needs at least one to learn from.")
    position = {name: at for at, name in enumerate(names)}
    there = np.zeros((len(parts), len(names)))
    for row, part in enumerate(parts):
        there[row, [position[name] for name in part]] = 1
    return names, there


def _parts(text: str, separator: str) -> set[str]:
    """The labels in a text."""
    if text.strip() == separator.strip():  # none of the labels, where cells lose the spaces around them
        return set()
    return {class_name(part.strip()) for part in text.split(separator) if part.strip()}


def _values(index: ShapeIndex, config: TaskConfig) -> tuple[tuple[str, ...], npt.NDArray[np.float64]]:
    """The name of the value, and the number that each text of the index is, (texts, 1)."""
    numbers = np.array([_number(text) for text in index.classes], dtype=np.float64)
    wrong = np.isin(index.labels, np.flatnonzero(np.isnan(numbers)))
    if wrong.any():
        first = int(wrong.argmax())
        text = index.classes[index.labels[first]]
        comma = "; write 1.5, not 1,5" if not math.isnan(_number(text.replace(",", "."))) else ""
        raise SourceError(
            f"A regression needs a number for each image, but {int(wrong.sum())} of {len(index)} have none, first "
            f"'{shown(index.keys[first])}' with '{shown(text)}'{comma}; fix or remove them, or name another column "
            "with --label-columns."
        )
    return config.label_columns or (VALUE,), numbers[:, None]


def _number(text: str) -> float:
    """The number that a text is; NaN where it is none, or is too large."""
    try:
        number = float(text)
    except ValueError:
        return math.nan
    return number if abs(number) <= _LARGEST else math.nan
