"""What a run was trained from, and what has changed since: settings, source, index, pictures.

Each checkpoint holds its settings and bounds, and the sums of index and source. So a run that goes on sees what was
edited under it, and writes again what was damaged.
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
"""The one setting that may grow: the run goes on for longer."""
_UNREADABLE = "cannot be read"
_SHOWN = 3
_STAT_THREADS = 16


def settings_of(run: RunFolder, origin: Origin | None) -> tuple[str, str]:
    """The settings of a run as a TOML text, and what to say of them; nothing where they are as they were.

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
            raise DamagedFileError(run.config, reason(error), "mend it") from error
        return tomli_w.dumps(origin.settings), f"{run.config} cannot be read, so the checkpoint's settings stand in."
    if origin is None:
        return text, ""
    changed = differences(origin.settings, now)
    if all(path == EPOCHS and _grows(was, becomes) for path, was, becomes in changed):
        return text, ""
    raise RunError(
        f"A run goes on with the settings that it started with, but {run.config} has been edited: "
        f"{words_of(changed)}; put it back, remove it to take the checkpoint's settings, or start another run with "
        "--config."
    )


def require_same_settings(run: RunFolder, was: Settings, now: Settings) -> None:
    """Refuse settings other than a run's own; more epochs are none.

    Raises:
        RunError: names the settings that differ.
    """
    changed = differences(was, now)
    if all(path == EPOCHS and _grows(old, new) for path, old, new in changed):
        return
    raise RunError(
        f"The run in {run.path} goes on with its own settings, of which only the epochs may become more, but "
        f"{words_of(changed)}; give the same, or another folder with --out."
    )


def require_same_source(run: RunFolder, origin: Origin, source: Path) -> None:
    """Refuse a source other than a run's own.

    Raises:
        RunError: it is elsewhere, or a file that has changed.
    """
    path, digest = located(source)
    if path != origin.source:
        raise RunError(
            f"The run in {run.path} trains on {origin.source}, but was now given {path}; give the same source, or "
            "another folder with --out."
        )
    if digest != origin.source_sha256:
        raise RunError(
            f"The run in {run.path} goes on with the source that it started with, but {path} has changed since; put it "
            f"back, go on regardless with `unsquare train --resume {run.path}`, or give another folder with --out."
        )


def located(source: Path) -> tuple[str, str | None]:
    """Where a source is, and the sum over it where it is a file."""
    path = source.absolute()
    try:
        return str(path.resolve()), sha256_of(path) if path.is_file() else None
    except (OSError, RuntimeError) as error:  # a link that leads to itself
        raise RunError(f"The source {source} cannot be read ({reason(error)}); check the path.") from error


def index_of(run: RunFolder, origin: Origin | None, scan: Callable[[Path], ShapeIndex]) -> tuple[ShapeIndex, str]:
    """The index of a run as it was, and what to say of it where it had to be made again from the source.

    Args:
        run: the run folder; an index made again is written to it.
        origin: of the checkpoint.
        scan: makes the index of a source as the start did.

    Raises:
        RunError: it has changed, and the source gives another.
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
            f"A run goes on with the pictures that it started with, but its index {run.index} {wrong} and the source "
            f"{origin.source} now gives another; put one of them back, or start the run anew."
        )
    return read_index(run.index), f"{run.index} {wrong}, and was made again from the source."


def own_index(run: RunFolder, origin: Origin | None) -> ShapeIndex:
    """The index of a run that is used, not gone on with: as it was, or refused.

    Raises:
        RunError: it cannot be read, or is another than the run was trained with.
    """
    if origin is None:
        return read_index(run.index)
    remedy = f"put it back, or have `unsquare train --resume {run.path}` make it again"
    index = read_index(run.index, remedy)
    if sha256_of(run.index) != origin.index_sha256:
        raise RunError(f"The classes of a run are those of its index, but {run.index} has changed since; {remedy}.")
    return index


def bounds_of(run: RunFolder, origin: Origin | None) -> tuple[dict[str, Any], str]:
    """The content of `models.json` as it was, and what to say where the file is another now."""
    if origin is None:
        return run.read_json(run.models, RunLimits), ""
    try:
        same = run.read_json(run.models, RunLimits) == origin.bounds
    except RunError:
        same = False
    return origin.bounds, "" if same else f"{run.models} is not what it was, and is written again from the checkpoint."


def plan_words(run: RunFolder) -> str:
    """What to say where `plan.json`, which every start writes, is not what it was."""
    try:
        run.read_json(run.plan, PlanFile)
    except RunError:
        return f"{run.plan} has changed or is damaged; no weight depends on it, and training further writes it again."
    return ""


def differences(was: Settings, now: Settings) -> list[tuple[tuple[str, str], Any, Any]]:
    """The settings that differ: table and name, then both values; None where it is not set."""
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
    """Refuse pictures that are gone, or not of the length and time that the index has.

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
        f"A run goes on with the pictures that it started with, but of {len(index):,} in {source} these have changed "
        f"or are missing: {shown}{more}. {remedy}."
    )


