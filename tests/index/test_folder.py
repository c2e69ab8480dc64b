"""How folders are read as classes and splits, and what is said about it."""

from __future__ import annotations

import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from unsquare.errors import SourceError
from unsquare.index import ShapeIndex, scan_source

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


def notes(index: ShapeIndex) -> dict[str, str]:
    """The texts of an index's notes by kind."""
    return {note.kind: note.text for note in index.notes}


def test_a_plain_folder_has_nothing_to_say(make_folder) -> None:
    """Two classes, two splits, pictures in each: no notes."""
    assert scan_source(make_folder(splits=("train", "val"))).notes == ()
    assert scan_source(make_folder(name="other")).notes == ()


def test_a_class_folder_that_is_not_utf8_makes_problems_and_no_class(make_folder, tmp_path: Path) -> None:
    """Its files are problems with readable names, the other classes stay, and the index can be written."""
    root = make_folder(num_images=2)
    os.rename(root / "dog", os.fsencode(root) + b"/caf\xe9")
    index = scan_source(root)
    assert index.classes == ("cat",)
    assert [problem.key for problem in index.problems] == ["caf\\udce9/0.jpg", "caf\\udce9/1.jpg"]
    assert {problem.reason for problem in index.problems} == {"has a name that is not UTF-8; rename it"}
    index.write(tmp_path / "index.parquet")
    assert ShapeIndex.read(tmp_path / "index.parquet").problems == index.problems


def test_a_source_that_is_not_utf8_is_read(make_folder, tmp_path: Path) -> None:
    """The source's own name is nobody's class: it is read, written and read again, and so is its index."""
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    os.rename(make_folder(num_images=1), root)
    index = scan_source(root)
    index.write(root / "index.parquet")
    again = ShapeIndex.read(root / "index.parquet")
    assert again.root == str(root)
    assert all(again.path(row).is_file() for row in range(len(again)))


def test_unicode_forms_are_one_class_and_keys_stay(make_folder) -> None:
    """A class composed here and decomposed there is one class; files keep the names that open them."""
    index = scan_source(make_folder(("cat", NFC, NFD), num_images=1))
    assert index.classes == (NFC, "cat")
    assert set(index.keys) == {"cat/0.jpg", f"{NFC}/0.jpg", f"{NFD}/0.jpg"}
    assert all(index.path(row).is_file() for row in range(3))
    assert "two Unicode forms" in notes(index)["unicode_forms"]


def test_folders_without_images_are_named(make_folder) -> None:
    """An empty class, a class of other files, an empty split and a class that one split lacks."""
    root = make_folder(splits=("train", "val"), num_images=1)
    for name in ("test", "train/owl", "val/notes/deep"):
        (root / name).mkdir(parents=True)
    (root / "val/notes/a.txt").write_text("notes")
    (note,) = scan_source(root).notes
    assert (note.kind, note.count, note.important) == ("empty_folder", 3, True)
    assert note.names == ("test", "train/owl", "val/notes")


def test_inner_folders_are_named_with_what_may_be_meant(make_folder) -> None:
    """Folders inside classes are said; a source one folder too high, and splits below classes, with a hint."""
    root = make_folder(splits=("train", "val"), num_images=1)
    assert scan_source(root).notes == ()
    text = notes(scan_source(root.parent))["inner_folder"]
    assert "4 folders inside class folders" in text
    assert "split folders belong above" in text
    assert f"give '{root}' as the source" in text
    sets = make_folder(splits=("training_set", "test_set"), num_images=1, name="sets")
    assert "call them train, val and test" in notes(scan_source(sets))["inner_folder"]
    deep = make_folder(("cat/young", "cat/old", "dog"), num_images=1, name="deep")
    assert "first 'cat/old' as 'cat'." in notes(scan_source(deep))["inner_folder"]


@pytest.mark.parametrize(
    "names", [("train", "dev"), ("Train", "cat"), ("val", "test", "dev"), ("valid", "testing", "a")]
)
def test_splits_beside_other_folders_are_refused(make_folder, names: tuple[str, ...]) -> None:
    """train beside something else, or two splits beside it: no guess is made."""
    with pytest.raises(SourceError, match="which is not a split"):
        scan_source(make_folder(tuple(f"{name}/cat" for name in names), num_images=1))


