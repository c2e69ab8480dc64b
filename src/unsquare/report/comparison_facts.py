"""Two plans to be compared, checked: before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unsquare.errors import RunError
from unsquare.report.memory_facts import MicroBatches
from unsquare.report.record import Floats
from unsquare.runs.reading import require_version
from unsquare.runs.schemas import COMPARISON_VERSION


@dataclass(frozen=True, kw_only=True, eq=False)
class Side:
    """One of the two plans."""

    name: str
    budget_bytes: float | None
    ledger: Mapping[str, Any]
    predicted_bytes: Floats
    """Of each micro-batch, largest first; none where the plan's bounds were pinned."""
    measured: MicroBatches
    """Those that were run."""
    fills: Floats
    seconds: float | None
    """Predicted time of an epoch."""

    @property
    def peak_bytes(self) -> float | None:
        """The highest that is foreseen."""
        return float(self.predicted_bytes[0]) if len(self.predicted_bytes) else None

    @property
    def median_fill(self) -> float | None:
        """Of the micro-batches."""
        return float(np.median(self.fills)) if len(self.fills) else None


def sides_of(comparison: Mapping[str, Any]) -> tuple[Side, Side]:
    """Both plans of a comparison.

    Raises:
        RunError: it is of another version, or something is missing.
    """
    require_version(comparison.get("version"), COMPARISON_VERSION, "The comparison")
    try:
        before, after = (_side(plan) for plan in comparison["plans"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"A comparison has two plans with all their figures, but this one lacks {error}.") from error
    return before, after


def _side(plan: Mapping[str, Any]) -> Side:
    return Side(
        name=str(plan["name"]),
        budget_bytes=plan["budget_bytes"],
        ledger=plan["ledger"],
        predicted_bytes=-np.sort(-np.array(plan["predicted_bytes"] or (), dtype=np.float64)),
        measured=MicroBatches.of_rows(plan["measured_bytes"] or ()),
        fills=np.array(plan["fills"], dtype=np.float64),
        seconds=plan["seconds"],
    )
