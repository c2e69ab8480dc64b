"""Columns of text, and names that can be printed on one line."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Strings = npt.NDArray[np.object_]


def empty_strings(length: int) -> Strings:
    """(length,) array of empty strings."""
    return np.full(length, "", dtype=object)


def strings(values: Sequence[str]) -> Strings:
    """(N,) object array of the values."""
    out = empty_strings(len(values))
    out[:] = values
    return out


def printable(key: str) -> str:
    """The key with bytes that are not UTF-8 escaped; a key that this changes cannot be stored."""
    return key.encode("utf-8", "backslashreplace").decode()


def shown(name: str) -> str:
    """The name on one line: line breaks and other characters that do not print are escaped."""
    if name.isprintable():
        return name
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in printable(name))
