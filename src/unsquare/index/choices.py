"""The user's choices for files that can be read in more than one way.

A TIFF may hold several pages, of which a classifier uses one; and samples of 16 bits often use only 10 to 14 of them,
which are nearly black in the declared range. Neither can be told from a header, and any guess would be wrong for some
users: the scan lists such files as problems (`ambiguous`) until one of these settings decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from unsquare.settings import Range, check_settings


@dataclass(frozen=True, kw_only=True)
class Choices:
    """How to read files that can be read in more than one way.

    Example:
        >>> index = unsquare.scan_source("photos", choices=unsquare.Choices(pages="first"))
        >>> index.choices.pages
        'first'
    """

    pages: Literal["refuse", "first"] = "refuse"
    """A TIFF of several pages is a problem (refuse), or its first page is the picture (first)."""
    bits: Annotated[int, Range(8, 16)] | None = None
    """The number of bits that 16-bit samples in TIFF and PNG use: 12 shows 0 to 4095 as black to white, 16 the declared
    range. None shows the declared range, and makes files that use less than a quarter of it problems."""

    def __post_init__(self) -> None:
        check_settings(self)
