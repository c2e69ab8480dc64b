"""A batch sampler for any `DataLoader`: the micro-batches of this rank, in the order of the plan.

The sampler's state is which steps are *trained*, not which micro-batches were handed out: a `DataLoader` with workers
requests several in advance, so counting those would lose images on a resume. Iterating therefore changes nothing; the
training loop reports when a step is done, or `StepLoader` does. The alternative, sending a state along with each
micro-batch through the workers (as torchdata does), needs a loader of its own.

The state does not depend on ranks, so any rank's state serves all. Rank and world size are looked up whenever needed,
never stored: a sampler created before the process group is right afterward, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Annotated, Any

import numpy.typing as npt
import torch
from torch import distributed
from torch.utils.data import Sampler

from unsquare.errors import ConfigError, PlanError, RunError
from unsquare.plan.buckets.form import Buckets, form_buckets
from unsquare.plan.config import MOST_RANKS, EpochNumber, Limits, PlanConfig
from unsquare.plan.draw import CHUNK, checked_weights
from unsquare.plan.epoch import EpochPlan
from unsquare.plan.planner import plan_epoch
from unsquare.settings import Range, checked, checks_arguments, received
from unsquare.shapes import Shape, shape_rows

STATE_VERSION = 1
"""Raise this when earlier states would be read differently."""


class StepSampler(Sampler[list[int]]):
    """Lists the positions of each micro-batch of this rank: the `batch_sampler` of a `DataLoader`.

    Iterating continues after the last step that is done, through the rest of the epoch; once an epoch is done, the next
    one follows. `set_epoch` jumps to the start of another.

    Args:
        sizes: training shapes, (N, 2), as the dataset returns the pictures; position i is the dataset's item i.
        config: how an epoch is cut into steps; None uses the defaults.
        limits: how large a micro-batch may be; None uses the defaults. The world size is the sampler's own.
        turns: whether each picture is turned by random quarter turns, which the dataset finds in `quarter_turns`.
        weights: how often each picture should be drawn relative to others, (N,); None takes each once.
        rank: this process's number; None asks `torch.distributed` where it is initialized, else 0.
        world_size: the number of processes; given together with `rank`, or looked up together with it.

    Raises:
        ConfigError: rank and world size do not go together.

    Example:
        >>> sampler = unsquare.StepSampler([(40, 64), (44, 60), (64, 40)], unsquare.PlanConfig(step_images=3))
        >>> sorted(position for batch in sampler for position in batch)
        [0, 1, 2]
    """

    @checks_arguments
    def __init__(
        self,
        sizes: npt.ArrayLike,
        config: PlanConfig | None = None,
        limits: Limits | None = None,
        *,
        turns: bool = False,
        weights: npt.ArrayLike | None = None,
        rank: int | None = None,
        world_size: int | None = None,
    ) -> None:
        self._sizes = shape_rows(sizes, PlanError)
        self._config = config or PlanConfig()
        if self._config.least_scale < 1:
            raise PlanError(
                "A sampler does not scale pictures, which its dataset loads, but min_scale is "
                f"{self._config.least_scale:g}; scale them there, or use BatchLoader."
            )
        self._limits = limits or Limits()
        self._turns = turns
        self._weights = None if weights is None else checked_weights(weights, len(self._sizes))
        self._given = _checked_ranks(rank, world_size)
        self._planned: EpochPlan | None = None
        self._planned_for = (-1, -1)
        self._buckets: dict[int, Buckets] = {}
        self._epoch = 0
        self._steps_done = 0
        self._untold = False
        self.told = False
        """Whether it is told which steps are done: by a `StepLoader`, or by the loop through `step_done`."""
        self.quarter_turns = torch.zeros(1, dtype=torch.uint8).expand(len(self._sizes))
        """Quarter turns of each picture in the current epoch, (N,), 0 to 3, for the dataset to turn item i by
        `torch.rot90(picture, int(quarter_turns[i]), (1, 2))`; workers see the memory that the sampler writes to."""
        if turns:
            self.quarter_turns = self.quarter_turns.contiguous().share_memory_()

    @property
    def rank(self) -> int:
        """This process's number among the processes that share each step."""
        return self._ranks()[0]

    @property
    def world_size(self) -> int:
        """The number of processes that share each step."""
        return self._ranks()[1]

    @property
    def num_images(self) -> int:
        """Images of an epoch, over all ranks."""
        return len(self._sizes)

    @property
    def epoch(self) -> int:
        """The epoch from which iterating takes micro-batches."""
        return self._epoch

    @property
    def steps_done(self) -> int:
        """Steps of this epoch that are trained, over all ranks; always less than the epoch has."""
        return self._steps_done

    @property
    def canvases(self) -> list[Shape] | None:
        """The canvases of all epochs where `PlanConfig.canvases` bounds them, for `PadCollate`; else None."""
        if self._config.canvases is None:
            return None
        _ = self.plan  # creates them
        return [Shape(*canvas) for canvas in self._buckets[self.world_size].bounded.tolist()]

    @property
    def plan(self) -> EpochPlan:
        """The current epoch: every step, with the micro-batches of every rank.

        Raises:
            PlanError: an image exceeds the budget, or a step has fewer images than there are ranks.
        """
        wanted = (self._epoch, self.world_size)
        if self._planned is None or self._planned_for != wanted:
            plan = self._plan(replace(self._limits, world_size=self.world_size))
            _require_work_for_all(plan, self.world_size)
            if self._turns:
                self.quarter_turns.copy_(torch.from_numpy(plan.turns))
            self._planned, self._planned_for = plan, wanted
        return self._planned

    def __iter__(self) -> Iterator[list[int]]:
        """The remaining micro-batches of this rank in the epoch."""
        self._untold = True
        return self._lists(self.plan, self.rank, self._steps_done)

    def __len__(self) -> int:
        """Micro-batches of this rank in the whole epoch, including those that are done.

        It may differ between ranks and epochs; the number of steps, `len(sampler.plan.steps)`, is the same on all
        ranks.
        """
        rank = self.rank
        return sum(len(step.ranks[rank]) for step in self.plan.steps)

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch, counted from 0; does nothing for the current epoch."""
        epoch = checked(EpochNumber, epoch, "epoch")
        if epoch != self._epoch:
            self._epoch, self._steps_done = epoch, 0
            self._untold = False

    def step_done(self) -> None:
        """Count one more step of this epoch as trained; after the last one, the next epoch starts.

        `StepLoader` calls it; a loop over the plain `DataLoader` must call it on all ranks, after each update.
        """
        self.told = True
        self._steps_done += 1
        if self._steps_done == len(self.plan.steps):
            self._epoch, self._steps_done = self._epoch + 1, 0

    def state_dict(self) -> dict[str, Any]:
        """Which steps are trained, and the settings that order them: plain values, the same on every rank.

        Raises:
            RunError: micro-batches were taken, but no step was reported as trained.
        """
        if self._untold and not self.told:
            raise RunError(
                "The sampler's state cannot be saved, because micro-batches were taken but no step was reported; "
                "iterate unsquare.StepLoader(loader), or call step_done() after each update."
            )
        return {
            "version": STATE_VERSION,
            "epoch": self._epoch,
            "steps_done": self._steps_done,
            "settings": self._settings(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where a state was saved; iterations that have begun are not moved.

        In `mixed`, the number of ranks, the budget and the cost of a launch may differ from those of the state: each
        step keeps its images. In `b2b` they determine the steps, and must be the same.

        Raises:
            RunError: the state is of another version, or was saved with other settings.
        """
        known = dict(state) if isinstance(state, Mapping) else {}
        saved, here = known.get("settings"), self._settings()
        if known.get("version") != STATE_VERSION or not isinstance(saved, Mapping):
            raise RunError(
                f"A sampler's state must have version {STATE_VERSION}, epoch, steps_done and settings, but this one is "
                f"{received(state)}; start the epoch again by set_epoch."
            )
        epoch = checked(EpochNumber, known.get("epoch"), "The state's epoch")
        steps_done = checked(
            Annotated[int, Range(0, self.num_images)], known.get("steps_done"), "The state's steps_done"
        )
        changed = [name for name in sorted({*saved, *here}, key=str) if saved.get(name) != here.get(name)]
        if changed:
            differences = ", ".join(f"{name} {saved.get(name)!r} -> {here.get(name)!r}" for name in changed)
            raise RunError(
                f"A resume keeps the order of the epoch, but these settings changed: {differences}; use those of the "
                "state, or start the epoch again by set_epoch."
            )
        self._epoch, self._steps_done = epoch, steps_done
        self._untold = False

    def _plan(self, limits: Limits) -> EpochPlan:
        sizes, config = self._sizes, self._config
        if config.needs_buckets and len(sizes) and limits.world_size not in self._buckets:
            self._buckets[limits.world_size] = form_buckets(sizes, config, limits, turns=self._turns)
        buckets = self._buckets.get(limits.world_size)
        return plan_epoch(sizes, config, limits, self._epoch, turns=self._turns, buckets=buckets, weights=self._weights)

    def _ranks(self) -> tuple[int, int]:
        if self._given is not None:
            found = self._given
        elif distributed.is_available() and distributed.is_initialized():
            found = distributed.get_rank(), distributed.get_world_size()
        else:
            found = 0, 1
        if self._limits.world_size not in (1, found[1]):
            raise ConfigError(
                f"The limits are for {self._limits.world_size} ranks, but the sampler has {found[1]}; leave world_size "
                "out of Limits."
            )
        return found

    def _settings(self) -> dict[str, Any]:
        """The settings that determine which images each step has, except for the epoch."""
        settings = asdict(self._config) | self._contents | {"turns": self._turns}
        if self._config.steps == "mixed":
            of_buckets = {"buckets", "boundaries", "canvases", "multiple"}
            settings["step_images"] = self._config.most_images(self.num_images)
            return {name: value for name, value in settings.items() if name not in of_buckets}
        limits = {"budget_pixels": self._limits.budget_pixels, "launch_pixels": self._limits.launch_pixels}
        return settings | limits | {"world_size": self.world_size}

    @cached_property
    def _contents(self) -> dict[str, Any]:
        """A digest of the dataset."""
        return {
            "num_images": self.num_images,
            "shapes": _digest(self._sizes, "<i8"),
            "weights": None if self._weights is None else _digest(self._weights, "<f8"),
        }

    @staticmethod
    def _lists(plan: EpochPlan, rank: int, first: int) -> Iterator[list[int]]:
        for number in range(first, len(plan.steps)):
            for micro_batch in plan.steps[number].ranks[rank]:
                yield micro_batch.images.tolist()


