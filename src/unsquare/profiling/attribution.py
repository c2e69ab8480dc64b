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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from unsquare.capacity.probes import held_bytes, synthetic_batch
from unsquare.execution.strategy import Strategy
from unsquare.memory.meter import PeakMeter
from unsquare.memory.watch import Phase
from unsquare.network.engine import Engine
from unsquare.runs.memory_profile import READ_AHEAD
from unsquare.shapes import Shape

KINDS = ("process", "weights", "gradients", "optimizer", "activations", "workspace", "loader")


@dataclass(frozen=True)
class LayerBytes:
    """What a module holds at the peak, in bytes."""

    name: str
    type: str
    activations: int
    """Allocated by its own code and still held: maps kept for backward, and gradients of maps where those are held."""
    weights: int


@dataclass(frozen=True)
class Attribution:
    """The peak of a micro-batch, by kind of memory and by layer."""

    images: int
    canvas: Shape
    strategy: str
    peak_bytes: int
    """Of the whole process on a CPU, of the device's allocator otherwise."""
    phase: Phase
    """When the peak was reached."""
    at: str
    """The module whose code ran then."""
    kinds: tuple[tuple[str, int], ...]
    """Bytes by kind; they add up to the peak."""
    layers: tuple[LayerBytes, ...]
    """Modules that hold any, largest first."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        layers = [vars(layer) for layer in self.layers]
        return {
            **vars(self),
            "canvas": list(self.canvas),
            "kinds": [list(kind) for kind in self.kinds],
            "layers": layers,
        }


def attribute(engine: Engine, images: int, canvas: Shape, strategy: Strategy, name: str) -> Attribution:
    """Attribute the peak of a micro-batch to layers and kinds of memory.

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
    with _running(engine) as ledger:
        engine.accumulate(batches[0], 1 / images, strategy)
    moment = ledger.moment
    engine.update(0.0)
    weights = sum(map(_num_bytes, [*engine.model.parameters(), *engine.model.buffers()]))
    moments = sum(_num_bytes(part) for part in tree_leaves(list(engine.optimizer.state.values())) if _is_large(part))
    loader = sum(batch.pixels.numel() for batch in batches)
    if engine.device.type != "cpu":  # there the loader's bytes are on the host, and nothing else was held before
        loader, held = batches[0].pixels.numel(), weights + moments
    kinds = dict.fromkeys(KINDS, 0) | {"weights": weights, "optimizer": moments, "loader": loader}
    kinds["process"] = max(0, held - weights - moments - (loader if engine.device.type == "cpu" else 0))
    for entry in moment.entries:
        kinds["gradients" if entry.is_gradient else "activations"] += entry.num_bytes
    kinds["workspace"] = max(0, peak - sum(kinds.values()))
    return Attribution(
        images=images,
        canvas=canvas,
        strategy=name,
        peak_bytes=peak,
        phase=moment.phase,
        at=moment.module,
        kinds=tuple(kinds.items()),
        layers=_layers(engine.model, moment.entries),
    )


@dataclass(frozen=True)
class _Entry:
    """Memory that an operation allocated."""

    module: str
    is_gradient: bool
    num_bytes: int


@dataclass(frozen=True)
class _Moment:
    """The moment of the highest total, and all memory held then."""

    phase: Phase = ""
    module: str = ""
    total: int = 0
    entries: tuple[_Entry, ...] = ()


class _Ledger(TorchDispatchMode):
    """Records what operations allocate, until it is freed.

    Copying the whole list at each new maximum would take longer than the step, so it is copied when memory first falls
    after a maximum.
    """

    def __init__(self, engine: Engine, known: set[int]) -> None:
        super().__init__()
        self._engine = engine
        self._known = known
        self._live: dict[int, _Entry] = {}
        self._total = 0
        self._rising = False
        self._last = ""
        self.running: list[str] = []
        """Modules whose forward code runs, the innermost last; also where backward runs it again."""
        self.passed = ""
        """The module whose backward pass began last."""
        self.moment = _Moment()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._note(leaf)
        return result

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._live or storage.data_ptr() in self._known or not storage.nbytes():
            return
        is_gradient = self._engine.phase == "backward" and not self.running
        self._last = self.running[-1] if self.running else self.passed if is_gradient else ""
        self._live[key] = _Entry(self._last, is_gradient, storage.nbytes())
        weakref.finalize(storage, self._free, key).atexit = False
        self._total += storage.nbytes()
        self._rising = True

    def _free(self, key: int) -> None:
        entry = self._live.get(key)
        if entry is None:
            return
        self.close()
        self._total -= entry.num_bytes
        del self._live[key]

    def close(self) -> None:
        """Called when memory falls, or the step ends: keep the list if this was the highest total so far."""
        if self._rising and self._total > self.moment.total:
            self.moment = _Moment(self._engine.phase, self._last, self._total, tuple(self._live.values()))
        self._rising = False


@contextmanager
def _running(engine: Engine) -> Iterator[_Ledger]:
    """A ledger of what runs in the block, told which module runs in forward and in backward."""
    known = {part.untyped_storage().data_ptr() for part in [*engine.model.parameters(), *engine.model.buffers()]}
    ledger = _Ledger(engine, known)
    handles = []
    for name, module in engine.model.named_modules():

        def enter(*_: Any, name: str = name) -> None:
            ledger.running.append(name)

        def leave(module: nn.Module, given: Any, output: Any, name: str = name) -> None:
            ledger.running.pop()
            if isinstance(output, Tensor) and output.grad_fn is not None:
                output.grad_fn.register_prehook(lambda *_: setattr(ledger, "passed", name))

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        with ledger:
            yield ledger
        ledger.close()
    finally:
        for handle in handles:
            handle.remove()


def _layers(model: nn.Module, entries: tuple[_Entry, ...]) -> tuple[LayerBytes, ...]:
    """What each module holds."""
    activations: dict[str, int] = defaultdict(int)
    for entry in entries:
        activations[entry.module] += entry.num_bytes
    layers = []
    for name, module in model.named_modules():
        weights = sum(map(_num_bytes, module.parameters(recurse=False)))
        if activations[name] or weights:
            layers.append(LayerBytes(name or "(the input)", type(module).__name__, activations[name], weights))
    return tuple(sorted(layers, key=lambda layer: -(layer.activations + layer.weights)))


def _num_bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _is_large(part: Any) -> bool:
    return isinstance(part, Tensor) and part.ndim > 0
