"""Groups a `DataLoader`'s micro-batches into steps: where each step ends, its images' weight, and what is trained.

It yields one item per step, not per micro-batch. Ranks run different numbers of micro-batches but the same number of
steps, so everything that counts a loader's items (Lightning's collectives in each item, its limits and its checkpoints,
progress bars) agrees on all ranks. Yielding a step's decoded pixels at once would hold them all in memory; here they
arrive micro-batch by micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch.utils.data import DataLoader

from unsquare.data.sampler import StepSampler
from unsquare.errors import ConfigError, RunError
from unsquare.plan.epoch import MicroBatch, Step


class RankStep:
    """This rank's part of one step: iterate it once for its loaded micro-batches, each with whether it is the last.

    The step counts as trained once its last micro-batch is: when the loop over it has ended.

    Example:
        >>> import torch
        >>> sampler = unsquare.StepSampler([(40, 64), (64, 40)], unsquare.PlanConfig(step_images=2))
        >>> dataset = [(torch.ones(3, 40, 64), 0), (torch.ones(3, 64, 40), 1)]
        >>> loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler, collate_fn=unsquare.PadCollate())
        >>> step = next(iter(unsquare.StepLoader(loader)))
        >>> step.num_images, step.weight
        (2, 0.5)
    """

    def __init__(self, step: Step, number: int, batches: Iterator[Any], sampler: StepSampler) -> None:
        self.number = number
        """Number of this step in its epoch, from 0."""
        self.num_images = step.num_images
        """Images of the step over all ranks."""
        self.weight = sampler.world_size / step.num_images
        """Factor for a summed loss where gradients are averaged over ranks, as by `DistributedDataParallel`; the result
        is the mean over the step's images."""
        self.micro_batches: tuple[MicroBatch, ...] = step.ranks[sampler.rank]
        """As planned, in the order in which they are loaded."""
        self._batches = batches
        self._sampler = sampler
        self._begun = False
        self.done = False
        """Whether all micro-batches were taken and the loop over them has ended."""

    def __len__(self) -> int:
        """Micro-batches of this rank, at least one; other ranks may have more or fewer."""
        return len(self.micro_batches)

    def __iter__(self) -> Iterator[tuple[Any, bool]]:
        """What the `DataLoader` returns for each micro-batch, and whether it is this rank's last of the step."""
        if self._begun:
            raise RunError(
                "A step's micro-batches are loaded once, but this step was iterated before; store them to use them "
                "again."
            )
        self._begun = True
        return self._load()

    def _load(self) -> Iterator[tuple[Any, bool]]:
        for left in range(len(self) - 1, -1, -1):
            yield next(self._batches), left == 0
        self._sampler.step_done()
        self.done = True


class StepLoader:
    """The steps of a `DataLoader` whose `batch_sampler` is a `StepSampler`.

    Use it instead of the `DataLoader` in a loop, in Lightning's `fit` (which saves and loads its state) and in
    Accelerate's `prepare`; neither wraps it again. Iterating continues after the last step that is done.

    Args:
        loader: a `torch.utils.data.DataLoader`, with any dataset, workers and collate function.

    Raises:
        ConfigError: the loader has another batch sampler or number of pictures, does not keep the order, or counts by
            itself.

    Example:
        >>> import torch
        >>> dataset = [(torch.ones(3, 40, 64), 0), (torch.ones(3, 64, 40), 1)]
        >>> sampler = unsquare.StepSampler([(40, 64), (64, 40)], unsquare.PlanConfig(step_images=1))
        >>> loader = torch.utils.data.DataLoader(dataset, batch_sampler=sampler, collate_fn=unsquare.PadCollate())
        >>> for step in unsquare.StepLoader(loader):
        ...     for (pixels, sizes, labels), is_last in step:
        ...         print(step.number, tuple(pixels.shape), is_last)
        0 (1, 3, 64, 40) True
        1 (1, 3, 40, 64) True
    """

    def __init__(self, loader: DataLoader[Any]) -> None:
        sampler = getattr(loader, "batch_sampler", None)  # a loader prepared by Accelerate is not a DataLoader
        if not isinstance(sampler, StepSampler):
            raise ConfigError(
                "StepLoader takes a DataLoader(dataset, batch_sampler=StepSampler(...)), but of the given "
                f"{type(loader).__name__} the batch sampler is {type(sampler).__name__}; if a framework prepared the "
                "loader, give the original one."
            )
        if not hasattr(loader.dataset, "__len__"):
            raise ConfigError(
                f"Steps need items by number, but {type(loader.dataset).__name__} has no length; give a dataset with "
                "__getitem__ and __len__, or plan its shapes as they arrive by plan_stream."
            )
        if (num_items := len(loader.dataset)) != sampler.num_images:
            raise ConfigError(
                f"The sampler must have the shape of each item, but has {sampler.num_images} shapes for {num_items} "
                "items; give StepSampler the shapes of this dataset."
            )
        if not getattr(loader, "in_order", True):
            raise ConfigError("Micro-batches must be in the order of the plan, but in_order is False; leave it out.")
        if hasattr(loader, "state_dict"):
            raise ConfigError(
                f"Only the sampler may count what is trained, but {type(loader).__name__} counts as well; use a "
                "torch.utils.data.DataLoader and save StepLoader.state_dict()."
            )
        self._loader = loader
        self._sampler = sampler
        sampler.told = True

    @property
    def sampler(self) -> StepSampler:
        """The sampler; Lightning finds its `set_epoch` under this name."""
        return self._sampler

    def __len__(self) -> int:
        """Steps of the whole epoch, including those that are done; the same on every rank.

        In `mixed` all epochs have the same number. In `b2b` with turns or weights they may differ: if a loop asks once
        for all epochs, make it ask again (Lightning: `reload_dataloaders_every_n_epochs=1`).
        """
        return len(self._sampler.plan.steps)

    def __iter__(self) -> Iterator[RankStep]:
        """The remaining steps of the epoch."""
        sampler = self._sampler
        steps, first = sampler.plan.steps, sampler.steps_done
        batches = iter(self._loader)
        for number in range(first, len(steps)):
            rank_step = RankStep(steps[number], number, batches, sampler)
            yield rank_step
            if not rank_step.done:
                raise RunError(
                    f"Each step must be iterated to its end, but step {number} was left with micro-batches in it; loop "
                    "over the whole step, and skip its update if needed."
                )

    def set_epoch(self, epoch: int) -> None:
        """Go to the start of an epoch; does nothing for the current epoch."""
        self._sampler.set_epoch(epoch)

    def state_dict(self) -> dict[str, Any]:
        """The sampler's state: which steps are trained."""
        return self._sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where a state was saved; takes effect when an iteration begins."""
        self._sampler.load_state_dict(state)
