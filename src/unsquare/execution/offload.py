"""Offloads tensors that are kept for the backward pass: a GPU's to the host's memory, a CPU's to a file.

What is written to a file leaves this process's memory; the operating system caches it while memory is free, and keeps
it on disk otherwise. The file has no name, so nothing is left of it however the process ends.
"""

from __future__ import annotations

import io
import tempfile
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks

LEAST_BYTES = 1 << 20
"""Smaller tensors are not offloaded."""

_CHUNK = 64 << 20


def can_offload(device: torch.device) -> bool:
    """Whether tensors of a device can be offloaded."""
    return device.type in ("cpu", "cuda")


def offloaded(device: torch.device, folder: Path | None) -> AbstractContextManager[Any]:
    """Within its block, large tensors saved for the backward pass are offloaded.

    Args:
        device: of the tensors.
        folder: where a CPU's file goes; None takes the system's folder for temporary files.
    """
    if device.type == "cuda":
        return save_on_cpu(pin_memory=True)
    return saved_tensors_hooks(lambda tensor: _to_file(tensor, folder), _from_file)


@dataclass(frozen=True)
class _OffloadedTensor:
    """A tensor in a file, which is deleted when the graph frees the tensor."""

    file: io.FileIO
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype

    def __del__(self) -> None:
        self.file.close()


def _to_file(tensor: Tensor, folder: Path | None) -> Tensor | _OffloadedTensor:
    order = _in_memory(tensor)
    in_order = tensor.permute(order)
    if tensor.numel() * tensor.element_size() < LEAST_BYTES or not in_order.is_contiguous():
        return tensor.detach()  # saved with its graph, it would never be freed where no backward pass follows
    file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - closed with the tensor
    data = _bytes_of(in_order.detach())
    written = 0
    while written < len(data):
        written += file.write(data[written : written + _CHUNK])  # may write only a part; a full disk raises
    return _OffloadedTensor(file, tensor.shape, tensor.stride(), tensor.dtype)


def _in_memory(tensor: Tensor) -> list[int]:
    """The axes in the order of memory, outermost first."""
    strides = tensor.stride()
    return sorted(range(tensor.ndim), key=lambda axis: -strides[axis])


def _bytes_of(tensor: Tensor) -> memoryview:
    """A contiguous tensor's memory."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy().data)


def _from_file(kept: Tensor | _OffloadedTensor) -> Tensor:
    if isinstance(kept, Tensor):
        return kept
    tensor = torch.empty_strided(kept.shape, kept.stride, dtype=kept.dtype)
    order = _in_memory(tensor)
    data = _bytes_of(tensor.permute(order))
    kept.file.seek(0)
    for start in range(0, len(data), _CHUNK):
        part = data[start : start + _CHUNK]
        if kept.file.readinto(part) != len(part):
            raise OSError("a file of activations was cut short")
    return tensor
