"""Memory sizes as people write and read them: `8GiB`, `500MB`, `80%`."""

from __future__ import annotations

import re

from unsquare.errors import ConfigError
from unsquare.settings import received

MOST_BYTES = 1 << 62
"""What 64 bits hold; no machine has as much."""

_UNITS = {"": 1, "B": 1}
_UNITS |= {f"{letter}{suffix}": 1024**power for power, letter in enumerate("KMGT", 1) for suffix in ("", "iB")}
_UNITS |= {f"{letter}B": 1000**power for power, letter in enumerate("KMGT", 1)}
_UNITS = {unit.upper(): factor for unit, factor in _UNITS.items()}


def parse_bytes(text: str, available: int | None = None) -> int:
    """The number of bytes that a text such as `8GiB`, `500MB` or `6e9` stands for; `8G` is 8 GiB.

    Args:
        text: the size; where `available` is given it may be a percentage of that, such as `80%`.
        available: what 100 % is, in bytes.
    """
    part = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", text)
    if part and available is not None and 0 < float(part[1]) <= 100:
        return int(available * float(part[1]) / 100)
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", text, re.IGNORECASE | re.ASCII)
    unit = _UNITS.get(match[2].upper()) if match else None
    try:
        number = float(match[1]) if match else 0.0
    except ValueError:
        number = 0.0
    if unit is None or not 1 <= number * unit <= MOST_BYTES:
        hint = "" if available is None else ", or a percentage such as 80%"
        raise ConfigError(
            f"A memory size must be a number and a unit, such as 8GiB or 500MB{hint}, but is {received(text)}."
        )
    return int(number * unit)


def format_bytes(num_bytes: float) -> str:
    """A number of bytes for a person to read, in binary units: `5.2 GiB`."""
    for unit in ("B", "KiB", "MiB"):
        if num_bytes < 1024:
            return f"{num_bytes:.{int(unit != 'B' and num_bytes < 100)}f} {unit}"
        num_bytes /= 1024
    return f"{num_bytes:.1f} GiB"
