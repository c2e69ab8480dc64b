"""The checkpoints in a run folder: which are complete, and which one to resume from. `training.checkpoint` reads
tensors."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path

import msgspec

from unsquare.errors import RunError
from unsquare.files import read_regular, require_regular
from unsquare.runs import upgrades
from unsquare.runs.reading import MALFORMED, NEW_RUN, DamagedFileError, decode_json, malformed, read_bytes, reason
from unsquare.runs.schemas import Manifest, State

BEST = "best"
"""The checkpoint of the highest mean per-class accuracy on the val split."""
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
UNAVERAGED = "unaveraged.safetensors"
"""The weights that training goes on from, where model.safetensors has averages of them; else there is no such file."""
MANIFEST = "manifest.json"
_DAMAGE = (None, errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EIO)
"""Errors that mean that a file is missing, not a regular file, or lost by its disk. Others, such as missing permission
or a server that does not answer, tell nothing of its content: a complete checkpoint must not be skipped, and then
deleted, because of them."""


def by_step(folder: Path) -> list[Path]:
    """The checkpoints named by their step, oldest first, complete or not."""
    found = [path for path in folder.glob("step-*") if path.name[5:].isdecimal()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def last_step(folder: Path) -> int:
    """The step of the last checkpoint, complete or not, by its name; 0 where there is none."""
    return max((int(path.name[5:]) for path in by_step(folder)), default=0)


def newest(folder: Path) -> Path | None:
    """The newest complete checkpoint, or the best one where no other is complete; None where there is none at all.

    Raises:
        RunError: all are damaged, or one that may be complete cannot be read now.
    """
    _require_listable(folder)
    candidates = [*reversed(by_step(folder)), *([folder / BEST] if os.path.lexists(folder / BEST) else [])]
    problems = []
    for path in candidates:
        if not (wrong := problem(path)):
            return path
        problems.append(wrong)
    if problems:
        raise RunError(
            f"The run cannot be resumed, because no checkpoint in {folder} is complete ({problems[0]}); remove the run "
            "folder and start a new run."
        )
    return None


def _require_listable(folder: Path) -> None:
    """Refuse a folder that cannot be listed, by missing permission or a missing disk, since it may hold checkpoints."""
    try:
        if os.path.lexists(folder):
            os.listdir(folder)
    except OSError as error:
        raise _unreadable(f"The checkpoints in {folder}", error) from error


def _unreadable(what: str, error: OSError) -> RunError:
    """The error for files that may be complete, but cannot be read now."""
    remedy = "give yourself permission to read them" if isinstance(error, PermissionError) else "fix that"
    return RunError(f"{what} cannot be read ({reason(error)}); {remedy}, then give the same command again.")


def best_or_newest(folder: Path) -> tuple[Path, str]:
    """The best weights, or those of the newest checkpoint if the best cannot be used; and a message on that.

    Raises:
        RunError: no checkpoint is complete, or one that may be cannot be read now.
    """
    best = folder / BEST
    wrong = problem(best) if os.path.lexists(best) else "there are none yet"
    if not wrong:
        return best, ""
    found = newest(folder)
    if found is None:
        raise RunError(
            f"The run stopped before its first checkpoint, so {folder} holds none; repeat the command that started it."
        )
    return (
        found,
        f"The best weights of {folder.parent} cannot be used ({wrong}); those of {found.name} are used instead.",
    )


def problem(path: Path) -> str:
    """What is wrong with a checkpoint; empty where nothing is.

    Raises:
        RunError: it may be complete, but cannot be read now.
    """
    name = MANIFEST
    try:
        manifest = decode_json(path / name, read_regular(path / name), Manifest)
        for name in (*FILES, *({UNAVERAGED} & set(manifest.sha256))):
            if sha256_of(path / name) != manifest.sha256.get(name):
                return f"{path.name}/{name} has changed since it was written"
        read_state(path)
    except DamagedFileError as error:
        return f"{path.name}/{error.path.name} cannot be read: {error.reason}"
    except OSError as error:
        if error.errno not in _DAMAGE:
            raise _unreadable(f"The files of the checkpoint {path}", error) from error
        return f"{path.name}/{name} cannot be read: {reason(error)}"
    return ""


def read_state(path: Path) -> State:
    """The state of a run at a checkpoint.

    Raises:
        DamagedFileError: its state.json is damaged.
    """
    state: State = decode_json(path / "state.json", read_bytes(path / "state.json"), State)
    if state.origin is None:
        return state
    bounds = state.origin.bounds
    try:
        bounds = upgrades.limits(bounds) if bounds.get("version") == 2 else bounds
    except MALFORMED as error:
        raise DamagedFileError(path / "state.json", malformed(error), NEW_RUN) from error
    settings = upgrades.settings(state.origin.settings)
    origin = msgspec.structs.replace(state.origin, settings=settings, bounds=bounds)
    return msgspec.structs.replace(state, origin=origin)


def tidy(folder: Path) -> None:
    """Complete or undo what a process left that ended while it wrote a checkpoint."""
    for old in folder.glob(".*.old"):
        final = old.with_name(old.name[1 : -len(".old")])
        if not final.exists():  # it ended after moving the old one away and before moving the new one in
            os.replace(old, final)
        else:
            remove(old)
    for partial in folder.glob(".*.partial"):
        remove(partial)


def remove(path: Path) -> None:
    """Delete a checkpoint, or whatever has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a regular file; raises OSError where it cannot be read."""
    require_regular(path)
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
