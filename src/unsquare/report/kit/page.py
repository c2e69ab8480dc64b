"""A page as one HTML file, without scripts and without outside resources."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unsquare.errors import RunError
from unsquare.files import write_text
from unsquare.report.kit.content import Page


def render(page: Page) -> str:
    """The page as HTML."""
    return _environment().get_template("page.html").render(page=page)


def write_page(path: Path, page: Page) -> Path:
    """Write a page, whole or not at all, and return its path; its folder is made.

    Raises:
        RunError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, render(page))
    except OSError as error:
        raise RunError(f"{path} cannot be written ({error.strerror}); choose another place for it.") from error
    return path


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("unsquare.report.kit"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _visible(value: object) -> object:
    """Text whose unprintable characters are written as escapes: autoescape knows markup, but not what turns a line."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    known = value.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(
        one if one.isprintable() or one == "\u00a0" else one.encode("unicode_escape").decode() for one in known
    )
