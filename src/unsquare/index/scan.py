"""Makes the index of a source: lists the images, and reads the headers of those that are new or changed.

Headers are read by threads, since reading mostly waits for the disk or the network. The result does not depend on their
number.
"""

from __future__ import annotations

import difflib
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt

from unsquare.errors import ImageError, SourceError
from unsquare.index.ambiguous import require_all_pixels, require_known_range, require_one_page
from unsquare.index.choices import Choices
from unsquare.index.folder import list_folder
from unsquare.index.header import header_of
from unsquare.index.listing import Listing
from unsquare.index.mame import is_mame, list_mame
from unsquare.index.manifest import MANIFEST_SUFFIXES, read_manifest
from unsquare.index.opening import open_regular
from unsquare.index.reading import image_errors, quiet
from unsquare.index.table import VERSION, Problem, ShapeIndex, is_index
from unsquare.index.targets import TaskConfig, with_task
from unsquare.index.text import empty_strings, printable, shown
from unsquare.progress import Progress
from unsquare.settings import MOST_WORKERS, Range, checks_arguments
from unsquare.shapes import Shape, Sizes

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")


@dataclass(frozen=True, kw_only=True)
class ScanResult:
    """An index, and how many headers were read for it."""

    index: ShapeIndex
    num_read: int
    """Files whose header was read."""
    num_reused: int
    """Files taken from the previous index, unchanged in length and time."""


@dataclass(frozen=True)
class _File:
    """The facts of one file: its shape, or the reason why it has none."""

    shape: Shape
    reason: str = ""
    num_bytes: int = 0
    modified_ns: int = 0


@checks_arguments
def scan_source(
    source: Path | str,
    *,
    previous: ShapeIndex | None = None,
    choices: Choices | None = None,
    task: TaskConfig | None = None,
    workers: Annotated[int, Range(1, MOST_WORKERS)] | None = None,
    progress: Progress | None = None,
) -> ShapeIndex:
    """The index of a source: a folder, a manifest (CSV or Parquet), MAMe, or an existing index.

    Args:
        source: the folder or file.
        previous: an earlier index; files with the same name, length and modification time are taken from it.
        choices: how to read files that can be read in more than one way; None makes them problems. An existing index
            keeps its own choices.
        task: what is to be learned, and which columns of a manifest have it; None takes classes, or what an existing
            index was made for.
        workers: number of threads that read headers; None chooses it for this machine.
        progress: called after each file with the numbers of files done and in all.

    Returns:
        A row for each image that can be used, in the order of the names, and a problem for each that cannot.

    Raises:
        SourceError: the source is none of these, or lists no images. Single bad files become problems
            instead.

    Example:
        >>> index = unsquare.scan_source("photos")
        >>> len(index), index.problems
        (10, ())
        >>> print(index.keys[0], unsquare.Shape(*index.sizes[0].tolist()))
        train/silk/0.png 40 x 64
    """
    found = scan(Path(source), previous=previous, choices=choices, task=task, workers=workers, progress=progress)
    return found.index


