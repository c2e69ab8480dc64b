"""Keeps this machine's measurements between runs, so that the same network is not probed twice.

There is one file for each key, named by the key's digest. A measurement depends on the network, the optimizer, the
precision, the device and the libraries; all of them are in the key.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from unsquare.files import write_text

VERSION = 1


def cache_folder() -> Path:
    """Where measurements are stored: below the user's cache folder, which `XDG_CACHE_HOME` moves."""
    return user_cache_path("unsquare", appauthor=False) / "probes"


def remember_limits(backbone: str, precision: str, device: str, limits: Mapping[str, Any]) -> None:
    """Save the limits that training measured on this machine, for plans that are made without training."""
    key = {"backbone": backbone, "precision": precision, "device": device}
    now = {"date": time.strftime("%Y-%m-%d"), "time_s": time.time()}
    _limits_cache().put(key, {**key, **now, "limits": dict(limits)})


def last_limits() -> dict[str, Any] | None:
    """The values last given to `remember_limits`, with their date; None where there are none that can be read."""
    values = [value for value in _limits_cache().values() if isinstance(value, dict)]
    dated = [value for value in values if isinstance(value.get("time_s"), float)]
    return max(dated, key=lambda value: value["time_s"], default=None)


def _limits_cache() -> MeasurementCache:
    return MeasurementCache(cache_folder().parent / "limits")


class MeasurementCache:
    """Values by key, stored in a folder.

    Args:
        folder: created when the first value is put; None stores nothing.
        reads: whether values of before are found; if not, they are only replaced.
    """

    def __init__(self, folder: Path | None, *, reads: bool = True) -> None:
        self._folder, self._reads = folder, reads
        self.num_put = 0
        """Values that were put, whether or not they could be stored."""

    def get(self, key: Mapping[str, Any]) -> Any:
        """The value of a key; None where there is none, or its file is damaged."""
        found = None if self._folder is None or not self._reads else _read(self._path(key))
        return found["value"] if found is not None and found["key"] == _plain(key) else None

    def values(self) -> list[Any]:
        """All values, in no order, without damaged files."""
        paths = [] if self._folder is None else sorted(self._folder.glob("*.json"))
        return [found["value"] for found in map(_read, paths) if found is not None]

    def put(self, key: Mapping[str, Any], value: Any) -> None:
        """Store a value; if the folder cannot be written, nothing is stored and the next run measures again."""
        self.num_put += 1
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(self._path(key), json.dumps({"version": VERSION, "key": _plain(key), "value": value}, indent=1))
        except OSError:
            return

    def _path(self, key: Mapping[str, Any]) -> Path:
        assert self._folder is not None
        text = json.dumps(_plain(key), sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _read(path: Path) -> dict[str, Any] | None:
    """A file's key and value; None where it is missing, damaged or of another version."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return found if found["version"] == VERSION and "key" in found and "value" in found else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _plain(key: Mapping[str, Any]) -> Any:
    """The key after a round trip through JSON."""
    return json.loads(json.dumps(key, sort_keys=True, default=str))