def test_one_split_name_among_classes_is_a_class_and_said(make_folder) -> None:
    """valid beside invalid is a class."""
    index = scan_source(make_folder(("valid", "invalid"), num_images=1))
    assert index.classes == ("invalid", "valid")
    assert "'valid' is read as a class" in notes(index)["split_as_class"]


def test_two_folders_of_one_split_are_said(make_folder) -> None:
    """val and validation are together val."""
    index = scan_source(make_folder(splits=("train", "val", "validation"), num_images=1))
    assert notes(index)["split_folders"] == "'val', 'validation' are together the split val."


def test_an_empty_source_says_what_was_left_out(make_folder) -> None:
    """A folder of hidden pictures alone is refused with that."""
    root = make_folder((".hidden",), num_images=1)
    with pytest.raises(SourceError, match=r"No images.*Left out 1 hidden file or folder"):
        scan_source(root)


def test_a_typo_is_answered_with_the_name_beside_it(make_folder, tmp_path: Path) -> None:
    """A missing source names the nearest that is there."""
    make_folder()
    with pytest.raises(SourceError, match="does not exist; did you mean 'pictures'"):
        scan_source(tmp_path / "pictrues")


@pytest.mark.parametrize("name", ["list.csv", "list.parquet", "list.csv.gz"])
def test_a_pipe_is_no_source(tmp_path: Path, name: str) -> None:
    """A pipe with the name of a manifest or an index is refused, not waited for."""
    os.mkfifo(tmp_path / name)
    with pytest.raises(SourceError, match="is not a source that can be read"):
        scan_source(tmp_path / name)


def test_one_source_has_one_name(make_folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source given with dots, doubled slashes or from elsewhere has the same root; a link keeps its own."""
    root = make_folder(num_images=1)
    monkeypatch.chdir(root)
    for written in (".", "../pictures", f"{root}//cat/..", "cat/../"):
        assert scan_source(Path(written)).root == str(root)
    (root / "link").symlink_to("cat")
    shutil.copy(root / "dog/0.jpg", root / "up.jpg")
    assert scan_source(Path("link/..")).root == str(root)


@pytest.mark.parametrize(
    "name",
    [
        *("a.jpg.tmp", "a.png~", "a.jpg.part", "a.jpg.crdownload", "a.PNG.BAK", "a.jpg_original", "a.webp.orig"),
        *("Unconfirmed 12.crdownload", "a.partial", "a.jpg.download", "a.jpg.temp", "~a.jpg.tmp"),
    ],
)
def test_backups_and_unfinished_files_are_left_out_and_said(make_folder, name: str) -> None:
    """Programs leave them beside the picture; a picture of such content is none of the class, whatever its case."""
    root = make_folder(num_images=1)
    shutil.copy(root / "cat/0.jpg", root / "cat" / name)
    index = scan_source(root)
    assert set(index.keys) == {"cat/0.jpg", "dog/0.jpg"}
    assert notes(index) == {"leftover": f"Left out 1 backup or unfinished file (by the end of the name): 'cat/{name}'."}


def test_leftovers_that_are_no_pictures_are_passed_over(make_folder) -> None:
    """Nothing is said of them, nor of names that only look alike."""
    root = make_folder(num_images=1)
    (root / "cat/notes.txt~").write_text("notes")
    for name in ("tmp.jpg", "~", "_original", "a.tmp.jpg", "tmp", "part.~1"):
        shutil.copy(root / "cat/0.jpg", root / "cat" / name)
    index = scan_source(root)
    assert len(index) == 8
    assert index.notes == ()


def test_a_folder_of_leftovers_alone_says_so(tmp_path: Path, write_picture) -> None:
    """There are no pictures, and the reason is named."""
    (tmp_path / "source/cat").mkdir(parents=True)
    shutil.move(write_picture("a.jpg"), tmp_path / "source/cat/a.jpg.part")
    with pytest.raises(SourceError, match=r"No images were found .* Left out 1 backup or unfinished file"):
        scan_source(tmp_path / "source")
