"""The frame of every page: one HTML file, without scripts and without outside resources."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from unsquare.errors import RunError
from unsquare.files import write_text
from unsquare.report import markup
from unsquare.report.markup import Section

_STYLE = """
:root { color-scheme: light; --ink: #2b333b; --soft: #5d6770; --line: #dde2e6; --blue: #27678f; }
* { box-sizing: border-box; }
body { margin: 0; background: #f4f6f7; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1040px; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 0 0 .6rem; }
h3 { font-size: 1.02rem; margin: 1.4rem 0 .3rem; }
p { margin: .5rem 0; max-width: 78ch; }
nav { margin: 1rem 0 1.5rem; font-size: .92rem; }
nav a { color: var(--blue); margin-right: .9rem; text-decoration: none; white-space: nowrap; }
nav a:hover { text-decoration: underline; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 1.3rem 1.5rem;
  margin: 0 0 1.1rem; }
.lead { font-size: 1.08rem; color: var(--soft); overflow-wrap: anywhere; }
.missing { color: var(--soft); font-style: italic; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(205px, 1fr)); gap: .8rem;
  margin: 0 0 1.1rem; }
.tile { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: .9rem 1.1rem; }
.tile .value { font-size: 1.6rem; font-weight: 650; line-height: 1.25; color: var(--blue); }
.tile .name { font-weight: 600; }
.tile .remark { color: var(--soft); font-size: .87rem; line-height: 1.4; }
figure { margin: .9rem 0 .3rem; overflow-x: auto; }
figure img { display: block; width: 100%; min-width: 620px; height: auto; }
.scroll { overflow-x: auto; margin: .7rem 0; }
table { border-collapse: collapse; font-size: .92rem; }
th, td { text-align: left; padding: .32rem .8rem .32rem 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 600; }
td { overflow-wrap: anywhere; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.named td:first-child { min-width: 13rem; } .named th.number { white-space: normal; }
details { margin: .5rem 0; } details details { margin-left: 1rem; }
summary { cursor: pointer; color: var(--blue); font-weight: 600; }
.matrix table { font-size: .82rem; }
.matrix th, .matrix td { border: 1px solid #fff; padding: 0; text-align: center; vertical-align: middle;
  font-variant-numeric: tabular-nums; }
.matrix td { min-width: 2.6rem; height: 2.1rem; overflow-wrap: normal; }
.matrix .row { text-align: right; padding-right: .6rem; white-space: nowrap; color: var(--ink);
  max-width: 16rem; overflow: hidden; text-overflow: ellipsis; position: sticky; left: 0; background: #fff; }
.matrix .column { vertical-align: bottom; color: var(--ink); padding: .2rem 0 .4rem; }
.matrix .column span { writing-mode: vertical-rl; transform: rotate(180deg); display: inline-block;
  max-height: 11rem; overflow: hidden; text-overflow: ellipsis; white-space: nowrap; }
.matrix.many td { min-width: 1.6rem; height: 1.5rem; font-size: .68rem; }
.matrix.many th { font-size: .74rem; font-weight: 500; }
dt { font-weight: 600; margin-top: .45rem; } dd { margin: 0 0 0 1.2rem; max-width: 78ch; }
footer { color: var(--soft); font-size: .87rem; margin-top: 1.5rem; }
@media (max-width: 620px) { section { padding: 1rem; } h1 { font-size: 1.5rem; } }
@media print { body { background: #fff; } section, .tile { break-inside: avoid; } nav { display: none; } }
"""


def page_of(title: str, head: str, sections: Sequence[Section], footer: str) -> str:
    """A whole page.

    Args:
        title: its name as plain text, for the window's title.
        head: markup above the links to the sections.
        sections: the parts, in order.
        footer: markup of the last line.
    """
    links = " ".join(f'<a href="#{one.anchor}">{markup.text(one.title)}</a>' for one in sections)
    bodies = "".join(
        f'<section id="{one.anchor}"><h2>{markup.text(one.title)}</h2>{one.body}</section>' for one in sections
    )
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{markup.text(title)} - unsquare</title><style>{_STYLE}</style></head><body><main>"
        f"{head}<nav>{links}</nav>{bodies}<footer>{footer}</footer>"
        "</main></body></html>\n"
    )


def write_page(path: Path, page: str) -> Path:
    """Write a page, whole or not at all, and return its path; its folder is made.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, page)
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); choose another place for it.") from error
    return path
