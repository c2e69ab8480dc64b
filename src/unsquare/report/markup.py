"""Small pieces of HTML. Whatever comes from files or settings passes through `text`: names of files and
classes are anybody's to choose.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Section(NamedTuple):
    """One part of the page."""

    anchor: str
    title: str
    body: str


def text(value: object) -> str:
    """The value as text that cannot be taken for markup; what is no character becomes an escape."""
    plain = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    visible = "".join(
        one if one.isprintable() or one == "\u00a0" else one.encode("unicode_escape").decode() for one in plain
    )
    return html.escape(visible, quote=True)


def paragraph(words: str) -> str:
    """A paragraph of markup."""
    return f"<p>{words}</p>"


def heading(words: str) -> str:
    """A heading within a section, of plain text."""
    return f"<h3>{text(words)}</h3>"


def note(words: str) -> str:
    """One line in place of what a run does not have yet."""
    return f'<p class="missing">{text(words)}</p>'


def image(address: str, description: str) -> str:
    """A figure that fills the width."""
    return f'<figure><img src="{address}" alt="{text(description)}"></figure>'


def tiles(values: Sequence[tuple[str, str, str]]) -> str:
    """Headline numbers: value, name, remark."""
    cells = "".join(
        f'<div class="tile"><div class="value">{text(value)}</div><div class="name">{text(name)}</div>'
        f'<div class="remark">{text(remark)}</div></div>'
        for value, name, remark in values
    )
    return f'<div class="tiles">{cells}</div>'


def table(head: Sequence[str], rows: Sequence[Sequence[object]], numeric: Sequence[int] = ()) -> str:
    """A table of texts.

    Args:
        head: names of the columns.
        rows: the cells.
        numeric: positions of the columns set flush right.
    """

    def cell(tag: str, position: int, value: object) -> str:
        kind = ' class="number"' if position in numeric else ""
        return f"<{tag}{kind}>{text(value)}</{tag}>"

    top = "".join(cell("th", position, name) for position, name in enumerate(head))
    lines = "".join(
        "<tr>" + "".join(cell("td", position, value) for position, value in enumerate(row)) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{lines}</tbody></table></div>'


def folded(title: str, body: str) -> str:
    """A part that opens on a click."""
    return f"<details><summary>{text(title)}</summary>{body}</details>"


def settings(values: Mapping[str, Any]) -> str:
    """Nested settings as one folded table for each group, single values first."""
    single = {name: value for name, value in values.items() if not isinstance(value, Mapping)}
    groups = {name: value for name, value in values.items() if isinstance(value, Mapping)}
    parts = [_setting_table(single)] if single else []
    parts += [folded(name, settings(value)) for name, value in groups.items()]
    return "".join(parts)


def _setting_table(values: Mapping[str, Any]) -> str:
    return table(("setting", "value"), [(name, _plain(value)) for name, value in values.items()])


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(each) for each in value)
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    return str(value)


def definitions(words: Sequence[tuple[str, str]]) -> str:
    """Words and what they mean."""
    return "<dl>" + "".join(f"<dt>{text(word)}</dt><dd>{text(meaning)}</dd>" for word, meaning in words) + "</dl>"
