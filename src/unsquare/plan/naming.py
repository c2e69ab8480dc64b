"""Errors of the planner, which knows positions, in the words of the user, who knows files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from unsquare.errors import BudgetError
from unsquare.index.table import ShapeIndex
from unsquare.plan.planner import ImageOverBudgetError


@contextmanager
def naming(index: ShapeIndex) -> Iterator[None]:
    """Within the block, an image that exceeds the budget is named by its key instead of its position."""
    try:
        yield
    except ImageOverBudgetError as error:
        raise BudgetError(
            f"Each image must fit the memory budget alone, which holds {error.budget_pixels:,} pixels, but "
            f"{index.keys[error.position]} has {error.shape} = {error.shape.pixels:,}; raise --memory (for a plan "
            "alone, --budget-pixels), try a network that can run piece by piece (--norm frozen, or convnext_tiny) or "
            f"--precision bf16-mixed, or shrink the pictures with --max-pixels {error.budget_pixels}."
        ) from error
