"""What `unsquare profile` wrote, checked: a sweep of the batch size, and what the memory of one batch is made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from unsquare.errors import RunError
from unsquare.memory.model import MemoryModel
from unsquare.report.record import MemoryTrace, trace_of
from unsquare.runs.reading import require_version
from unsquare.runs.schemas import PROFILE_VERSION

MOST_LAYERS = 15


class SweepRow(NamedTuple):
    """One batch of the sweep."""

    images: int
    peak_bytes: float
    predicted_bytes: float
    seconds: float


class Sweep(NamedTuple):
    """Batches of one canvas, larger and larger, until one failed."""

    canvas: tuple[int, int]
    """Height and width."""
    strategy: str
    steps_each: int
    memory: MemoryModel
    limit_bytes: float | None
    """Where the process that tries is stopped."""
    rows: tuple[SweepRow, ...]
    failed_images: int | None
    """Images of the smallest batch that failed."""
    failure: str | None
    largest_images: int
    """Images of the largest batch that did not."""
    predicted_images: int

    def predicted_bytes(self, images: float) -> float:
        """What a batch of so many images was foreseen to take."""
        return self.memory.fixed_bytes + images * (
            self.memory.bytes_per_pixel * self.canvas[0] * self.canvas[1] + self.memory.bytes_per_image
        )


class Layer(NamedTuple):
    """What one layer holds."""

    name: str
    type: str
    activations: float
    weights: float

    @property
    def total(self) -> float:
        """Bytes in all."""
        return self.activations + self.weights


class Attribution(NamedTuple):
    """What the memory of one batch is made of at its peak."""

    images: int
    canvas: tuple[int, int]
    """Height and width."""
    strategy: str
    peak_bytes: float
    phase: str
    at: str
    """The layer at work."""
    kinds: tuple[tuple[str, float], ...]
    layers: tuple[Layer, ...]
    """Those that hold most first."""

    def largest(self) -> list[Layer]:
        """The layers that hold most, then all others as one."""
        rest = self.layers[MOST_LAYERS:]
        if not rest:
            return list(self.layers)
        others = Layer(
            f"{len(rest):,} others", "", sum(one.activations for one in rest), sum(one.weights for one in rest)
        )
        return [*self.layers[:MOST_LAYERS], others]


class Profile(NamedTuple):
    """All of it."""

    subject: str
    backbone: str
    device: str
    precision: str
    budget_bytes: float
    sweep: Sweep | None
    attribution: Attribution | None
    watch: MemoryTrace | None
    """Memory against time during the sweep."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Profile:
        """From the content of profile.json.

        Raises:
            RunError: it is of another version, or something is missing.
        """
        require_version(values.get("version"), PROFILE_VERSION, "profile.json")
        try:
            return cls(
                subject=values["subject"],
                backbone=values["backbone"],
                device=values["device"],
                precision=values["precision"],
                budget_bytes=float(values["budget_bytes"]),
                sweep=_sweep(values["sweep"]) if values.get("sweep") else None,
                attribution=_attribution(values["attribution"]) if values.get("attribution") else None,
                watch=trace_of(values["watch"]) if values.get("watch") else None,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"profile.json cannot be read ({error}); profile again, or move it away.") from error


def _sweep(values: Mapping[str, Any]) -> Sweep:
    height, width = values["canvas"]
    rows = [
        SweepRow(row["images"], row["peak_bytes"], row["predicted_bytes"], row["seconds"]) for row in values["rows"]
    ]
    return Sweep(
        canvas=(height, width),
        strategy=values["strategy"],
        steps_each=values["steps_each"],
        memory=MemoryModel.from_dict(values["memory"]),
        limit_bytes=values.get("limit_bytes"),
        rows=tuple(sorted(rows)),
        failed_images=values.get("failed_images"),
        failure=values.get("failure"),
        largest_images=values["largest_images"],
        predicted_images=values["predicted_images"],
    )


def _attribution(values: Mapping[str, Any]) -> Attribution:
    height, width = values["canvas"]
    layers = [Layer(one["name"], one["type"], one["activations"], one["weights"]) for one in values["layers"]]
    return Attribution(
        images=values["images"],
        canvas=(height, width),
        strategy=values["strategy"],
        peak_bytes=values["peak_bytes"],
        phase=values["phase"],
        at=values["at"],
        kinds=tuple((str(name), max(float(held), 0.0)) for name, held in values["kinds"]),
        layers=tuple(sorted(layers, key=lambda one: -one.total)),
    )
