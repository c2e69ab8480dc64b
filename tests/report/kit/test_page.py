"""Every kind of content as HTML: escaped, nested, and made of nothing but what it is given."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import pytest

from unsquare.errors import RunError
from unsquare.report.kit.content import (
    Chart,
    ConfusionMatrix,
    Content,
    DataTable,
    Definitions,
    Folded,
    Heading,
    Headline,
    Note,
    Page,
    Paragraph,
    Section,
    settings_tables,
)
from unsquare.report.kit.figures import Drawing
from unsquare.report.kit.page import render, write_page

HOSTILE = "<script>alert('1')</script>\"&\u202e\n\x00"
INERT = "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&#34;&amp;\\u202e\\n\\x00"


def page_with(*content: Content) -> Page:
    """A page with one section of this content."""
    return Page(title="title", lead=(), sections=[Section("one", "One", content)], footer="")


EVERY_KIND: list[Content] = [
    Paragraph(HOSTILE),
    Note(HOSTILE),
    Heading(HOSTILE),
    Chart(Drawing("data:wide", "data:narrow"), HOSTILE),
    DataTable((HOSTILE, "n"), [(HOSTILE, 3)], numeric=(1,)),
    ConfusionMatrix([HOSTILE, "b"], [[2, 1], [0, 3]], dense=False),
    Folded(HOSTILE, [Paragraph(HOSTILE)]),
    Definitions([(HOSTILE, HOSTILE)]),
]


@pytest.mark.parametrize("content", EVERY_KIND, ids=lambda one: type(one).__name__)
def test_every_kind_is_escaped(content: Content) -> None:
    """Whatever a value holds stays text, and what cannot be printed is written as an escape."""
    html = render(page_with(content))
    assert "<script" not in html
    assert INERT in html
    opened: list[str] = []

    class Nesting(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert {name for name, _ in attrs} <= _ATTRIBUTES
            if tag not in ("meta", "img", "source"):
                opened.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Nesting().feed(html)
    assert opened == []


_ATTRIBUTES = {
    *("lang", "charset", "name", "content", "class", "href", "id", "title", "style", "colspan", "rowspan"),
    *("media", "srcset", "src", "alt"),
}


def test_the_frame_is_escaped() -> None:
    """Title, lead, notes, headlines, names of sections and footer."""
    tile = Headline(HOSTILE, HOSTILE, HOSTILE)
    sections = [Section("one", HOSTILE, [])]
    html = render(Page(title=HOSTILE, lead=[HOSTILE], notes=[HOSTILE], tiles=[tile], sections=sections, footer=HOSTILE))
    assert "<script" not in html
    assert html.count(INERT) == 10


def test_a_matrix_has_titled_axes() -> None:
    """Rows are true classes, columns predicted ones; empty cells have no number."""
    html = render(page_with(ConfusionMatrix(["a", "b"], [[2, 1], [0, 3]], dense=True)))
    assert html.index("predicted class") < html.index("true class")
    assert 'class="scroll matrix dense"' in html
    assert [html.count(f">{count}</td>") for count in (0, 1, 2, 3)] == [0, 1, 1, 1]


def test_a_chart_has_a_drawing_for_narrow_screens() -> None:
    """The browser chooses by the width of its window."""
    html = render(page_with(Chart(Drawing("data:wide", "data:narrow"), "words")))
    assert '<source media="(max-width: 640px)" srcset="data:narrow"><img src="data:wide" alt="words">' in html


def test_settings_are_tables_by_group() -> None:
    """Single values first, then a folded table for each group."""
    single, group = settings_tables({"flip": True, "pyramid": [1, 2], "model": {"width": 10_000}})
    assert isinstance(single, DataTable)
    assert list(single.rows) == [("flip", "yes"), ("pyramid", "1, 2")]
    assert isinstance(group, Folded)
    assert group.content == [DataTable(("setting", "value"), [("width", "10,000")])]


def test_a_page_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A file stands where the folder would be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"page\.html cannot be written"):
        write_page(tmp_path / "file" / "page.html", page_with())
