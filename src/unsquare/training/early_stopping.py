"""Early stopping: a run ends after some epochs without improvement on val.

Whether it ends is a pure function of the state that a checkpoint holds, so that a run that is resumed ends where one
that was never stopped does. The state says from when epochs count: from the last improvement, not before pictures
have the size at which the run will end, and from where a run was given more epochs.
"""

from __future__ import annotations

from typing import Protocol

from unsquare.runs.figures import CHOOSING
from unsquare.training.config import SavingConfig, TrainConfig


class Waiting(Protocol):
    """What early stopping needs to know of a run's state."""

    @property
    def epoch(self) -> int:
        """Epochs done."""

    @property
    def step_of_epoch(self) -> int:
        """Steps done of the next one."""

    @property
    def waits_from(self) -> int | None:
        """Epochs done at the last improvement; None where it is not known."""


def ran_out(saving: SavingConfig, state: Waiting) -> bool:
    """Whether a run ends here, after an epoch that was evaluated, because val has not improved for long enough."""
    if saving.patience is None or state.waits_from is None or state.step_of_epoch:
        return False
    return state.epoch % saving.evaluate_every == 0 and state.epoch - state.waits_from >= saving.patience


def early_words(config: TrainConfig, epoch: int) -> str:
    """When and why a run ended early, as the end of a clause."""
    return (
        f"after epoch {epoch} of {config.epochs}, since the {CHOOSING[config.task.task]} on val did not improve for "
        f"{config.saving.patience} epochs"
    )
