"""Numbers as people read them: three significant digits and a unit, kept on one line by no-break spaces."""

from __future__ import annotations

from math import floor, log10

_SPACE = "\u00a0"
"""A space where no line breaks."""


def digits(value: float, significant: int = 3) -> str:
    """The value to this many significant digits, without an exponent, thousands grouped."""
    if value == 0:
        return "0"
    decimals = max(0, significant - 1 - floor(log10(abs(value))))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def pixels(count: float) -> str:
    """A number of pixels, such as 150 kP, 8.1 MP or 207 GP."""
    return _scaled(count, 1000, ("px", "kP", "MP", "GP", "TP"))


def size(num_bytes: float) -> str:
    """A number of bytes, such as 6 GiB."""
    return _scaled(num_bytes, 1024, ("bytes", "KiB", "MiB", "GiB", "TiB"))


def duration(seconds: float) -> str:
    """A time span, such as 0.35 s, 2 min 14 s or 3 h 5 min."""
    if seconds < 60:
        return f"{digits(seconds, 2 if seconds < 10 else 3)}{_SPACE}s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s".replace(" ", _SPACE)
    return f"{whole // 3600:,} h {whole % 3600 // 60} min".replace(" ", _SPACE)


def percent(fraction: float, decimals: int = 1) -> str:
    """A fraction as a percentage."""
    return f"{100 * fraction:.{decimals}f}{_SPACE}%"


def percent_range(low: float, high: float) -> str:
    """An interval of fractions in whole percent."""
    return f"{100 * low:.0f} to {100 * high:.0f} %".replace(" ", _SPACE)


def aspect(ratio: float, significant: int = 2) -> str:
    """Width to height, such as 1.5:1 for 3:2 and 1:1.5 for 2:3."""
    return f"{digits(ratio, significant)}:1" if ratio >= 1 else f"1:{digits(1 / ratio, significant)}"


def plural(count: int, noun: str, many: str | None = None) -> str:
    """A count and its noun, such as 1 image or 1,200 images."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def _scaled(value: float, base: int, names: tuple[str, ...]) -> str:
    for name in names[:-1]:
        if abs(value) < 0.9995 * base:
            return f"{digits(value)}{_SPACE}{name}"
        value /= base
    return f"{digits(value)}{_SPACE}{names[-1]}"
