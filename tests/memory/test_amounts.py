"""Amounts of memory are read as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.errors import ConfigError
from unsquare.memory import amounts


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8GiB", 8 << 30), ("8G", 8 << 30), ("500MB", 500_000_000), (" 1.5 kib ", 1536), ("6e9", 6_000_000_000)],
)
def test_amounts_are_read(text, expected):
    """Binary and decimal units, fractions, any case."""
    assert amounts.parse_bytes(text) == expected


@pytest.mark.parametrize(("text", "part"), [("80%", 0.8), ("100 %", 1.0), ("12.5%", 0.125)])
def test_a_part_of_what_is_there_is_read(text, part):
    """A percentage is of what is available, and above 100 of nothing."""
    assert amounts.parse_bytes(text, available=1 << 30) == int(part * (1 << 30))
    with pytest.raises(ConfigError, match="80%"):
        amounts.parse_bytes("101%", available=1 << 30)
    with pytest.raises(ConfigError, match="A memory size must be"):
        amounts.parse_bytes(text)


@pytest.mark.parametrize("text", ["", "8 parsecs", "-1GiB", "GiB", "1.2.3GB", "0"])
def test_nonsense_is_refused(text):
    """What is no amount is quoted back."""
    with pytest.raises(ConfigError, match="A memory size must be"):
        amounts.parse_bytes(text)


@given(st.integers(1, 1 << 44))
def test_a_formatted_amount_is_near_itself(num_bytes):
    """Printing and reading again loses at most a twentieth."""
    again = amounts.parse_bytes(amounts.format_bytes(num_bytes))
    assert again == pytest.approx(num_bytes, rel=0.05, abs=1)
