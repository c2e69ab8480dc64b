"""Which layers, and which kinds of memory, make up the peak of a training step.

Every tensor that an operation allocates during one micro-batch is recorded with the module whose code ran, and removed
when its memory is freed; at the peak, the list is copied. What the process takes beyond that list, and beyond what it
held before, is workspace: memory that kernels take for themselves, and memory that the allocator has in reserve.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from unsquare.capacity.probes import held_bytes, synthetic_batch
from unsquare.execution.strategy import Strategy
from unsquare.memory.meter import PeakMeter
from unsquare.memory.watch import Phase
from unsquare.network.engine import Engine
from unsquare.runs.memory_profile import READ_AHEAD
from unsquare.runs.schemas import AttributionRow, LayerRow
from unsquare.shapes import Shape
from unsquare.torch_private import TorchDispatchMode, storage_id, tree_leaves

KINDS = ("process", "weights", "gradients", "optimizer", "activations", "workspace", "loader")


def attribute(engine: Engine, images: int, canvas: Shape, strategy: Strategy, name: str) -> AttributionRow:
    """Take the peak of a micro-batch apart.

    The peak itself is measured in another run, since recording keeps small objects alive.

    Args:
        engine: the network on its device; its weights move by one update of learning rate 0.
        images: number of images in the micro-batch.
        canvas: of the micro-batch.
        strategy: how it is run.
        name: the name of the strategy.
    """
    meter = PeakMeter(engine.device)
    batches = [synthetic_batch(images, canvas) for _ in range(1 + READ_AHEAD)]  # as the loader holds them
    engine.accumulate(batches[0], 1 / images, strategy)
    engine.update(0.0)
    held = held_bytes(engine)
    meter.start()
    engine.accumulate(batches[0], 1 / images, strategy)
    peak = meter.stop()
    engine.update(0.0)
    with _recording(engine) as recorder:
        engine.accumulate(batches[0], 1 / images, strategy)
    peak_allocations = recorder.peak_allocations
    engine.update(0.0)
    weights = sum(map(_num_bytes, [*engine.model.parameters(), *engine.model.buffers()]))
    moments = sum(_num_bytes(part) for part in tree_leaves(list(engine.optimizer.state.values())) if _is_large(part))
    loader = sum(batch.pixels.numel() for batch in batches)
    if engine.device.type != "cpu":  # there the loader's bytes are on the host, and nothing else was held before
        loader, held = batches[0].pixels.numel(), weights + moments
    kinds = dict.fromkeys(KINDS, 0) | {"weights": weights, "optimizer": moments, "loader": loader}
    kinds["process"] = max(0, held - weights - moments - (loader if engine.device.type == "cpu" else 0))
    for allocation in peak_allocations.allocations:
        kinds["gradients" if allocation.is_gradient else "activations"] += allocation.num_bytes
    kinds["workspace"] = max(0, peak - sum(kinds.values()))
    return AttributionRow(
        images=images,
        canvas=canvas,
        strategy=name,
        peak_bytes=peak,
        phase=peak_allocations.phase,
        at=peak_allocations.module,
        kinds=tuple(kinds.items()),
        layers=_layers(engine.model, peak_allocations.allocations),
    )


@dataclass(frozen=True)
class _Allocation:
    """Memory that an operation took."""

    module: str
    is_gradient: bool
    num_bytes: int


@dataclass(frozen=True)
class _PeakAllocations:
    """When most was held, and all that was."""

    phase: Phase = ""
    module: str = ""
    total: int = 0
    allocations: tuple[_Allocation, ...] = ()


class _AllocationRecorder(TorchDispatchMode):
    """Notes what operations take, until it is freed.

    Copying the whole list at each new maximum would take longer than the step, so it is copied when memory first falls
    after a maximum.
    """

    def __init__(self, engine: Engine, known: set[int]) -> None:
        super().__init__()
        self._engine = engine
        self._known = known
        self._live: dict[int, _Allocation] = {}
        self._total = 0
        self._rising = False
        self._last = ""
        self.running: list[str] = []
        """Modules whose forward code runs, the innermost last; also where backward runs it again."""
        self.passed = ""
        """The module whose backward pass began last."""
        self.peak_allocations = _PeakAllocations()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage_id(storage)
        if key in self._live or storage.data_ptr() in self._known or not storage.nbytes():
            return
        is_gradient = self._engine.phase == "backward" and not self.running
        self._last = self.running[-1] if self.running else self.passed if is_gradient else ""
        self._live[key] = _Allocation(self._last, is_gradient, storage.nbytes())
        weakref.finalize(storage, self._free, key).atexit = False
        self._total += storage.nbytes()
        self._rising = True

    def _free(self, key: int) -> None:
        allocation = self._live.get(key)
        if allocation is None:
            return
        self.close()
        self._total -= allocation.num_bytes
        del self._live[key]

    def close(self) -> None:
        """Memory falls, or the step is over: keep the list if this was the most so far."""
        if self._rising and self._total > self.peak_allocations.total:
            self.peak_allocations = _PeakAllocations(
                self._engine.phase, self._last, self._total, tuple(self._live.values())
            )
        self._rising = False


@contextmanager
def _recording(engine: Engine) -> Iterator[_AllocationRecorder]:
    """A recorder of what runs in the block, which knows the module at work in forward and in backward.

    By hooks of its own: `torch.utils.module_tracker` gives a set of modules without an order, and loses its place where
    a segment is recomputed (docs/experiments.md).
    """
    known = {part.untyped_storage().data_ptr() for part in [*engine.model.parameters(), *engine.model.buffers()]}
    recorder = _AllocationRecorder(engine, known)
    handles = []
    for name, module in engine.model.named_modules():

        def enter(*_: Any, name: str = name) -> None:
            recorder.running.append(name)

        def leave(module: nn.Module, given: Any, output: Any, name: str = name) -> None:
            recorder.running.pop()
            if isinstance(output, Tensor) and output.grad_fn is not None:
                output.grad_fn.register_prehook(lambda *_: setattr(recorder, "passed", name))

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with recorder:
            yield recorder
        recorder.close()
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: nn.Module, allocations: tuple[_Allocation, ...]) -> tuple[LayerRow, ...]:
    """What each module holds."""
    activations: dict[str, int] = defaultdict(int)
    for allocation in allocations:
        activations[allocation.module] += allocation.num_bytes
    layers = []
    for name, module in model.named_modules():
        weights = sum(map(_num_bytes, module.parameters(recurse=False)))
        if activations[name] or weights:
            layers.append(LayerRow(name or "(the input)", type(module).__name__, activations[name], weights))
    return tuple(sorted(layers, key=lambda layer: -(layer.activations + layer.weights)))


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_large(part: Any) -> bool:
    return isinstance(part, Tensor) and part.ndim > 0
