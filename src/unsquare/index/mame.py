"""Lists MAMe, museum photographs by medium, in its official layout: MAMe_dataset.csv beside folders of images.

The table alone is an ordinary manifest with sizes. If the images are there, their files are measured: the table has the
sizes of the originals, but a smaller version of the images is published, too.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from unsquare.index.listing import Listing, sorted_listing
from unsquare.index.manifest import read_manifest
from unsquare.index.text import strings

TABLE = "MAMe_dataset.csv"
_SAMPLE = 8
"""Number of names that must all be in a folder for it to be the folder of the images."""


def is_mame(folder: Path) -> bool:
    """Whether a folder has the layout in which MAMe is published."""
    return bool(_tables(folder))


def list_mame(folder: Path) -> Listing:
    """The images of MAMe; with measured sizes if they are there, else with those in the table."""
    table = _tables(folder)[0]
    listing = replace(read_manifest(table), notes=())  # its other columns are known, and not a mistake
    images = _image_folder(folder, [str(key) for key in listing.keys[:_SAMPLE]])
    if images is None:
        return listing
    prefix = "" if images == folder else images.relative_to(folder).as_posix() + "/"
    keys = strings([prefix + key for key in listing.keys])
    return sorted_listing(str(folder), keys, listing.labels, listing.splits)


def _tables(folder: Path) -> list[Path]:
    """The table, in the folder or one below it, as the archives unpack."""
    return [path for path in (folder / TABLE, *sorted(folder.glob(f"*/{TABLE}"))) if os.path.isfile(path)]


def _image_folder(folder: Path, names: list[str]) -> Path | None:
    """The folder, at most two below, that holds the images; of several, the one with the largest files."""
    candidates = [
        folder,
        *(path for path in sorted([*folder.glob("*"), *folder.glob("*/*")]) if os.path.isdir(path)),
    ]
    holding = [path for path in candidates if all(os.path.isfile(path / name) for name in names)]
    return max(holding, key=lambda path: sum((path / name).stat().st_size for name in names), default=None)
