"""Which limits a plan assumes where no run names them, and where they come from: figures mean nothing without that.

`unsquare plan` with some flags shows what `unsquare train` with the same flags would do here. Without a budget,
training measures the device: so a plan takes what training measured on this machine last, and an accelerator's figures
where it never did. With `--budget-pixels` training takes a fixed price of a launch: so does a plan.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from unsquare.errors import ConfigError
from unsquare.memory.cache import last_limits
from unsquare.plan.config import Limits

PINNED_LAUNCH_PIXELS = 500_000
"""The launch cost that training assumes with `--budget-pixels` alone, typical of an accelerator."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """Limits, and where they come from."""

    limits: Limits
    source: str
    """A clause for people: "as measured here on 2026-11-27 with resnet18 on cpu"."""

    def words(self) -> str:
        """The figures that decide what is padded."""
        return (
            f"{self.limits.budget_pixels:,} pixels per micro-batch, a launch costs {self.limits.launch_pixels:,} pixels"
        )


@dataclass(frozen=True, kw_only=True)
class LastLimits:
    """The limits that training measured on this machine last."""

    limits: Limits
    what: str
    """When and with what: "measured here on 2026-11-27 with resnet18 on cpu"."""

    @classmethod
    def read(cls) -> LastLimits | None:
        """None where nothing was measured, or nothing of it can be used."""
        found = last_limits()
        if found is None:
            return None
        try:
            limits = Limits.from_dict(found["limits"])
            network = f"{found['backbone']} in {found['precision']}"
            what = f"measured here on {found['date']} with {network} on {found['device']}"
        except (KeyError, TypeError, ConfigError):
            return None
        return cls(limits=limits, what=what)


def assumed_limits(given: Mapping[str, Any], largest_pixels: int) -> Assumed:
    """The limits of a plan.

    Args:
        given: fields of `Limits` that the user gave.
        largest_pixels: of the largest picture; where it does not fit what was measured here, training would measure on.
    """
    measured = LastLimits.read()
    if "budget_pixels" in given:
        limits = Limits(**{"launch_pixels": PINNED_LAUNCH_PIXELS, **given})
        return Assumed(limits=limits, source=_source_of_pinned(given, measured))
    source = "typical of an accelerator, since nothing was measured here yet; --limits-of takes those of a run"
    limits = Limits()
    if measured is not None and measured.limits.largest_pixels >= largest_pixels:
        limits, source = measured.limits, f"as {measured.what}"
    elif measured is not None:
        source = (
            "typical of an accelerator, since the largest picture exceeds the "
            f"{measured.limits.largest_pixels:,} pixels {measured.what}"
        )
    if "launch_pixels" in given:
        source += "; launch cost as given"
    return Assumed(limits=replace(limits, **given), source=source)


def _source_of_pinned(given: Mapping[str, Any], measured: LastLimits | None) -> str:
    if "launch_pixels" in given:
        return "as given"
    source = "budget as given; launch cost typical of an accelerator, as in `unsquare train --budget-pixels`"
    if measured is None:
        return source
    return f"{source}; --launch-pixels {measured.limits.launch_pixels} was {measured.what}"
