"""What lies below a folder, links followed."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from unsquare.errors import SourceError
from unsquare.index.walk import walk


def touch(root: Path, *names: str) -> Path:
    """Empty files below the root."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return root


def files(root: Path) -> list[str]:
    """The files found, sorted."""
    return sorted(key for key, _ in walk(root).files)


@pytest.mark.parametrize("target", ["self", "nowhere", "up/self", "/proc/nowhere"])
def test_a_link_that_leads_nowhere_stops_nothing(tmp_path: Path, target: str) -> None:
    """In circles or to what is not there: with a picture's name it is a file to report, else it is left out by name."""
    touch(tmp_path, "cat/0.jpg")
    (tmp_path / "up").symlink_to("up")
    (tmp_path / "self").symlink_to(target)
    (tmp_path / "cat/self.jpg").symlink_to("self.jpg" if target == "self" else target)
    found = walk(tmp_path)
    assert sorted(found.files) == [("cat/0.jpg", True), ("cat/self.jpg", False)]
    assert sorted(found.lost) == ["self", "up"]


def test_links_among_folders_end_and_do_not_multiply(tmp_path: Path) -> None:
    """Ten folders that all link to each other are each walked once below each of them."""
    names = [f"c{i}" for i in range(10)]
    touch(tmp_path, *(f"{name}/0.jpg" for name in names))
    for one in names:
        for other in names:
            (tmp_path / one / f"to_{other}").symlink_to(f"../{other}")
    assert len(walk(tmp_path).files) == 100


def test_a_folder_comes_before_the_links_to_it(tmp_path: Path) -> None:
    """Of a folder and a link to it in one class, the link is the one that is not followed."""
    touch(tmp_path, "cat/z/0.jpg")
    (tmp_path / "cat/a").symlink_to("z")
    found = walk(tmp_path)
    assert found.files == [("cat/z/0.jpg", True)]
    assert found.again == ["cat/a"]


def test_two_classes_and_two_splits_may_share_a_folder(tmp_path: Path) -> None:
    """A linked folder counts once in each class, in each split."""
    touch(tmp_path, "shared/0.jpg", "a/train/cat/1.jpg", "b/cat/2.jpg", "b/dog/3.jpg")
    (tmp_path / "a/val").symlink_to("train")
    assert files(tmp_path / "a") == ["train/cat/1.jpg", "val/cat/1.jpg"]
    for name in ("cat", "dog"):
        (tmp_path / "b" / name / "more").symlink_to(tmp_path / "shared")
    assert files(tmp_path / "b") == ["cat/2.jpg", "cat/more/0.jpg", "dog/3.jpg", "dog/more/0.jpg"]


def test_hidden_and_system_names_are_left_out_by_name(tmp_path: Path) -> None:
    """A dot first, or a name of archivers and drives: kept for the remark, unless it is no picture's."""
    left_out = ("._0.jpg", ".trashed-1-a.jpg", ".thumbnails/0.jpg", "@eaDir/0.jpg/thumb.jpg", "lost+found/0.jpg")
    touch(tmp_path, "cat/0.jpg", "cat/.DS_Store", ".gitignore", *(f"cat/{name}" for name in left_out))
    found = walk(tmp_path)
    assert found.files == [("cat/0.jpg", True)]
    assert sorted(found.hidden) == ["cat/._0.jpg", "cat/.thumbnails", "cat/.trashed-1-a.jpg"]
    assert sorted(found.system) == ["cat/@eaDir", "cat/lost+found"]


def test_what_is_no_regular_file_is_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipes, sockets and devices are found, not opened, and not taken for files."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    monkeypatch.chdir(tmp_path)  # the names of sockets are short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind("socket.jpg")
    assert sorted(walk(tmp_path).files) == [("pipe.jpg", False), ("socket.jpg", False), ("zero.jpg", False)]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path) -> None:
    """The error says which folder, and why."""
    with pytest.raises(SourceError, match=r"cat' cannot be read \(Not a directory\)"):
        walk(touch(tmp_path, "cat") / "cat")
