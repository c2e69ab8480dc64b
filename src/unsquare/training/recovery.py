"""What happens when memory runs out all the same: the micro-batch is taken back, halved and run again, no image lost.

Others may take memory while a run goes on, so no plan can promise that it is there. On a GPU the device's allocator
says so, and the micro-batch that failed leaves no trace (`Engine.accumulate`). On a CPU the kernel would kill the
process instead, so a guard looks before each micro-batch and refuses it. Either way the halves go on with the same
weights; an image alone climbs to the next rung of the ladder. Where batch norms take statistics over a micro-batch,
halves have their own, and dropout draws for each half anew; everything else is the same to rounding.

Ranks need no agreement to halve, since nothing is exchanged within a step. At its end they agree on the lowest ceiling
of any; larger micro-batches are cut beforehand from then on, and the next epoch of `mixed` is planned below it. A
micro-batch that took more than the budget lowers it in proportion. After `PATIENCE` steps without trouble the ceiling
rises by half, until it is gone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from unsquare.data.loader import PaddedBatch
from unsquare.errors import ExactError
from unsquare.execution.cuts import most_frugal, recomputed
from unsquare.execution.offload import can_offload
from unsquare.execution.random_state import RandomState
from unsquare.execution.strategy import RUNGS, RungName, Way
from unsquare.memory.budget import format_bytes
from unsquare.memory.heap import release_unused
from unsquare.memory.meter import PeakMeter
from unsquare.network.engine import Engine, ShortageError
from unsquare.training.bounds import Bounds
from unsquare.training.capacity import Grows
from unsquare.training.checkpoint import NO_CEILING
from unsquare.training.room import Room

PATIENCE = 32
"""Steps without trouble after which larger micro-batches are tried again."""
RISE = 1.5
"""How much larger they may be then."""


@dataclass(frozen=True)
class Ceiling:
    """The most computed pixels of a micro-batch since memory ran out; the same on all ranks between steps."""

    pixels: int = NO_CEILING
    quiet_steps: int = 0
    """Steps since it last moved."""

    def after(self, lowest: int, shortages: int, planned: int) -> Ceiling:
        """The ceiling after a step.

        Args:
            lowest: the lowest ceiling of any rank.
            shortages: how often memory ran out on any rank.
            planned: what plans hold without a ceiling, at which it is gone.
        """
        if shortages:
            return Ceiling(lowest)
        if self.pixels == NO_CEILING:
            return self
        if self.quiet_steps + 1 < PATIENCE:
            return replace(self, quiet_steps=self.quiet_steps + 1)
        risen = int(self.pixels * RISE)
        return Ceiling() if risen >= planned else Ceiling(risen)


class Recovery:
    """Runs micro-batches, in parts where memory runs out.

    Args:
        engine: the network on its device.
        bounds: how micro-batches are run, and what they take.
        highest: the rung above which nothing climbs.
        say: told when memory runs out, the first time.
    """

    def __init__(self, engine: Engine, bounds: Bounds, highest: RungName, say: Callable[[str], None]) -> None:
        self._engine = engine
        self._bounds = bounds
        self._room = Room(engine, bounds)
        self._highest = highest
        self._say = say
        self._spare: tuple[tuple[str, Way], ...] | None = None
        self.ceiling = NO_CEILING
        """The most computed pixels that this rank runs at once."""
        self.shortages = 0
        """How often memory ran out on this rank, or a micro-batch took more than the budget."""
        self.measured: list[tuple[int, int, int, int, str]] = []
        """What was run since this was emptied: images, height, width, peak bytes, and the rung's name."""
        self._meter = PeakMeter(engine.device)

    def accumulate(self, batch: PaddedBatch, weight: float) -> tuple[float, int]:
        """As `Engine.accumulate`, in as many parts as memory asks for.

        Raises:
            BudgetError: an image alone fits in no way.
        """
        loss, right = 0.0, 0
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            images, pixels = len(part.images), _pixels(part)
            if images > 1 and pixels > self.ceiling:
                waiting += reversed(halves(part))
                continue
            try:
                done = self._run(part, weight)
            except ShortageError:
                if images == 1:
                    raise
                self.ceiling = min(self.ceiling, max(pixels // 2, 1))
                waiting += reversed(halves(part))
                continue
            loss, right = loss + done[0], right + done[1]
        return loss, right

    def _run(self, part: PaddedBatch, weight: float) -> tuple[float, int]:
        """Run a part by its rung; an image alone by each rung above, too, with the same random numbers."""
        chance = RandomState.now(self._engine.device)

        def attempt(part: PaddedBatch, name: str, way: Way) -> tuple[float, int]:
            self._meter.start()
            done = self._engine.accumulate(part, weight, way)
            peak = self._meter.stop()
            self.measured.append((len(part.images), *part.pixels.shape[2:], peak, name))
            self._learn(part, peak)
            return done

        def failed(error: ShortageError) -> None:
            self._note(error)
            chance.restore()

        return self._room.run(part, self._ways(part), attempt, failed)

    def _ways(self, part: PaddedBatch) -> Iterator[Grows]:
        """The way of a part's rung, then of those above it, and of those that were never measured."""
        yield from self._bounds.ways(_pixels(part), len(part.images))
        yield from ((name, way, None) for name, way in self._spare_ways())

    def _spare_ways(self) -> tuple[tuple[str, Way], ...]:
        """Ways for the direst need, found when they are needed."""
        if self._spare is None:
            capacity = self._bounds.capacity
            known = [] if capacity is None else [rung.name for rung in capacity.training.rungs]
            names = [name for name in RUNGS[: RUNGS.index(self._highest) + 1] if name not in known]
            self._spare = tuple(_made(self._engine, names))
        return self._spare

    def _learn(self, part: PaddedBatch, peak: int) -> None:
        """Have later micro-batches smaller in proportion where one took more than the budget."""
        capacity = self._bounds.capacity
        if capacity is None or peak <= capacity.budget_bytes or len(part.images) == 1:
            return
        fixed = capacity.training.base.memory.fixed_bytes
        within = max(capacity.budget_bytes - fixed, 0.0) / max(peak - fixed, 1.0)
        self.ceiling = min(self.ceiling, max(int(_pixels(part) * within), 1))
        self.shortages += 1
        if self.shortages == 1:
            self._say(
                f"A micro-batch took {format_bytes(peak)} of a budget of {format_bytes(capacity.budget_bytes)}; going "
                "on with smaller ones."
            )

    def _note(self, error: ShortageError) -> None:
        self.shortages += 1
        release_unused()
        if self.shortages == 1:
            self._say(f"Memory ran out; going on in smaller parts. ({error})")


def predict(engine: Engine, batch: PaddedBatch, bounds: Bounds) -> torch.Tensor:
    """As `Engine.predict`, in as many parts as memory asks for.

    Raises:
        ShortageError: an image alone does not fit.
    """

    def attempt(part: PaddedBatch, _: str, way: Way) -> torch.Tensor:
        return engine.predict(part, way)

    room = Room(engine, bounds)
    found: list[torch.Tensor] = []
    waiting = [batch]
    while waiting:
        part = waiting.pop()
        ways = bounds.ways(_pixels(part), len(part.images), evaluation=True)
        try:
            found.append(room.run(part, ways, attempt, lambda _: release_unused()))
        except ShortageError:
            if len(part.images) == 1:
                raise
            waiting += reversed(halves(part))
    return torch.cat(found)


def halves(batch: PaddedBatch) -> list[PaddedBatch]:
    """Two micro-batches of the images of one, each on the canvas that its own images need."""
    middle = len(batch.images) // 2
    return [_part(batch, slice(0, middle)), _part(batch, slice(middle, None))]


def _part(batch: PaddedBatch, images: slice) -> PaddedBatch:
    sizes = batch.sizes[images]
    height, width = sizes.amax(dim=0).tolist()
    return PaddedBatch(
        pixels=batch.pixels[images, :, :height, :width],
        sizes=sizes,
        labels=batch.labels[images],
        images=batch.images[images],
    )


def _pixels(batch: PaddedBatch) -> int:
    return len(batch.images) * batch.pixels.shape[2] * batch.pixels.shape[3]


def _made(engine: Engine, names: list[RungName]) -> Iterator[tuple[str, Way]]:
    """Ways by name, as frugal as they can be; none for a network, or a device, that cannot be run so."""
    engine.model.train()
    try:
        chain = engine.model.chain()
        with engine.fabric.autocast():
            weights = chain.weigh()
    except (ExactError, MemoryError, RuntimeError):  # with so little memory even weighing may fail
        return
    for name in names:
        if name == "checkpoint" or (name == "offload" and can_offload(engine.device)):
            yield name, recomputed(weights, offload=name == "offload")
        elif name == "stream" and (found := most_frugal(weights)) is not None:
            yield name, found
