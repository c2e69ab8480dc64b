"""ARCHITECTURE.md names every module of the package, and its tables name files and definitions that exist."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "unsquare"
LINES = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()

_FOLDER = re.compile(r"([a-z\d_]+/)+")
_MODULES = re.compile(r"  ((?:\w+, )*\w+) +\S")
"""A line of a listing: two spaces, modules of the folder above, and what they are."""
_PATH = re.compile(r"`([\w/]+(?:\.py|/))`")
_DEFINITIONS = re.compile(r"`([\w/]+\.py)`: ((?:`[\w.]+`, )*`[\w.]+`)")


def _listed() -> list[str]:
    """The modules in the listings of folders, as paths in the package."""
    found, folder = [], None
    for line in LINES:
        if _FOLDER.fullmatch(line):
            folder = "" if line == "unsquare/" else line
        elif folder is not None and (match := _MODULES.match(line)):
            found += [f"{folder}{name}.py" for name in match[1].split(", ")]
        else:
            folder = None
    return found


def _cells() -> list[list[str]]:
    """The cells of each row of the tables."""
    return [line.strip("| ").split(" | ") for line in LINES if line.startswith("| ")]


@cache
def _defined(path: str) -> frozenset[str]:
    """The names that a module defines, those of a class as `Class.name`."""
    return frozenset(_names(ast.parse((PACKAGE / path).read_text(encoding="utf-8")).body))


def _names(body: list[ast.stmt], prefix: str = "") -> list[str]:
    found = []
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.append(prefix + node.name)
            found += _names(node.body, f"{node.name}.") if isinstance(node, ast.ClassDef) else []
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found += [prefix + target.id for target in targets if isinstance(target, ast.Name)]
    return found


def test_every_module_is_listed_once():
    """The listings have each module of the package once, and none that does not exist."""
    package = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    assert sorted(_listed()) == sorted(path for path in package if not path.endswith("__.py"))


def test_paths_in_tables_exist():
    """Each file or folder that a table names exists, in the package or in a run folder."""
    rows = [cells for cells in _cells() if "`checkpoints/" not in cells[0]]
    paths = {path for cells in rows for cell in cells for path in _PATH.findall(cell)}
    assert len(paths) > 40
    assert [path for path in sorted(paths) if not (PACKAGE / path).exists()] == []


def test_definitions_in_tables_exist():
    """What is named behind a file, as `plan/config.py`: `Limits.cost`, is defined there."""
    named = [match for cells in _cells() for cell in cells for match in _DEFINITIONS.findall(cell)]
    assert len(named) > 20
    for path, names in named:
        assert set(re.findall(r"[\w.]+", names)) <= _defined(path), path


def test_values_are_defined_where_the_table_says():
    """The table of values names the file of each, in the same order where there are several files."""
    rows = [cells for cells in _cells() if len(cells) == 3 and _PATH.fullmatch(cells[1].split("; ")[0])]
    assert len(rows) > 8
    for values, where, _ in rows:
        files = _PATH.findall(where)
        groups = values.split("; ") if len(files) > 1 else [values]
        assert len(groups) == len(files), values
        for path, names in zip(files, groups):
            assert set(re.findall(r"\w+", names)) <= _defined(path), path


@pytest.mark.parametrize("path", sorted((ROOT / "docs").glob("*.md")) + sorted(ROOT.glob("*.md")), ids=lambda p: p.name)
def test_links_lead_to_files(path: Path):
    """Each link of a document to another file of the repository leads to one."""
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not (path.parent / link).exists()] == []
