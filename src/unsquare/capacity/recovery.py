"""Recovers when memory runs out during training: the micro-batch is halved and run again; no image is lost.

Other processes may take memory during a run, so no plan can guarantee that it is free. On a GPU the device's allocator
reports the shortage, and the failed micro-batch changes nothing (`Engine.accumulate`). On a CPU the kernel would kill
the process, so the memory guard refuses a micro-batch beforehand. In both cases the halves are run with the same
weights; a single image is run by its next fallback. Where batch norms compute statistics over a micro-batch, each half
has its own, and dropout draws new numbers for each half; everything else is the same to rounding.

Ranks halve independently, since nothing is exchanged within a step. At its end they agree on the lowest ceiling of any
rank: from then on larger micro-batches are halved beforehand, and the next epoch of `mixed` is planned below it. A
micro-batch that took more than the budget lowers the ceiling in proportion. After every `PATIENCE` steps without a
shortage the ceiling rises by half, until it is removed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch

from unsquare.capacity.guard import MemoryGuard, computed_pixels, run_in_parts
from unsquare.data.loader import PaddedBatch
from unsquare.errors import ExactError
from unsquare.execution.cuts import checkpointed, smallest_tiled
from unsquare.execution.offload import can_offload
from unsquare.execution.random_state import RandomState
from unsquare.execution.strategy import STRATEGY_NAMES, Strategy, StrategyName
from unsquare.memory.amounts import format_bytes
from unsquare.memory.heap import release_unused
from unsquare.memory.meter import PeakMeter
from unsquare.network.engine import Engine, ShortageError
from unsquare.runs.memory_profile import Candidate, RunLimits

NO_CEILING = 1 << 62
PATIENCE = 32
"""Steps without a shortage after which larger micro-batches are tried again."""
RISE = 1.5
"""Factor by which the ceiling then rises."""


@dataclass(frozen=True)
class Ceiling:
    """The most computed pixels of a micro-batch since memory ran out; the same on all ranks between steps."""

    pixels: int = NO_CEILING
    quiet_steps: int = 0
    """Steps since it last changed."""

    def after(self, lowest: int, shortages: int, planned: int) -> Ceiling:
        """The ceiling after a step.

        Args:
            lowest: the lowest ceiling of any rank.
            shortages: how often memory ran out on any rank.
            planned: pixels of the largest planned micro-batch; a ceiling that reaches it is removed.
        """
        if shortages:
            return Ceiling(lowest)
        if self.pixels == NO_CEILING:
            return self
        if self.quiet_steps + 1 < PATIENCE:
            return replace(self, quiet_steps=self.quiet_steps + 1)
        risen = int(self.pixels * RISE)
        return Ceiling() if risen >= planned else Ceiling(risen)


@dataclass
class Recovered:
    """The outcome of a micro-batch, run in as many parts as memory requires."""

    ceiling_pixels: int
    """The most computed pixels that this rank runs at once from now on."""
    loss: float = 0.0
    """The sum of the images' losses."""
    score: float = 0.0
    """The sum of the images' scores: how many are classified correctly."""
    shortages: int = 0
    """How often memory ran out, or a part took more than the budget."""
    words: str = ""
    """The message on the first shortage."""
    measured: list[tuple[int, int, int, int, str]] = field(default_factory=list)
    """For each part: images, height, width, peak bytes, and the strategy's name."""

    def add(self, later: Recovered) -> None:
        """Add the outcome of a later micro-batch of the same step."""
        self.ceiling_pixels = later.ceiling_pixels
        self.loss, self.score = self.loss + later.loss, self.score + later.score
        self.shortages += later.shortages
        self.words = self.words or later.words
        self.measured += later.measured

    def note(self, words: str) -> None:
        """Count a shortage."""
        self.shortages += 1
        self.words = self.words or words


