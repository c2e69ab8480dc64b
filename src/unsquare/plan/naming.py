"""Errors of the planner, which knows positions, in the words of the user, who knows files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unsquare.errors import BudgetError
from unsquare.index.table import ShapeIndex
from unsquare.plan.planner import ImageOverBudgetError


@contextmanager
def naming(index: ShapeIndex, remedies: Callable[[int], str]) -> Iterator[None]:
    """Within the block, an image that exceeds the budget is named by its key instead of its position.

    Args:
        index: the images.
        remedies: what helps an image of so many pixels, beside shrinking it.
    """
    try:
        yield
    except ImageOverBudgetError as error:
        raise BudgetError(
            f"Each image must fit the memory budget alone, which holds {error.budget_pixels:,} pixels, but "
            f"{index.keys[error.position]} has {error.shape} = {error.shape.pixels:,}; "
            f"{remedies(error.shape.pixels)}, or shrink the pictures with --max-pixels {error.budget_pixels}."
        ) from error
