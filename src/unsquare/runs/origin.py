"""What a run was trained from, and what has changed since: settings, source, index, pictures.

Each checkpoint holds its settings and limits, and checksums of index and source. So a resumed run notices what was
edited meanwhile, and restores what was damaged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

from unsquare.errors import ImageError, RunError, SourceError, UnsquareError
from unsquare.index.header import read_header
from unsquare.index.table import ShapeIndex
from unsquare.runs import upgrades
from unsquare.runs.checkpoints import sha256_of
from unsquare.runs.folder import RunFolder
from unsquare.runs.memory_profile import RunLimits
from unsquare.runs.reading import DamagedFileError, reason
from unsquare.runs.schemas import Origin, PlanFile
from unsquare.runs.tables import read_index
from unsquare.toml import tomllib

Settings = Mapping[str, Mapping[str, Any]]
EPOCHS = ("optimizer", "epochs")
"""The setting that a resumed run may increase."""
PATIENCE = ("saving", "patience")
"""The setting that it may change, for no weight depends on it."""
_UNREADABLE = "cannot be read"
_SHOWN = 3
_STAT_THREADS = 16


def settings_of(run: RunFolder, origin: Origin | None) -> tuple[str, str]:
    """The settings of a run as a TOML text, and a message where the file is damaged; empty where it is unchanged.

    Raises:
        RunError: they were edited since the checkpoint was written, or cannot be read and no checkpoint has them.
    """
    try:
        text = run.read_config()
        now = upgrades.settings(tomllib.loads(text))
    except (DamagedFileError, tomllib.TOMLDecodeError) as error:
        if origin is None:
            if isinstance(error, DamagedFileError):
                raise
            raise DamagedFileError(run.config, reason(error), "fix it") from error
        return tomli_w.dumps(
            origin.settings
        ), f"{run.config} cannot be read; the checkpoint's settings are used instead."
    if origin is None:
        return text, ""
    changed = [each for each in differences(origin.settings, now) if not _may_change(*each)]
    if not changed:
        return text, ""
    raise RunError(
        f"A run resumes with its original settings, but {run.config} has been edited: {words_of(changed)}; put it "
        "back, remove it to use the checkpoint's settings, or start another run with --config."
    )


def require_same_settings(run: RunFolder, was: Settings, now: Settings) -> None:
    """Refuse settings other than a run's own, except for more epochs and another patience.

    Raises:
        RunError: names the settings that differ.
    """
    changed = [each for each in differences(was, now) if not _may_change(*each)]
    if not changed:
        return
    raise RunError(
        f"The run in {run.path} resumes with its own settings, of which only the epochs may increase and the "
        f"patience change, but {words_of(changed)}; give the same settings, or another folder with --out."
    )


def require_same_source(run: RunFolder, origin: Origin, source: Path) -> None:
    """Refuse a source that is not the run's own.

    Raises:
        RunError: it is another source, or a file that has changed.
    """
    path, digest = located(source)
    if path != origin.source:
        raise RunError(
            f"The run in {run.path} trains on {origin.source}, but {path} was given; give the same source, or another "
            "folder with --out."
        )
    if digest != origin.source_sha256:
        raise RunError(
            f"The run in {run.path} resumes with its original source, but {path} has changed since; put it back, "
            f"resume regardless with `unsquare train --resume {run.path}`, or give another folder with --out."
        )


def located(source: Path) -> tuple[str, str | None]:
    """The absolute path of a source, and its checksum where it is a file."""
    path = source.absolute()
    try:
        return str(path.resolve()), sha256_of(path) if path.is_file() else None
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise RunError(f"The source {source} cannot be read ({reason(error)}); check the path.") from error


def index_of(run: RunFolder, origin: Origin | None, scan: Callable[[Path], ShapeIndex]) -> tuple[ShapeIndex, str]:
    """The original index of a run, and a message where it had to be made again from the source.

    Args:
        run: the run folder; an index that is made again is written to it.
        origin: origin of the checkpoint.
        scan: makes the index of a source as the run's start did.

    Raises:
        RunError: it has changed, and the source gives another index.
    """
    if origin is None:
        return read_index(run.index), ""
    try:
        if sha256_of(run.index) == origin.index_sha256:
            return read_index(run.index), ""
        wrong = "has changed"
    except OSError as error:
        wrong = f"cannot be read ({reason(error)})"
    beside = run.index.with_name(f".{run.index.name}.{os.getpid()}.partial")
    try:
        scan(Path(origin.source)).write(beside)
        same = sha256_of(beside) == origin.index_sha256
        if same:
            with run.writing(run.index):
                os.replace(beside, run.index)
    except UnsquareError as error:
        raise RunError(f"The run's index {run.index} {wrong}, and cannot be made again: {error}") from error
    finally:
        beside.unlink(missing_ok=True)
    if not same:
        raise RunError(
            f"A run resumes with its original pictures, but its index {run.index} {wrong} and the source "
            f"{origin.source} now gives another; put one of them back, or start a new run."
        )
    return read_index(run.index), f"{run.index} {wrong}, and was made again from the source."


def own_index(run: RunFolder, origin: Origin | None) -> ShapeIndex:
    """The index of a run that is used without training it further; refused if it has changed.

    Raises:
        RunError: it cannot be read, or is not the one that the run was trained with.
    """
    if origin is None:
        return read_index(run.index)
    remedy = f"put it back, or have `unsquare train --resume {run.path}` make it again"
    index = read_index(run.index, remedy)
    if sha256_of(run.index) != origin.index_sha256:
        raise RunError(f"The run's classes are those of its index, but {run.index} has changed since; {remedy}.")
    return index


def limits_of(run: RunFolder, origin: Origin | None) -> tuple[dict[str, Any], str]:
    """The original content of `models.json`, and a message where the file has changed."""
    if origin is None:
        return run.read_json(run.models, RunLimits), ""
    try:
        same = run.read_json(run.models, RunLimits) == origin.bounds
    except RunError:
        same = False
    return origin.bounds, "" if same else f"{run.models} has changed or is damaged; it is restored from the checkpoint."


def plan_words(run: RunFolder) -> str:
    """The message where `plan.json`, which every start writes, has changed or is damaged."""
    try:
        run.read_json(run.plan, PlanFile)
    except RunError:
        return f"{run.plan} has changed or is damaged; no weight depends on it, and further training writes it again."
    return ""


def differences(was: Settings, now: Settings) -> list[tuple[tuple[str, str], Any, Any]]:
    """The settings that differ: table and name, then both values; None where a setting is not set."""
    found: list[tuple[tuple[str, str], Any, Any]] = []
    for table in sorted({*was, *now}):
        old, new = was.get(table), now.get(table)
        old, new = (part if isinstance(part, Mapping) else {} for part in (old, new))
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                found.append(((table, name), old.get(name), new.get(name)))
    return found


def words_of(changed: list[tuple[tuple[str, str], Any, Any]]) -> str:
    """The settings that differ, in words."""
    parts = [f"{table}.{name} was {_value(was)} and is {_value(now)}" for (table, name), was, now in changed]
    more = f" (and {len(parts) - _SHOWN} more)" if len(parts) > _SHOWN else ""
    return ", ".join(parts[:_SHOWN]) + more


def require_same_pictures(index: ShapeIndex, source: str) -> None:
    """Refuse pictures that are missing, or whose length or time differs from the index.

    Raises:
        RunError: names some of them.
    """
    rows = np.arange(len(index))
    with ThreadPoolExecutor(_STAT_THREADS) as pool:
        found = [(row, said) for row, said in zip(rows, pool.map(lambda row: _change(index, row), rows)) if said]
    if not found:
        return
    shown = "; ".join(f"'{index.keys[row]}' {said}" for row, said in found[:_SHOWN])
    more = f"; and {len(found) - _SHOWN:,} more" if len(found) > _SHOWN else ""
    gone = any(said.startswith(_UNREADABLE) for _, said in found)
    remedy = "Put them back" if gone else "Put them back, or take them as they are now with --changed-pictures"
    raise RunError(
        f"A run resumes with its original pictures, but of {len(index):,} in {source} these have changed or are "
        f"missing: {shown}{more}. {remedy}."
    )


def words_of_new_pictures(index: ShapeIndex, source: str, scan: Callable[[Path], ShapeIndex]) -> str:
    """The message where a source has other pictures than the run was planned with; empty where it has the same.

    Args:
        index: the run's.
        source: the run's source.
        scan: makes the index of a source; pictures that it cannot use are ignored.
    """
    try:
        now = scan(Path(source))
    except SourceError as error:
        return f"The run resumes with its original pictures; whether its source has new ones is unknown: {error}"
    before, after = ({os.path.join(each.root, key) for key in each.keys} for each in (index, now))
    num_new, num_gone = len(after - before), len(before - after)
    if not num_new and not num_gone:
        return ""
    new = f"has {num_new:,} {'other' if num_new == 1 else 'others'}" if num_new else ""
    gone = f"lacks {num_gone:,} of them" if num_gone else ""
    return (
        f"The run resumes with its original pictures, but {source} now {' and '.join(filter(None, (new, gone)))}; "
        "start another run to train on the present ones."
    )


def with_changed_pictures(index: ShapeIndex) -> tuple[ShapeIndex, int]:
    """The index with the pictures' present lengths and times, and how many have changed.

    Raises:
        RunError: one is missing, damaged, or no longer has the shape that the run was planned with.
    """
    rows = [row for row in range(len(index)) if _change(index, row)]
    num_bytes, modified_ns = index.num_bytes.copy(), index.modified_ns.copy()
    for row in rows:
        try:
            shape, known = read_header(index.path(row)).shape, index.path(row).stat()
        except (ImageError, OSError) as error:
            said = str(error) if isinstance(error, ImageError) else f"cannot be read ({reason(error)})"
            raise RunError(f"A run needs all of its pictures, but '{index.keys[row]}' {said}; put it back.") from error
        if tuple(shape) != tuple(index.sizes[row].tolist()):
            height, width = index.sizes[row]
            raise RunError(
                f"The run was planned by its pictures' shapes, but '{index.keys[row]}' was {height} x {width} and is "
                f"now {shape}; put it back, or start a new run."
            )
        num_bytes[row], modified_ns[row] = known.st_size, known.st_mtime_ns
    return replace(index, num_bytes=num_bytes, modified_ns=modified_ns), len(rows)


def _change(index: ShapeIndex, row: int) -> str:
    """How a picture has changed since the index was made; empty where it has not."""
    try:
        known = index.path(row).stat()
    except OSError as error:
        return f"{_UNREADABLE} ({reason(error)})"
    if index.num_bytes[row] and known.st_size != index.num_bytes[row]:
        return f"had {index.num_bytes[row]:,} bytes and has {known.st_size:,}"
    if index.modified_ns[row] and known.st_mtime_ns != index.modified_ns[row]:
        return "was written to since"
    return ""


def _may_change(path: tuple[str, str], was: Any, now: Any) -> bool:
    """Whether a setting may have another value from now on."""
    return path == PATIENCE or (path == EPOCHS and _grows(was, now))


def _grows(was: Any, now: Any) -> bool:
    return isinstance(was, int) and isinstance(now, int) and now > was


def _value(value: Any) -> str:
    return "not set" if value is None else repr(value)
