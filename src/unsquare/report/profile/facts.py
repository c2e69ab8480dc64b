"""What `unsquare profile` wrote, checked, and what its page shows beside it."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from unsquare.report.kit.trace import MemoryTrace, trace_of
from unsquare.runs.schemas import LayerRow, NetworkProfile, SweepSection

MOST_LAYERS = 15


def trace_of_profile(profile: NetworkProfile) -> MemoryTrace | None:
    """Memory against time during the sweep; None where it was not watched."""
    return None if profile.watch is None else trace_of(msgspec.structs.asdict(profile.watch))


def predicted_bytes(sweep: SweepSection, images: float) -> float:
    """The predicted peak of a batch of the sweep's canvas."""
    pixels = images * sweep.canvas[0] * sweep.canvas[1]
    return sweep.memory.fixed_bytes + sweep.memory.growth_bytes(pixels, images)


def prediction_errors(sweep: SweepSection) -> list[float]:
    """Of each batch, smallest first, the predicted over the measured peak, minus 1."""
    return [row.predicted_bytes / row.peak_bytes - 1 for row in sorted(sweep.rows, key=lambda row: row.images)]


def layer_bytes(layer: LayerRow) -> float:
    """Activations and weights of a layer."""
    return layer.activations + layer.weights


def by_size(layers: Sequence[LayerRow]) -> list[LayerRow]:
    """The layers, those that hold most first."""
    return sorted(layers, key=lambda layer: -layer_bytes(layer))


def largest_layers(layers: Sequence[LayerRow]) -> list[LayerRow]:
    """The layers that hold most, then all others as one."""
    ordered = by_size(layers)
    rest = ordered[MOST_LAYERS:]
    if not rest:
        return ordered
    others = LayerRow(
        name=f"{len(rest):,} others",
        type="",
        activations=sum(layer.activations for layer in rest),
        weights=sum(layer.weights for layer in rest),
    )
    return [*ordered[:MOST_LAYERS], others]