class Recovery:
    """Runs micro-batches, in parts where memory runs out.

    Args:
        engine: the network on its device.
        limits: how micro-batches are run, and the memory they take.
        last: the last fallback.
    """

    def __init__(self, engine: Engine, limits: RunLimits, last: StrategyName) -> None:
        self._engine = engine
        self._limits = limits
        self._guard = MemoryGuard(engine, limits)
        self._last = last
        self._unmeasured: tuple[Candidate, ...] | None = None
        self._meter = PeakMeter(engine.device)

    def accumulate(self, batch: PaddedBatch, weight: float, ceiling_pixels: int = NO_CEILING) -> Recovered:
        """`Engine.accumulate`, in as many parts as memory requires.

        Args:
            batch: the micro-batch.
            weight: weight of each image's loss.
            ceiling_pixels: the most computed pixels to run at once, except for a single image.

        Raises:
            BudgetError: a single image fits by no strategy.
        """
        done = Recovered(ceiling_pixels)

        def failed(part: PaddedBatch) -> None:
            done.ceiling_pixels = min(done.ceiling_pixels, max(computed_pixels(part) // 2, 1))

        parts = run_in_parts(
            batch,
            lambda part: self._run(part, weight, done),
            lambda part: computed_pixels(part) > done.ceiling_pixels,
            failed,
        )
        for loss, score in parts:
            done.loss, done.score = done.loss + loss, done.score + score
        return done

    def _run(self, part: PaddedBatch, weight: float, done: Recovered) -> tuple[float, float]:
        """Run a part by its strategy, a single image also by each fallback; always with the same random numbers."""
        chance = RandomState.now(self._engine.device)

        def attempt(part: PaddedBatch, name: str, strategy: Strategy) -> tuple[float, float]:
            self._meter.start()
            found = self._engine.accumulate(part, weight, strategy)
            peak = self._meter.stop()
            done.measured.append((len(part.images), *part.pixels.shape[2:], peak, name))
            self._learn(part, peak, done)
            return found

        def failed(error: ShortageError) -> None:
            done.note(f"Memory ran out; continuing with smaller micro-batches. ({error})")
            release_unused()
            chance.restore()

        return self._guard.run(part, self._candidates(part), attempt, failed)

    def _candidates(self, part: PaddedBatch) -> Iterator[Candidate]:
        """The strategy for a part, its fallbacks, and strategies that were not measured."""
        yield from self._limits.candidates(computed_pixels(part), len(part.images))
        if self._unmeasured is None:  # built when first needed
            profile = self._limits.training
            known = [] if profile is None else [each.name for each in profile.strategies]
            names = [name for name in STRATEGY_NAMES[: STRATEGY_NAMES.index(self._last) + 1] if name not in known]
            self._unmeasured = tuple(_unmeasured(self._engine, names))
        yield from self._unmeasured

    def _learn(self, part: PaddedBatch, peak: int, done: Recovered) -> None:
        """Lower the ceiling in proportion where a part took more than the budget."""
        profile = self._limits.training
        if profile is None or peak <= profile.budget_bytes or len(part.images) == 1:
            return
        fixed = profile.base.memory.fixed_bytes
        within = max(profile.budget_bytes - fixed, 0.0) / max(peak - fixed, 1.0)
        done.ceiling_pixels = min(done.ceiling_pixels, max(int(computed_pixels(part) * within), 1))
        done.note(
            f"A micro-batch took {format_bytes(peak)} of a budget of {format_bytes(profile.budget_bytes)}; continuing "
            "with smaller ones."
        )


def predict(engine: Engine, batch: PaddedBatch, limits: RunLimits) -> torch.Tensor:
    """`Engine.predict`, in as many parts as memory requires.

    Raises:
        ShortageError: a single image does not fit.
    """
    guard = MemoryGuard(engine, limits)

    def attempt(part: PaddedBatch) -> torch.Tensor:
        candidates = limits.candidates(computed_pixels(part), len(part.images), evaluation=True)
        return guard.run(part, candidates, lambda part, _, how: engine.predict(part, how), lambda _: release_unused())

    return torch.cat(list(run_in_parts(batch, attempt)))


def _unmeasured(engine: Engine, names: list[StrategyName]) -> Iterator[Candidate]:
    """Strategies by name, each at its least memory; empty for networks that are not chains."""
    engine.model.train()
    try:
        chain = engine.model.chain()
        with engine.fabric.autocast():
            weights = chain.weigh()
    except (ExactError, MemoryError, RuntimeError):  # when memory is short even weighing may fail
        return
    for name in names:
        if name == "checkpoint" or (name == "offload" and can_offload(engine.device)):
            yield Candidate(name, checkpointed(weights, offload=name == "offload"), None)
        elif name == "tile" and (found := smallest_tiled(weights)) is not None:
            yield Candidate(name, found, None)
