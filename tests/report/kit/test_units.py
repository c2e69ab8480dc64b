"""Numbers as people read them."""

from __future__ import annotations

import pytest

from unsquare.report.kit import units


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (units.pixels(150_000), "150 kP"),
        (units.pixels(8.104e6), "8.1 MP"),
        (units.pixels(999_999), "1 MP"),
        (units.size(6 * 2**30), "6 GiB"),
        (units.duration(0.354), "0.35 s"),
        (units.duration(134), "2 min 14 s"),
        (units.duration(11_100), "3 h 5 min"),
        (units.percent(0.0312), "3.1 %"),
        (units.aspect(1.5), "1.5:1"),
        (units.aspect(0.25), "1:4"),
        (units.plural(1, "image"), "1 image"),
        (units.plural(1200, "image"), "1,200 images"),
        (units.digits(0.0), "0"),
    ],
)
def test_numbers_read_well(text: str, expected: str) -> None:
    """Three digits and a unit."""
    assert text.replace("\u00a0", " ") == expected
