"""What following a model without data showed: which layers are given which maps, which calls its code makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, NamedTuple

from unsquare.errors import ExactError
from unsquare.exact.extent import Extent
from unsquare.exact.ops.functions import Replacement
from unsquare.exact.tracing.feature_maps import FeatureMap


@dataclass
class TracedSite:
    """The maps given and returned at one place of the model, for each depth at which it is used."""

    given: list[FeatureMap] = field(default_factory=list)
    after: list[FeatureMap | None] = field(default_factory=list)

    def add(self, given: FeatureMap, after: FeatureMap | None) -> None:
        """Note one more use."""
        if (given, after) not in zip(self.given, self.after):
            self.given.append(given)
            self.after.append(after)


class TracedCall(NamedTuple):
    """A functional call in a module's own code."""

    name: str
    replacement: Replacement | None
    """What takes its place; None where the stock function is right."""
    site: TracedSite


class TracedStep(NamedTuple):
    """The numbers given to one step of a model."""

    where: str
    step: str
    values: tuple[Any, ...]

    def difference(self, other: TracedStep) -> str:
        """How the same step on another canvas differs, for a message."""
        if self.step != other.step:
            return f"{self.step} on one canvas, {other.step} on another"
        one, another = next(pair for pair in zip_longest(self.values, other.values) if pair[0] != pair[1])
        return f"{self.step}: {one} on one canvas, {another} on another"


@dataclass
class TracedModel:
    """What runs of the model showed."""

    layers: dict[str, TracedSite] = field(default_factory=dict)
    """The layers that need an exact form, by path."""
    calls: dict[str, dict[bool, list[TracedCall]]] = field(default_factory=dict)
    """The functional calls of each module that makes any, by path and by `training`."""
    known: set[str] = field(default_factory=set)
    """Paths of all layers taken as a whole."""
    joins: dict[tuple[Extent, Extent], str] = field(default_factory=dict)
    """Extents that must come to the same for each image, and the module where their maps meet."""
    steps: dict[bool, list[TracedStep]] = field(default_factory=lambda: {True: [], False: []})
    """The numbers given to each step, by `training`, which must not depend on the canvas."""
    outputs: dict[bool, tuple[FeatureMap | None, ...]] = field(default_factory=dict)
    """What the model returns, tensor by tensor, by `training`: a map, or None for one vector per image."""


class AmbiguousCanvasError(ExactError):
    """A refusal that another canvas may lift."""


class StockTraceError(ExactError):
    """The stock model's own code fails."""
