"""Two plans to be compared, checked: before and after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from unsquare.errors import RunError
from unsquare.report.kit.statistics import FloatArray
from unsquare.runs.reading import require_version
from unsquare.runs.schemas import COMPARISON_VERSION


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedPlan:
    """One of the two plans."""

    name: str
    budget_bytes: float | None
    ledger: Mapping[str, Any]
    predicted_bytes: FloatArray
    """Of each micro-batch, largest first; none where its memory was not measured."""
    measured_bytes: FloatArray
    """Measured peak of each micro-batch that was run."""
    fills: FloatArray
    seconds: float | None
    """Predicted time of an epoch."""

    @property
    def peak_bytes(self) -> float | None:
        """The highest predicted peak."""
        return float(self.predicted_bytes[0]) if len(self.predicted_bytes) else None

    @property
    def median_fill(self) -> float | None:
        """Of the micro-batches."""
        return float(np.median(self.fills)) if len(self.fills) else None


def compared_plans(comparison: Mapping[str, Any]) -> tuple[ComparedPlan, ComparedPlan]:
    """Both plans of a comparison.

    Raises:
        RunError: it is of another version, or something is missing.
    """
    require_version(comparison.get("version"), COMPARISON_VERSION, "The comparison")
    try:
        before, after = (_compared(plan) for plan in comparison["plans"])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"A comparison has two plans with all their figures, but this one lacks {error}.") from error
    return before, after


def _compared(plan: Mapping[str, Any]) -> ComparedPlan:
    return ComparedPlan(
        name=str(plan["name"]),
        budget_bytes=plan["budget_bytes"],
        ledger=plan["ledger"],
        predicted_bytes=-np.sort(-np.array(plan["predicted_bytes"] or (), dtype=np.float64)),
        measured_bytes=np.array([row[3] for row in plan["measured_bytes"] or ()], dtype=np.float64),
        fills=np.array(plan["fills"], dtype=np.float64),
        seconds=plan["seconds"],
    )