def words_of_new_pictures(index: ShapeIndex, source: str, scan: Callable[[Path], ShapeIndex]) -> str:
    """What to say where a source has other pictures than a run was planned with; empty where it has the same.

    Args:
        index: the run's.
        source: where its pictures were looked for.
        scan: makes the index of a source; pictures that it cannot use do not count.
    """
    try:
        now = scan(Path(source))
    except SourceError as error:
        return f"A run goes on with its own pictures, but whether its source has new ones cannot be told: {error}"
    before, after = ({os.path.join(each.root, key) for key in each.keys} for each in (index, now))
    num_new, num_gone = len(after - before), len(before - after)
    if not num_new and not num_gone:
        return ""
    new = f"has {num_new:,} {'other' if num_new == 1 else 'others'}" if num_new else ""
    gone = f"lacks {num_gone:,} of them" if num_gone else ""
    return (
        f"A run goes on with the pictures that it was planned with, but {source} now "
        f"{' and '.join(filter(None, (new, gone)))}; start another run to train on what is there now."
    )


def with_changed_pictures(index: ShapeIndex) -> tuple[ShapeIndex, int]:
    """The index with the lengths and times that the pictures have now, and how many have changed.

    Raises:
        RunError: one is gone, damaged, or of another shape, by which the run was planned.
    """
    rows = [row for row in range(len(index)) if _change(index, row)]
    num_bytes, modified_ns = index.num_bytes.copy(), index.modified_ns.copy()
    for row in rows:
        try:
            shape, known = read_header(index.path(row)).shape, index.path(row).stat()
        except (ImageError, OSError) as error:
            said = str(error) if isinstance(error, ImageError) else f"cannot be read ({reason(error)})"
            raise RunError(
                f"Every picture of a run must be there, but '{index.keys[row]}' {said}; put it back."
            ) from error
        if tuple(shape) != tuple(index.sizes[row].tolist()):
            height, width = index.sizes[row]
            raise RunError(
                f"The run was planned by its pictures' shapes, but '{index.keys[row]}' was {height} x {width} and is "
                f"{shape}; put it back, or start the run anew."
            )
        num_bytes[row], modified_ns[row] = known.st_size, known.st_mtime_ns
    return replace(index, num_bytes=num_bytes, modified_ns=modified_ns), len(rows)


def _change(index: ShapeIndex, row: int) -> str:
    """What has become of a picture since the index was made; empty where nothing has."""
    try:
        known = index.path(row).stat()
    except OSError as error:
        return f"{_UNREADABLE} ({reason(error)})"
    if index.num_bytes[row] and known.st_size != index.num_bytes[row]:
        return f"had {index.num_bytes[row]:,} bytes and has {known.st_size:,}"
    if index.modified_ns[row] and known.st_mtime_ns != index.modified_ns[row]:
        return "was written to since"
    return ""


def _grows(was: Any, now: Any) -> bool:
    return isinstance(was, int) and isinstance(now, int) and now > was


def _value(value: Any) -> str:
    return "not set" if value is None else repr(value)
