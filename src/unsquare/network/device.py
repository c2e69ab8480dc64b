"""Where the network runs: the device of this process, its precision, and its memory budget."""

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

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the run itself prints what it uses

Precision = Literal["bf16-mixed", "32-true"]


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Where the network runs, and its memory budget."""

    memory: str | None = None
    """The budget, such as 8GiB, or a part of what is available, such as 80%: of the whole process on a CPU, of the
    device on a GPU; None uses what is free."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """auto uses the best device available."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """auto uses bf16 where the device multiplies in bf16 natively, fp32 elsewhere."""
    strategy: Literal["auto", "plain", "bf16", "checkpoint", "offload", "tile"] = "auto"
    """How micro-batches are run: auto runs them as the network is (plain), and images that do not fit by the first
    fallback that holds them; any other runs all micro-batches in less memory and more time (see max_strategy)."""
    max_strategy: StrategyName = "tile"
    """The last fallback for images that do not fit, each alone, in this order: plain, bf16 (where the precision is
    auto), checkpoint (activation checkpointing), offload (activations kept in the host's memory or in a file), tile
    (the feature maps tile by tile)."""
    reuse_probes: bool = True
    """Save the results of memory probes in the user's cache folder, and reuse them the next time."""
    budget_pixels: Annotated[int, Range(1, MOST_BUDGET_PIXELS)] | None = None
    """The most computed pixels of a micro-batch; None measures it. If set, nothing is probed and the plan is the same
    on every machine."""
    launch_pixels: Annotated[int, Range(0, MOST_LAUNCH_PIXELS)] = 500_000
    """The cost of one more micro-batch as pixels, where `budget_pixels` is set."""
    workers: Annotated[int, Range(1, MOST_WORKERS)] | None = None
    """Threads that decode images; None uses one per core."""

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
    """The Fabric of this process: one device, or this process's part of those started by torchrun or srun.

    From here on freed memory goes back to the operating system, so that measured memory is memory in use.

    Raises:
        ConfigError: the accelerator is not available, or processes of one run were started by other means.
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
    native = device.type == "cpu" and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return "bf16-mixed" if native else "32-true"
