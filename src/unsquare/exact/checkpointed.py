"""Checkpointed blocks as plain calls, while a network is followed or runs on lone images.

A block then runs once, and its caller sees it run. In backward a block of a lone image would wait for batch norms that
no other image meets, and a network without data has no backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils import checkpoint


@contextmanager
def run_plainly(around: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[None]:
    """While open, a checkpointed block runs once, as a plain call.

    Args:
        around: Makes a context in which each block runs.
    """

    class PlainCall:
        """In place of checkpointing by a reentrant backward: without gradients where that has none."""

        @staticmethod
        def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
            differentiable = any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
            with around(), torch.set_grad_enabled(torch.is_grad_enabled() and differentiable):
                return function(*args)

    def plain_call(*args: Any, **kwargs: Any) -> Iterator[None]:
        """In place of checkpointing by saved-tensor hooks, which do nothing before and after the block is called."""
        with around():
            yield

    # These two names rather than `checkpoint` itself, which libraries import by name.
    plain = {"CheckpointFunction": PlainCall, "_checkpoint_without_reentrant_generator": plain_call}
    before = {name: getattr(checkpoint, name) for name in plain}
    try:
        for name, value in plain.items():
            setattr(checkpoint, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(checkpoint, name, value)
