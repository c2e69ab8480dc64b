"""Settings of the network, its optimizer and its device, without torch: help and plans need not wait for it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from unsquare.errors import ConfigError
from unsquare.exact.pool.kinds import MOST_LEVEL, PoolKind, check_levels
from unsquare.execution.strategy import STRATEGY_NAMES, StrategyName
from unsquare.memory.amounts import parse_bytes
from unsquare.plan.config import MOST_BUDGET_PIXELS, MOST_LAUNCH_PIXELS
from unsquare.settings import MOST_EPOCHS, MOST_WORKERS, Range, check_settings, is_utf8

Pool = Literal["spp", PoolKind]
Norm = Literal["own", "frozen", "group"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network."""

    backbone: str = "resnet18"
    """A timm model built of convolutions, by name; docs/exact-coverage.md lists them."""
    pretrained: bool = False
    """Start from timm's pretrained weights, from the hub."""
    weights: Path | None = None
    """Start from the backbone's weights in this safetensors file."""
    pool: Pool = "spp"
    """How features become one vector: spp (spatial pyramid), avg, max, avgmax (their mean), catavgmax (both), or gem
    (generalised mean, its power learnt)."""
    pyramid: Annotated[tuple[int, ...], Range(1, MOST_LEVEL)] = (1, 2, 4)
    """Levels of the spatial pyramid, for the pool spp: level l pools l x l bins."""
    pyramid_mode: Literal["max", "mean"] = "max"
    """What a bin of the spatial pyramid keeps of each feature, for the pool spp."""
    norm: Norm = "own"
    """The backbone's norms: own (as it is built), frozen (batch norms keep their statistics, best with pretrained
    weights) or group (group norms in their place); the latter two suit micro-batches of few images."""
    dropout: Annotated[float, Range(0, below=1)] = 0.0
    """Part of the pooled features dropped in training."""
    drop_path: Annotated[float, Range(0, below=1)] = 0.0
    """Rate of stochastic depth in the backbone."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.pretrained and self.weights is not None:
            raise ConfigError("pretrained and weights both say where the weights come from; give one of them.")
        check_levels(self.pyramid, "pyramid")
        if self.weights is not None and not is_utf8(str(self.weights)):
            raise ConfigError(f"weights must have a name in UTF-8, since settings are kept, but is {self.weights}.")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """How the weights move."""

    epochs: Annotated[int, Range(1, MOST_EPOCHS)] = 30
    """Passes over the training images."""
    optimizer: str = "adamw"
    """Any optimizer of timm's by name that works with gradients alone."""
    weight_decay: Annotated[float, Range(0, 1e6)] = 0.05
    """Decoupled weight decay; not applied to biases and norms. At a million nothing is left of a weight at any rate."""
    clip_norm: Annotated[float, Range(0, 1e30)] = 1.0
    """The gradient's norm is clipped to this; 0 leaves it, as would more than 1e30, beyond which float32 ends."""
    label_smoothing: Annotated[float, Range(0, below=1)] = 0.0
    """Part of each label's weight spread over all classes."""

    def __post_init__(self) -> None:
        check_settings(self)


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
