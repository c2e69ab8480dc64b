"""Where the network runs: the device of this process, its precision, and its memory budget."""

from __future__ import annotations

import logging
from typing import Literal

import torch
from lightning_fabric import Fabric

from unsquare.errors import ConfigError
from unsquare.memory.heap import return_freed
from unsquare.network.config import DeviceConfig
from unsquare.network.ranks import meet_again, processes_here, together
from unsquare.torch_private import cpu_multiplies_bf16

logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # the run itself prints what it uses

Precision = Literal["bf16-mixed", "32-true"]


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
        reason = "there is none on this machine" if "not available" in reason else reason
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
