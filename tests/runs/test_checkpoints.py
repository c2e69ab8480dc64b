"""Of the checkpoints in a folder the newest that is whole is gone on from, whatever has become of the others."""

import errno
import json
import os

import pytest
import torch

from unsquare import files
from unsquare.errors import RunError
from unsquare.runs import checkpoints
from unsquare.training.checkpoint import TrainState, save

FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


@pytest.fixture
def folder(tmp_path):
    """Three checkpoints and the best."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for name, step in (("step-8", 8), ("step-9", 9), ("step-10", 10), ("best", 8)):
        save(tmp_path, name, model, optimizer, TrainState(step=step, epoch=1, step_of_epoch=0, time_s=1.0))
    return tmp_path


def damage(path, content):
    """Put other content, or another thing, in a file's place."""
    path.unlink()
    if content == "folder":
        path.mkdir()
    elif content == "pipe":
        os.mkfifo(path)
    elif content is not None:
        path.write_bytes(content)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"{}", b"7", b"\xff\xfe", b"", None, "folder", "pipe", b"[" * 99_999]
)
def test_a_damaged_checkpoint_is_passed_over(folder, file, content):
    """Whatever stands in a file's place, the checkpoint before is taken."""
    damage(folder / "step-10" / file, content)
    assert checkpoints.newest(folder).name == "step-9"


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_bit_is_found(folder, file):
    """In any file."""
    content = bytearray((folder / "step-10" / file).read_bytes())
    content[len(content) // 2] ^= 0x10
    (folder / "step-10" / file).write_bytes(content)
    assert "step-10" in checkpoints.problem(folder / "step-10")


@pytest.mark.parametrize("sums", [[], None, {"model.safetensors": 7}, {"model.safetensors": "0" * 64}])
def test_a_manifest_of_another_structure_is_a_problem(folder, sums):
    """JSON that is valid is not enough."""
    (folder / "step-10" / "manifest.json").write_text(json.dumps({"version": 1, "sha256": sums}))
    assert "step-10" in checkpoints.problem(folder / "step-10")


def test_the_best_is_gone_on_from_where_no_other_is_whole(folder):
    """Every whole checkpoint counts; where none is, that is said with what to do."""
    for name in ("step-8", "step-9", "step-10"):
        (folder / name / "model.safetensors").unlink()
    assert checkpoints.newest(folder).name == "best"
    (folder / "best" / "state.json").write_bytes(b"[]")
    with pytest.raises(
        RunError, match=r"no checkpoint in .* is complete \(step-10/model.safetensors .*start a new run"
    ):
        checkpoints.newest(folder)


def test_the_newest_stands_in_for_a_damaged_best(folder):
    """And it is said; a best that is whole is taken without a word."""
    assert checkpoints.best_or_newest(folder) == (folder / "best", "")
    (folder / "best" / "model.safetensors").write_bytes(b"")
    path, words = checkpoints.best_or_newest(folder)
    assert path.name == "step-10"
    assert "best/model.safetensors has changed" in words
    assert "step-10 are used instead" in words


def test_no_checkpoint_at_all(tmp_path):
    """Nothing or a half-written one is no checkpoint; asked for its weights, the way on is named."""
    (tmp_path / ".step-7.partial").mkdir()
    for folder in (tmp_path, tmp_path / "nothing"):
        assert checkpoints.newest(folder) is None
    with pytest.raises(RunError, match="stopped before its first checkpoint"):
        checkpoints.best_or_newest(tmp_path)


def test_checkpoints_that_cannot_be_seen_may_be_there(tmp_path):
    """A file, or a link to a disk that is away, in the folder's place is named: it is not the same as none."""
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    for name, why in (("file", "Not a directory"), ("link", "No such file or directory")):
        with pytest.raises(RunError, match=rf"{name} cannot be read \({why}\); fix that"):
            checkpoints.newest(tmp_path / name)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.EACCES, r"\(Permission denied\); give yourself permission to read them, then give the same command"),
        (errno.ETIMEDOUT, r"\(Connection timed out\); fix that, then give the same command again"),
    ],
)
@pytest.mark.parametrize("file", FILES)
def test_a_checkpoint_that_cannot_be_read_now_is_not_damaged(folder, monkeypatch, file, number, message):
    """Without permission, or from a server that does not answer: no other is taken in its place."""

    def fail(path):
        if path == folder / "step-10" / file:
            raise OSError(number, os.strerror(number))
        files.require_regular(path)

    monkeypatch.setattr(checkpoints, "require_regular", fail)
    monkeypatch.setattr(checkpoints, "read_regular", lambda path: fail(path) or path.read_bytes())
    with pytest.raises(RunError, match=rf"checkpoint .*step-10 cannot be read {message}"):
        checkpoints.newest(folder)
    assert checkpoints.best_or_newest(folder)[0].name == "best"


def test_a_checkpoint_without_permission_is_not_damaged(folder):
    """As the file system says it, which keeps nothing from root."""
    (folder / "step-10" / "model.safetensors").chmod(0)
    if os.access(folder / "step-10" / "model.safetensors", os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(RunError, match="give yourself permission"):
        checkpoints.newest(folder)


def test_a_checkpoint_that_was_moved_away_is_put_back(folder):
    """Killed between moving the old one away and the new one in, a process leaves the old one."""
    os.rename(folder / "best", folder / ".best.old")
    (folder / ".best.partial").mkdir()
    (folder / ".step-9.old").mkdir()
    checkpoints.tidy(folder)
    assert {path.name for path in folder.iterdir()} == {"best", "step-8", "step-9", "step-10"}
    assert not checkpoints.problem(folder / "best")
