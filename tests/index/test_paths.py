"""Which file a manifest's path means."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.index.paths import clean_path, find_paths

parts = st.lists(st.sampled_from(["a", "b", "sub", "", ".", ".."]), min_size=1, max_size=8)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders a and b in each other, four deep, so that most paths of those names lead somewhere."""
    root = tmp_path_factory.mktemp("tree") / "top" / "root"
    for deep in ("a/a/a/a", "a/b/a/b", "b/a/b/a", "b/b/b/b", "sub/a/b"):
        (root / deep).mkdir(parents=True)
    (root / "a/link").symlink_to("../b/a")
    return root


@given(parts=parts, absolute=st.booleans())
def test_the_one_spelling_names_the_same_place(tree: Path, parts: list[str], absolute: bool) -> None:
    """Whatever stands between slashes, the clean path leads where the written one leads, and is clean already."""
    written = "/".join(parts)
    if absolute:
        written = f"{tree}/{written}"
    clean = clean_path(str(tree), written)
    if os.path.exists(tree / written) and clean:
        assert os.path.samefile(tree / written, tree / clean)
    assert clean_path(str(tree), clean) == clean
    assert "//" not in clean
    assert clean == "." or "/./" not in f"/{clean}/"


@pytest.mark.parametrize(
    "written", ["sub/a.jpg", "sub//a.jpg", "./sub/a.jpg", "sub/./a.jpg", "b/../sub/a.jpg", "{root}/sub/a.jpg"]
)
def test_spellings_of_one_path_are_one(tmp_path: Path, written: str) -> None:
    """Doubled slashes, dots, a way up and down, and the absolute path give the key of the plain path."""
    assert clean_path(str(tmp_path), written.format(root=tmp_path)) == "sub/a.jpg"


def test_a_way_up_out_of_a_link_stays(tree: Path) -> None:
    """`link/..` is the folder above what the link leads to, so it is not cut short."""
    (tree / "b/x.jpg").write_bytes(b"")
    assert clean_path(str(tree), "a/link/../x.jpg") == "a/link/../x.jpg"
    assert clean_path(str(tree), "a/b/../x.jpg") == "a/x.jpg"


def test_paths_outside_the_root_keep_their_kind(tmp_path: Path) -> None:
    """Relative paths to folders above stay relative, absolute ones elsewhere absolute."""
    root = str(tmp_path / "root")
    assert clean_path(root, "../other//a.jpg") == "../other/a.jpg"
    assert clean_path(root, "../root/a.jpg") == "a.jpg"
    assert clean_path(root, "/other/./a.jpg") == "/other/a.jpg"


def test_backslashes_are_folders_only_where_that_is_found(tmp_path: Path) -> None:
    """A name with a backslash that is there is that file; else the slashes of Windows are tried."""
    (tmp_path / "a").mkdir()
    for name in ("a/b.jpg", "a/c.jpg", "a\\c.jpg"):
        (tmp_path / name).write_bytes(b"")
    found = find_paths(tmp_path, ["a\\b.jpg", "a\\c.jpg", "a\\d.jpg", ".\\a\\\\b.jpg"])
    assert found.keys == ["a/b.jpg", "a\\c.jpg", "a\\d.jpg", "a/b.jpg"]
    assert found.backslashes == ["a\\b.jpg", ".\\a\\\\b.jpg"]
    assert found.missing == ["a\\d.jpg"]


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("inner", ["NFC", "NFD"])
def test_unicode_forms_find_each_other(tmp_path: Path, stored: str, inner: str) -> None:
    """A path in either form, or in both, is found as the file system spells it; the key is that spelling."""
    folder, name = unicodedata.normalize(stored, "café"), unicodedata.normalize(inner, "ö.jpg")
    (tmp_path / folder).mkdir()
    (tmp_path / folder / name).write_bytes(b"")
    for form in ("NFC", "NFD"):
        written = unicodedata.normalize(form, "café/ö.jpg")
        found = find_paths(tmp_path, [written])
        assert found.keys == [f"{folder}/{name}"]
        assert found.other_forms == ([] if written == found.keys[0] else [written])


def test_a_zero_byte_is_no_crash(tmp_path: Path) -> None:
    """A path that no file can have is missing."""
    assert find_paths(tmp_path, ["a\0b.jpg", "../a\0/../b.jpg"]).missing == ["a\0b.jpg", "../a\0/../b.jpg"]
