"""Where the network runs: the device of this process, its precision, and how much memory it may take there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from lightning_fabric import Fabric

from unsquare.errors import ConfigError
from unsquare.execution.strategy import STRATEGY_NAMES, StrategyName
from unsquare.memory.budget import parse_bytes
from unsquare.memory.heap import return_freed
from unsquare.network.ranks import meet_again, processes_here, together
from unsquare.plan.config import MOST_BUDGET_PIXELS, MOST_LAUNCH_PIXELS
from unsquare.settings import MOST_WORKERS, Range, check_settings
from unsquare.torch_private import cpu_multiplies_bf16

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the run says itself what it uses

Precision = Literal["bf16-mixed", "32-true"]


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where the network runs, and how much memory it may take there."""

    memory: str | None = None
    """The budget, such as 8GiB, or a part of what is there, such as 80%: of the whole process on a CPU, of the device
    on a GPU; None takes what is free."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto takes the best there is."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """auto takes bf16 where the device multiplies in bf16 natively, fp32 elsewhere."""
    strategy: Literal["auto", "plain", "bf16", "checkpoint", "offload", "tile"] = "auto"
    """How all micro-batches are run, at the least: auto runs them as the network is (plain), and images that do not
    fit by the first fallback that holds them; another runs all of them in a way that takes less memory and more time
    (see max_strategy)."""
    max_strategy: StrategyName = "tile"
    """The last fallback for images that do not fit, each alone, in this order: plain, bf16 (where the precision is left
    open), checkpoint (activation checkpointing), offload (activations kept in the host's memory or in a file), tile
    (the feature maps piece by piece)."""
    reuse_probes: bool = True
    """Remember what probes showed, in the user's cache folder, and do without them the next time."""
    budget_pixels: Annotated[int, Range(1, MOST_BUDGET_PIXELS)] | None = None
    """The most computed pixels of a micro-batch; None measures it. Pinned, nothing is probed and the plan is the
    same on every machine."""
    launch_pixels: Annotated[int, Range(0, MOST_LAUNCH_PIXELS)] = 500_000
    """The cost of one more micro-batch as pixels, where `budget_pixels` is pinned."""
    workers: Annotated[int, Range(1, MOST_WORKERS)] | None = None
    """Threads that decode images; None takes one per core."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.memory is not None:
            parse_bytes(self.memory, available=1)
        if STRATEGY_NAMES.index(self.least_strategy) > STRATEGY_NAMES.index(self.max_strategy):
            raise ConfigError(
                f"strategy must not come after max_strategy, but they are {self.strategy} and {self.max_strategy}; "
                f"the order is {', '.join(STRATEGY_NAMES)}."
            )

    @property
    def least_strategy(self) -> StrategyName:
        """The strategy of micro-batches that fit."""
        return "plain" if self.strategy == "auto" else self.strategy


def launch(config: DeviceConfig) -> Fabric:
    """The Fabric of this process: one device, or this process's share of what torchrun or srun started.

    From here on freed memory goes back to the operating system, so that what is measured is what is in use.

    Raises:
        ConfigError: there is no such accelerator here, or processes that share a run were started in another way.
    """
    devices, num_nodes = processes_here()
    try:
        probe = Fabric(accelerator=config.accelerator, devices=devices, num_nodes=num_nodes)
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=devices,
            num_nodes=num_nodes,
            precision=_precision(config, probe.device),
        )
    except (ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The accelerator {config.accelerator!r} cannot be used ({reason}); try auto.") from error
    with together():
        if fabric.world_size > 1:
            meet_again(fabric)
        fabric.launch()
    return_freed()
    return fabric


def _precision(config: DeviceConfig, device: torch.device) -> Precision:
    if config.precision != "auto":
        return config.precision
    if device.type == "cuda":
        return "bf16-mixed" if torch.cuda.get_device_capability(device)[0] >= 8 else "32-true"
    # On a CPU without matrix units or AVX-512 for it, bf16 is emulated and slower than fp32.
    native = device.type == "cpu" and cpu_multiplies_bf16()
    return "bf16-mixed" if native else "32-true"
