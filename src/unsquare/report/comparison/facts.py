"""Figures of a plan that is compared with another."""

from __future__ import annotations

import numpy as np

from unsquare.report.kit.statistics import FloatArray
from unsquare.runs.schemas import ComparedPlan


def falling_peaks(plan: ComparedPlan) -> FloatArray:
    """Predicted peak bytes of each micro-batch, largest first; none where its memory was not measured."""
    return -np.sort(-np.array(plan.predicted_bytes or (), dtype=np.float64))


def highest_predicted(plan: ComparedPlan) -> float | None:
    """Bytes of the highest predicted peak; None where no peak is predicted."""
    return max(map(float, plan.predicted_bytes)) if plan.predicted_bytes else None


def highest_measured(plan: ComparedPlan) -> float | None:
    """Bytes of the highest measured peak; None where no micro-batch was measured."""
    return max((float(row[3]) for row in plan.measured_bytes), default=None)


def median_fill(plan: ComparedPlan) -> float | None:
    """Of the micro-batches; None where there are none."""
    return float(np.median(plan.fills)) if plan.fills else None
