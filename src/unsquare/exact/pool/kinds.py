"""Which pools there are and what they may be asked: what settings need to know of them, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from unsquare.errors import ConfigError

PoolKind = Literal["avg", "max", "avgmax", "catavgmax", "gem"]

MOST_LEVEL = 64
"""Bins along a side: maps that come to a pool are rarely larger."""
MOST_BINS = MOST_LEVEL**2
"""Bins of all levels: each makes the head's input as much longer as the map has channels."""


def check_levels(levels: Sequence[int], name: str) -> None:
    """Refuse levels that make no bins, or more than a head can take.

    Raises:
        ConfigError: they do.
    """
    num_bins = sum(level * level for level in levels)
    if not 1 <= num_bins <= MOST_BINS:
        raise ConfigError(
            f"{name} must list levels that make from 1 to {MOST_BINS:,} bins, but {list(levels)} make {num_bins:,}; "
            "try 1 2 4."
        )