def _checked_ranks(rank: int | None, world_size: int | None) -> tuple[int, int] | None:
    if rank is None and world_size is None:
        return None
    if rank is None or world_size is None or not 0 <= rank < world_size <= MOST_RANKS:
        raise ConfigError(
            "rank and world_size must be given together, with rank from 0 and below world_size, at most "
            f"{MOST_RANKS:,}, but they are {rank} and {world_size}; leave both out where torch.distributed is "
            "initialized."
        )
    return rank, world_size


def _require_work_for_all(plan: EpochPlan, world_size: int) -> None:
    """Refuse steps in which a rank has no image: the others would wait for its gradients forever."""
    smallest = int(plan.images_per_step.min())
    if smallest < world_size:
        raise PlanError(
            f"Each rank needs an image in each step, but a step of epoch {plan.epoch} has {smallest} for {world_size} "
            "ranks; use fewer ranks, a larger step_images in mixed, or fewer buckets in b2b."
        )


def _digest(values: npt.NDArray[Any], dtype: str) -> str:
    """A short digest of an array, which may be in a memory-mapped file."""
    digest = hashlib.sha256()
    for start in range(0, len(values), CHUNK):
        digest.update(values[start : start + CHUNK].astype(dtype).tobytes())
    return digest.hexdigest()[:16]
