"""What a page is made of, as plain values; the templates turn each into HTML by the macro that it names.

No other module of the report holds markup. The templates escape whatever they are given, because names of files and
classes are anybody's to choose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from unsquare.report.kit.figures import Drawing


@dataclass(frozen=True)
class Paragraph:
    """Some sentences."""

    macro = "paragraph"
    words: str


@dataclass(frozen=True)
class Note:
    """One line in place of something that is not there."""

    macro = "note"
    words: str


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    macro = "heading"
    words: str


@dataclass(frozen=True)
class Chart:
    """A figure that fills the width, with another drawing of it for narrow screens."""

    macro = "chart"
    drawing: Drawing
    description: str
    """What it shows, for those who cannot see it."""


@dataclass(frozen=True)
class DataTable:
    """A table of texts."""

    macro = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    numeric: Sequence[int] = ()
    """Positions of the columns set flush right."""


@dataclass(frozen=True)
class ConfusionMatrix:
    """Counts of images by true class and predicted class."""

    macro = "matrix"
    classes: Sequence[str]
    counts: Sequence[Sequence[int]]
    """By true class, then by predicted class."""
    dense: bool
    """Small cells, for many classes."""

    @property
    def rows(self) -> list[tuple[str, list[tuple[int, float, bool]]]]:
        """Of each true class its name, and of its cells the count, the share of the row, and whether it is right."""
        found = []
        for row, (name, counts) in enumerate(zip(self.classes, self.counts)):
            total = max(sum(counts), 1)
            found.append((name, [(count, count / total, row == column) for column, count in enumerate(counts)]))
        return found


@dataclass(frozen=True)
class Folded:
    """A part that opens on a click."""

    macro = "folded"
    title: str
    content: Sequence[Content]


@dataclass(frozen=True)
class Definitions:
    """Terms and what they mean."""

    macro = "definitions"
    terms: Sequence[tuple[str, str]]


Content: TypeAlias = "Paragraph | Note | Heading | Chart | DataTable | ConfusionMatrix | Folded | Definitions"


@dataclass(frozen=True)
class Headline:
    """A headline number."""

    value: str
    name: str
    remark: str = ""


@dataclass(frozen=True)
class Section:
    """One part of the page, with a link to it at the top."""

    anchor: str
    title: str
    content: Sequence[Content]


@dataclass(frozen=True, kw_only=True)
class Page:
    """A whole page."""

    title: str
    lead: Sequence[str]
    """Sentences below the title, each a paragraph."""
    notes: Sequence[str] = ()
    """What is wrong, below the lead."""
    tiles: Sequence[Headline] = ()
    sections: Sequence[Section]
    footer: str


def settings_tables(values: Mapping[str, Any]) -> list[Content]:
    """Nested settings as one folded table for each group, single values first."""
    single = [(name, _plain(value)) for name, value in values.items() if not isinstance(value, Mapping)]
    groups = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    content: list[Content] = [DataTable(("setting", "value"), single)] if single else []
    return content + [Folded(name, settings_tables(value)) for name, value in groups.items()]


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return str(value)
