"""Where the random generators stand, so that what draws from them can run again alike."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor


class RandomState(NamedTuple):
    """The states of the host's generator and, on a GPU, of the device's."""

    device: torch.device
    host: Tensor
    on_device: Tensor | None

    @classmethod
    def now(cls, device: torch.device) -> RandomState:
        """As they stand."""
        on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return cls(device, torch.get_rng_state(), on_device)

    def restore(self) -> None:
        """Have the generators go on from there."""
        torch.set_rng_state(self.host)
        if self.on_device is not None:
            torch.cuda.set_rng_state(self.on_device, self.device)


@contextmanager
def undrawn(device: torch.device) -> Iterator[None]:
    """Within the block numbers are drawn that count for nothing: the generators stand as before after it."""
    before = RandomState.now(device)
    try:
        yield
    finally:
        before.restore()
