"""Execution strategies: which parts of a chain are kept for the backward pass, checkpointed, offloaded or tiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

StrategyName = Literal["plain", "bf16", "checkpoint", "offload", "tile"]
STRATEGY_NAMES: tuple[StrategyName, ...] = get_args(StrategyName)
"""Strategies from the fastest to the one that takes the least memory; each may do what those before it do as well."""

How = Literal["keep", "checkpoint", "tile"]


@dataclass(frozen=True)
class Segment:
    """Consecutive steps that are run the same way."""

    start: int
    """The first step."""
    stop: int
    """The step after the last."""
    how: How
    """keep: all activations are kept. checkpoint: only the input is kept, and backward runs the steps again. tile:
    likewise, tile by tile."""
    tile_side: int = 0
    """The longest side of a tile's input, in pixels of the segment's input map; 0 where it is not tiled."""

    def __post_init__(self) -> None:
        assert 0 <= self.start < self.stop, "a segment has steps"
        assert self.how in get_args(How)
        assert (self.tile_side > 0) == (self.how == "tile"), "tiled segments, and no others, have a tile side"


@dataclass(frozen=True)
class Strategy:
    """How a whole chain of steps is run."""

    segments: tuple[Segment, ...] = ()
    """All steps, in order; empty where the network is run as a whole."""
    offload: bool = False
    """Whether the maps between segments are offloaded: a GPU's to the host, a CPU's to a file."""
    bf16: bool = False
    """Whether it is computed in bf16 where the run's own precision is higher."""

    def __post_init__(self) -> None:
        stops = [0, *(segment.stop for segment in self.segments)]
        assert [segment.start for segment in self.segments] == stops[:-1], "segments follow one another"

    @property
    def is_plain(self) -> bool:
        """Whether the network is run as a whole."""
        return not self.segments

    @property
    def tiles(self) -> bool:
        """Whether any segment is tiled."""
        return any(segment.how == "tile" for segment in self.segments)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Strategy:
        """The strategy that `to_dict` wrote."""
        segments = tuple(Segment(**segment) for segment in values["segments"])
        return cls(segments, offload=bool(values["offload"]), bf16=bool(values["bf16"]))


PLAIN = Strategy()
"""The network as it is."""
