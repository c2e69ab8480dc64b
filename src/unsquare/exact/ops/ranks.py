"""What synchronised batch norm sends between ranks: two numbers per channel and a count, each way.

Ranks hold unequal numbers of real pixels, so what is sent are moments with their counts. All ranks put them together
in the same order, in float64, and so agree to the last bit.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def group_of(layer: Any) -> Any:
    """The process group over which a synchronised layer (`nn.SyncBatchNorm`) works; None where it has no other rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = layer.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def pooled(mean: Tensor, variance: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) over the pixels of all ranks, and their number, a float64 scalar."""
    own = torch.cat([mean.double(), variance.double(), mean.new_tensor([count], dtype=torch.float64)])
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group=group)
    means, variances, counts = torch.stack(every).split([len(mean), len(mean), 1], dim=1)
    total = counts.sum()
    middle = (means * counts).sum(dim=0) / total
    spread = ((variances + (means - middle).square()) * counts).sum(dim=0) / total
    return middle.to(mean.dtype), spread.to(mean.dtype), total


def summed(values: Tensor, group: Any) -> Tensor:
    """The sum of all ranks' values."""
    total = values.double()
    if total is values:
        total = values.clone()
    dist.all_reduce(total, group=group)
    return total.to(values.dtype)
