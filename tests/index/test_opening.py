"""Only regular files are opened: nothing that stands in a picture's place is waited for."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from unsquare.data.decode import decode
from unsquare.data.verify import verify
from unsquare.errors import ImageError
from unsquare.index import read_header, scan_source


@pytest.mark.parametrize("read", [read_header, decode])
def test_a_pipe_or_socket_or_device_is_refused(tmp_path: Path, read) -> None:
    """At once, without a writer at the pipe's other end."""
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(tmp_path)  # names of sockets are short
        listener.bind("socket.jpg")
        for path in (tmp_path / "pipe.jpg", tmp_path / "link.jpg", tmp_path / "socket.jpg", Path("/dev/zero")):
            with pytest.raises(ImageError, match="is not a regular file"):
                read(path)
    with pytest.raises(ImageError, match="is a folder"):
        read(tmp_path)


def test_a_file_that_becomes_a_pipe_between_looks_is_refused(write_picture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The open file is looked at again: what was a file a moment ago may be a pipe."""
    path = write_picture("a.jpg")
    status = os.stat(path)
    pipe = os.stat_result((stat.S_IFIFO | 0o600, *status[1:]))
    monkeypatch.setattr("unsquare.index.opening.os.fstat", lambda _: pipe)
    with pytest.raises(ImageError, match="is not a regular file"):
        read_header(path)


def test_pictures_that_became_pipes_are_problems(make_folder) -> None:
    """What was indexed and is a pipe now fails `verify`, as it would fail a run, instead of stopping it."""
    index = scan_source(make_folder(num_images=1))
    index.path(0).unlink()
    os.mkfifo(index.path(0))
    assert [problem.reason for problem in verify(index).problems] == ["is not a regular file"]
