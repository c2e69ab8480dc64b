"""Which limits a plan assumes where no run says them, and whose they are: figures mean nothing without that.

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
"""The price of a launch that training takes with `--budget-pixels` alone, an accelerator's."""


@dataclass(frozen=True, kw_only=True)
class Assumed:
    """Limits, and whose they are."""

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
    limits, source = Limits(), "an accelerator's, since nothing was measured here yet; --limits-of names a run"
    if measured is not None and measured.limits.largest_pixels >= largest_pixels:
        limits, source = measured.limits, f"as {measured.what}"
    elif measured is not None:
        source = (
            f"an accelerator's, since the largest picture is above the {measured.limits.largest_pixels:,} pixels "
            f"{measured.what}"
        )
    if "launch_pixels" in given:
        source += "; the price of a launch as given"
    return Assumed(limits=replace(limits, **given), source=source)


def _source_of_pinned(given: Mapping[str, Any], measured: LastLimits | None) -> str:
    if "launch_pixels" in given:
        return "as given"
    source = "the budget as given; the price of a launch an accelerator's, as `unsquare train --budget-pixels` takes it"
    if measured is None:
        return source
    return f"{source}, where --launch-pixels {measured.limits.launch_pixels} was {measured.what}"