def scan(
    source: Path,
    *,
    previous: ShapeIndex | None = None,
    choices: Choices | None = None,
    task: TaskConfig | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ScanResult:
    """Like `scan_source`, with the numbers of files read and reused."""
    found = _scan(source, previous, choices or Choices(), task, workers or _default_workers(), progress)
    return found if task is None else replace(found, index=with_task(found.index, task))


def _scan(
    source: Path,
    previous: ShapeIndex | None,
    choices: Choices,
    task: TaskConfig | None,
    workers: int,
    progress: Progress | None,
) -> ScanResult:
    """The result with classes, as the source has them."""
    listed = _list_source(_absolute(Path(source)), task)
    if isinstance(listed, ShapeIndex):
        return ScanResult(index=listed, num_read=0, num_reused=len(listed))
    if listed.sizes is not None and not listed.root:
        unknown = np.zeros(len(listed.keys), dtype=np.int64)
        index = _index(listed, listed.sizes, unknown, unknown, ())
        return ScanResult(index=index, num_read=0, num_reused=0)
    return _scan_files(listed, _known(previous, choices), choices, workers, progress)


def _absolute(source: Path) -> Path:
    """The canonical name of a source, so that its index is recognized; `link/..` is kept, since it leads elsewhere."""
    plain = Path(os.path.abspath(source))
    try:
        return plain if plain.samefile(source) else source.absolute()
    except (OSError, ValueError):
        return source.absolute()


def is_manifest(source: Path) -> bool:
    """Whether a source is a manifest by its name, and not an index or a folder.

    Raises:
        SourceError: it is named like a Parquet file, and cannot be read as one.
    """
    named = source.name.lower().endswith(MANIFEST_SUFFIXES)
    return named and source.is_file() and not (source.suffix.lower() == ".parquet" and is_index(source))


def require_source(source: Path) -> int:
    """The kind of a source, as in `st_mode`.

    Raises:
        SourceError: it does not exist, or cannot be read.
    """
    name = shown(str(source))
    try:
        return source.stat().st_mode
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceError(
            f"The source '{name}' does not exist; {_nearest(source)}give a folder of class folders, or a manifest."
        ) from error
    except (OSError, ValueError) as error:
        raise SourceError(f"The source '{name}' cannot be read: {getattr(error, 'strerror', error)}.") from error


def _list_source(source: Path, task: TaskConfig | None) -> Listing | ShapeIndex:
    name, mode = shown(str(source)), require_source(source)
    if task is not None and task.label_columns and not is_manifest(source):
        raise SourceError(
            f"label_columns names columns of a manifest, but the source '{name}' is none; leave it out, or give a "
            "manifest."
        )
    if stat.S_ISDIR(mode):
        return list_mame(source) if is_mame(source) else list_folder(source)
    if stat.S_ISREG(mode) and source.suffix.lower() == ".parquet" and is_index(source):
        return ShapeIndex.read(source)
    if stat.S_ISREG(mode) and source.name.lower().endswith(MANIFEST_SUFFIXES):
        return read_manifest(source, task)
    unpacked = " (unpack it first)" if source.name.lower().endswith(_ARCHIVES) else ""
    raise SourceError(
        f"'{name}' is not a source that can be read; give a folder of class folders{unpacked}, a manifest "
        f"({', '.join(MANIFEST_SUFFIXES)}) with columns path and label, or an index made by `unsquare scan`."
    )


def _nearest(source: Path) -> str:
    """A question about the most similar name beside a missing source; "" where none is similar."""
    try:
        close = difflib.get_close_matches(source.name, os.listdir(source.parent), n=1)
    except OSError:
        return ""
    return f"did you mean '{shown(close[0])}'? Otherwise " if close else ""


def _default_workers() -> int:
    return min(16, 2 * (os.cpu_count() or 1))


def _known(previous: ShapeIndex | None, choices: Choices) -> dict[str, _File]:
    """The facts of each file in an earlier index, if it was made by the same rules."""
    if previous is None or previous.version < VERSION or previous.choices != choices:
        return {}
    columns = (
        previous.keys,
        previous.sizes.tolist(),
        previous.num_bytes.tolist(),
        previous.modified_ns.tolist(),
    )
    known = {key: _File(Shape(*size), "", length, time) for key, size, length, time in zip(*columns)}
    for problem in previous.problems:
        known[problem.key] = _File(Shape(0, 0), problem.reason, problem.num_bytes, problem.modified_ns)
    return known


def _scan_files(
    listing: Listing, known: dict[str, _File], choices: Choices, workers: int, progress: Progress | None
) -> ScanResult:
    files = []
    keys = listing.keys.tolist()
    told = repeat(None) if listing.sizes is None else (Shape(*size) for size in listing.sizes.tolist())
    with quiet(), ThreadPoolExecutor(workers) as pool:
        looked = pool.map(_look, repeat(listing.root), keys, map(known.get, keys), told, repeat(choices))
        for file in looked:
            files.append(file)
            if progress is not None:
                progress(len(files), len(keys))
    index = replace(_assemble(listing, files), choices=choices)
    if listing.sizes is not None:
        return ScanResult(index=index, num_read=0, num_reused=0)
    num_reused = sum(file is known.get(key) for key, file in zip(keys, files))
    return ScanResult(index=index, num_read=len(keys) - num_reused, num_reused=num_reused)


def _look(root: str, key: str, known: _File | None, told: Shape | None, choices: Choices) -> _File:
    """One file, taken from `known` if it has not changed; if its shape is given, it is not opened."""
    path = Path(root, key)
    num_bytes = modified_ns = 0
    try:
        if "\0" in key:
            raise ImageError("has a zero byte in its name")
        if printable(key) != key:
            raise ImageError("has a name that is not UTF-8; rename it")
        with image_errors():
            status = path.stat()
        num_bytes = status.st_size
        if stat.S_ISDIR(status.st_mode):
            raise ImageError("is a folder, not a file")
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("is not a regular file")
        if told is not None:
            return _File(told, "", num_bytes, status.st_mtime_ns)
        if known is not None and known.modified_ns == status.st_mtime_ns and known.num_bytes == num_bytes:
            return known
        with image_errors(), open_regular(path) as (fp, status):
            # Checked only now: a file that cannot be opened may become readable without changing, so it is tried again.
            num_bytes, modified_ns = status.st_size, status.st_mtime_ns
            header = header_of(fp, num_bytes)
            require_one_page(header, choices)
            require_known_range(fp, header, choices)
            require_all_pixels(fp, header)
            return _File(header.shape, "", num_bytes, modified_ns)
    except ImageError as error:
        return _File(Shape(0, 0), str(error), num_bytes, modified_ns)


def _assemble(listing: Listing, files: list[_File]) -> ShapeIndex:
    good = np.array([not file.reason for file in files], dtype=bool)
    rows = [file for file in files if not file.reason]
    positions = {name: i for i, name in enumerate(listing.classes)}
    problems = tuple(
        Problem(
            key=printable(listing.keys[i]),
            reason=files[i].reason,
            label=positions.get(listing.labels[i], -1),
            split=listing.splits[i],
            num_bytes=files[i].num_bytes,
            modified_ns=files[i].modified_ns,
        )
        for i in np.flatnonzero(~good)
    )
    sizes = np.array([file.shape for file in rows], dtype=np.int64).reshape(-1, 2)
    lengths = np.array([file.num_bytes for file in rows], dtype=np.int64)
    times = np.array([file.modified_ns for file in rows], dtype=np.int64)
    return _index(listing, sizes, lengths, times, problems, good)


def _index(
    listing: Listing,
    sizes: Sizes,
    num_bytes: npt.NDArray[np.int64],
    modified_ns: npt.NDArray[np.int64],
    problems: tuple[Problem, ...],
    rows: npt.NDArray[np.bool_] | slice = slice(None),
) -> ShapeIndex:
    positions = {name: i for i, name in enumerate(listing.classes)}
    return ShapeIndex(
        root=listing.root,
        classes=listing.classes,
        keys=listing.keys[rows],
        sizes=sizes,
        labels=np.array([positions.get(name, -1) for name in listing.labels[rows]], dtype=np.int32),
        splits=listing.splits[rows],
        groups=empty_strings(len(sizes)) if listing.groups is None else listing.groups[rows],
        num_bytes=num_bytes,
        modified_ns=modified_ns,
        problems=problems,
        notes=listing.notes,
    )
