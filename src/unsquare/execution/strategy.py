"""Ways to run a chain of steps: what is kept for the backward pass, computed again, kept elsewhere, or run in tiles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

StrategyName = Literal["plain", "bf16", "checkpoint", "offload", "tile"]
STRATEGY_NAMES: tuple[StrategyName, ...] = get_args(StrategyName)
"""Ways by name, from the quickest to the one that takes least memory; each does what the ones before it do as well."""

How = Literal["keep", "checkpoint", "tile"]


@dataclass(frozen=True)
class Segment:
    """Consecutive steps, run alike."""

    start: int
    """The first step."""
    stop: int
    """The step after the last."""
    how: How
    """keep: as usual. recompute: keep what is given, and run again in backward. stream: likewise, piece by piece."""
    tile_side: int = 0
    """The longest side of a piece, in pixels of the map that the segment is given, where it streams."""

    def __post_init__(self) -> None:
        assert 0 <= self.start < self.stop, "a segment has steps"
        assert self.how in get_args(How)
        assert (self.tile_side > 0) == (self.how == "tile"), "pieces have sides where there are pieces"


@dataclass(frozen=True)
class Strategy:
    """How a whole chain is run."""

    segments: tuple[Segment, ...] = ()
    """All steps, in order; none where the network is run as a whole."""
    offload: bool = False
    """Whether what crosses from segment to segment is kept elsewhere: on the host, or on a CPU in a file."""
    bf16: bool = False
    """Whether it is computed in bf16 although the run is not."""

    def __post_init__(self) -> None:
        stops = [0, *(segment.stop for segment in self.segments)]
        assert [segment.start for segment in self.segments] == stops[:-1], "segments follow one another"

    @property
    def is_plain(self) -> bool:
        """Whether the network is run as a whole."""
        return not self.segments

    @property
    def tiles(self) -> bool:
        """Whether any part is run piece by piece."""
        return any(segment.how == "tile" for segment in self.segments)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Strategy:
        """The way that `to_dict` wrote."""
        segments = tuple(Segment(**segment) for segment in values["segments"])
        return cls(segments, offload=bool(values["offload"]), bf16=bool(values["bf16"]))


PLAIN = Strategy()
"""The network as it is."""
