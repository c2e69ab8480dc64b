"""One rank's computation: forward, backward, update, prediction. It knows no epochs and no files.

Gradients of a step are summed over its micro-batches and then once over the ranks. PyTorch's DDP wrapper is not
used: it reduces in every backward pass and expects the same number of them on each rank, while here ranks may run
different numbers of micro-batches, or none.
"""

from __future__ import annotations

import errno
import importlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning_fabric import Fabric

from unsquare.data.loader import PaddedBatch
from unsquare.errors import BudgetError
from unsquare.execution.strategy import PLAIN, Strategy
from unsquare.memory.watch import Phase
from unsquare.network.classifier import Classifier
from unsquare.network.config import OptimizerConfig
from unsquare.network.losses import Objective
from unsquare.network.optimizer import create_optimizer
from unsquare.network.pairs import pair_losses
from unsquare.network.ranks import all_reduce, processes_here
from unsquare.torch_private import add_each
from unsquare.torchvision_guard import import_timm

import_timm()
ema = importlib.import_module("timm.utils.model_ema")


class Engine:
    """A classifier with its optimizer on one device.

    Args:
        fabric: device, precision and ranks.
        model: the classifier; moved to the device in channels_last.
        config: the optimizer's settings.
        objective: what the outputs are trained to be; None takes classes.
    """

    def __init__(
        self, fabric: Fabric, model: Classifier, config: OptimizerConfig, objective: Objective | None = None
    ) -> None:
        self.fabric = fabric
        self.objective = objective or Objective(label_smoothing=config.label_smoothing or 0.0, focal=config.focal)
        self.model = model.to(fabric.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._config = config
        self.optimizer = self._new_optimizer()
        # timm's, because it is a whole network, which is evaluated and saved like any; its running statistics are
        # averaged as well. torch's AveragedModel would put a prefix and a counter into the saved tensors.
        decay = config.ema
        self.average: Any = None if decay is None else ema.ModelEmaV3(self.model, decay, use_warmup=True)
        """The moving average of the weights, with the network as its `module`; None where there is none."""
        self.phase: Phase = ""
        """What is computed at the moment, for the memory trace."""
        self.scratch: Path | None = None
        """Where a CPU offloads activations to; None uses the system's temporary folder."""

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self.fabric.device

    @property
    def num_local_ranks(self) -> int:
        """Ranks on this machine."""
        return processes_here()[0] if self.fabric.world_size > 1 else 1

    @property
    def evaluated(self) -> Classifier:
        """The network that is evaluated and used: with averaged weights, where they are averaged."""
        found: Classifier = self.model if self.average is None else self.average.module
        return found

    def _new_optimizer(self) -> torch.optim.Optimizer:
        # Of all that ever trains, so that its state fits a checkpoint from before a thaw and one from after it.
        self.model.freeze(self._config.frozen_in())
        return create_optimizer(self.model, self._config)

    def reset_optimizer(self) -> None:
        """Create a fresh optimizer, as after probing, and forget the average; all that ever trains is thawed."""
        self.optimizer = self._new_optimizer()
        if self.average is not None:
            self.average.set(self.model)

    def start_epoch(self, epoch: int) -> None:
        """Freeze what does not train in an epoch, and thaw what does."""
        self.model.freeze(self._config.frozen_in(epoch))

    def accumulate(self, batch: PaddedBatch, weight: float, strategy: Strategy = PLAIN) -> tuple[float, float]:
        """Add the gradient of a micro-batch, with each image's loss times `weight`; a failed call adds nothing.

        Returns:
            The sum of the images' losses, and of their scores: how many are classified correctly.

        Raises:
            ShortageError: the device has too little memory; gradients and statistics are unchanged.
        """
        self.model.train()
        try:
            with rollback_on_error(self.model), _naming(batch):
                self.phase = "forward"
                outputs = self._forward(self.model, batch, strategy)
                losses = pair_losses(self._losses, outputs, batch)
                self.phase = "backward"
                self.fabric.backward(losses.sum() * weight)
        finally:
            self.phase = ""
        scores = self.objective.scores(outputs.detach(), self._targets(batch.labels))
        return float(losses.detach().sum()), float(scores.sum())

    def _losses(self, outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of each image, (N,), from labels as in a batch."""
        return self.objective.losses(outputs, self._targets(labels))

    def _targets(self, labels: torch.Tensor) -> torch.Tensor:
        """What the outputs of a micro-batch are compared with, on the device."""
        return self.objective.encoded(labels).to(self.device)

    def _forward(self, model: Classifier, batch: PaddedBatch, strategy: Strategy) -> torch.Tensor:
        """The outputs of a network, on the device."""
        pixels = batch.pixels.to(self.device, non_blocking=True)  # as uint8, a quarter of the bytes
        sizes = batch.sizes  # needed on the host
        precision = torch.autocast(self.device.type, torch.bfloat16) if strategy.bf16 else self.fabric.autocast()
        with precision:
            if strategy.is_plain:
                return model(pixels, sizes)
            return model(pixels, sizes, strategy, self.scratch)

    def reduce_gradients(self) -> None:
        """Sum the gradients over the ranks; a rank that ran no micro-batch adds zero."""
        if self.fabric.world_size == 1:
            return
        unused = {f"backbone.{name}" for name in getattr(self.model, "unused", ())}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad and name not in unused:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                all_reduce(parameter.grad)

    def average_buffers(self) -> None:
        """Set the running statistics of all ranks to their mean, and averages of them, too."""
        if self.fabric.world_size == 1:
            return
        averaged = () if self.average is None else self.average.module.buffers()
        for buffer in (*self.model.buffers(), *averaged):
            if buffer.is_floating_point():
                all_reduce(buffer)
                buffer /= self.fabric.world_size

    def update(self, learning_rate: float, step: int = 1) -> float:
        """Take the optimizer's step, a run's first being 1, and clear the gradient; return its norm before clipping."""
        self.phase = "update"
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group.get("lr_scale", 1.0)
        limit = self._config.clip_norm or float("inf")
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), limit))
        self.optimizer.step()
        if self.average is not None:
            self.average.update(self.model, step)
        self.forget_gradients()
        self.phase = ""
        return norm

    def forget_gradients(self) -> None:
        """Clear the gradients accumulated so far."""
        self.optimizer.zero_grad(set_to_none=True)

    @torch.inference_mode()
    def predict(self, batch: PaddedBatch, strategy: Strategy = PLAIN) -> torch.Tensor:
        """The probabilities of each class or label, or the values, (N, num_classes) fp64 on the host.

        Raises:
            ShortageError: the device has too little memory.
        """
        with _naming(batch):
            outputs = self._forward(self.evaluated.eval(), batch, strategy)
        return self.objective.predictions(outputs)

    def sum_over_ranks(self, values: torch.Tensor) -> torch.Tensor:
        """The sum of a host tensor over the ranks."""
        if self.fabric.world_size == 1:
            return values
        on_device = values.to(self.device)
        all_reduce(on_device)
        return on_device.cpu()

    def min_over_ranks(self, value: int) -> int:
        """The smallest of the ranks' numbers."""
        if self.fabric.world_size == 1:
            return value
        on_device = torch.tensor([value], dtype=torch.int64, device=self.device)
        all_reduce(on_device, dist.ReduceOp.MIN)
        return int(on_device.item())


class ShortageError(BudgetError):
    """A micro-batch does not fit in memory: fewer images, or another strategy, may."""


@contextmanager
def rollback_on_error(model: torch.nn.Module) -> Iterator[None]:
    """Add the block's gradients to earlier ones; if the block raises, restore gradients and buffers."""
    buffers = [buffer.clone() for buffer in model.buffers()]
    # Set aside, so that the gradients of a failed micro-batch can be told from earlier ones.
    gradients = [parameter.grad for parameter in model.parameters()]
    for parameter in model.parameters():
        parameter.grad = None
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for old, parameter in zip(gradients, model.parameters()):
                parameter.grad = old
            for buffer, value in zip(model.buffers(), buffers):
                buffer.copy_(value)
        raise
    both = [(old, parameter) for old, parameter in zip(gradients, model.parameters()) if old is not None]
    new = [(old, parameter.grad) for old, parameter in both if parameter.grad is not None]
    if new:
        add_each([old for old, _ in new], [grad for _, grad in new])
    for old, parameter in both:
        parameter.grad = old


@contextmanager
def _naming(batch: PaddedBatch) -> Iterator[None]:
    """Within the block, running out of memory raises a ShortageError that says for which batch, and what to do."""
    try:
        yield
        return
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_shortage(error):
            raise
        reason = (str(error) or "no more memory").splitlines()[0]
        traceback.clear_frames(error.__traceback__)  # they hold the activations
    # Outside the handler: an error with a context keeps all frames of that context alive.
    images, _, height, width = batch.pixels.shape
    raise ShortageError(
        f"A micro-batch of {images} images on {height} x {width} ran out of memory ({reason}): another process takes "
        "memory, or the budget is too large; give less with --memory."
    )


def _is_shortage(error: Exception) -> bool:
    """Whether an error means that memory ran out; the CPU's allocators have no exception class of their own."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):  # the disk that activations are offloaded to
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM)
    said = ("can't allocate memory", "bad_alloc", "out of memory", "could not create a primitive", "ALLOC_FAILED")
    return any(words in str(error) for words in said)
