"""The classifier: a timm backbone made padding-exact, a pool over each image's region, a linear head.

Pixels arrive as uint8 and are normalized here, on the device; the exact backbone then zeroes everything outside
the regions, so that padding is zero *after* normalization, like the network's own padding.
"""

from __future__ import annotations

import difflib
from contextlib import nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from unsquare.errors import ConfigError
from unsquare.exact.convert import make_exact
from unsquare.exact.model import known_method, output_regions, side_multiple
from unsquare.exact.pool.pyramid import SpatialPyramidPool
from unsquare.exact.pool.region import RegionPool
from unsquare.execution.chain import Chain, map_elements_per_pixel
from unsquare.execution.strategy import PLAIN, Strategy
from unsquare.network.config import ModelConfig
from unsquare.network.norms import freeze_batch_norms, group_norms_instead
from unsquare.network.pretrained import load_packaged
from unsquare.network.stages import freeze, unused_parameters
from unsquare.network.weights import load_weights, weights_of
from unsquare.torchvision_guard import import_timm

timm = import_timm()


class Classifier(nn.Module):
    """Maps padded uint8 pixels and their sizes to logits, each image's as if it were alone.

    Args:
        config: which network.
        num_classes: number of logits.
        load: whether to load the starting weights that `config` names (not needed before loading a checkpoint).
    """

    backbone: Any
    unused: frozenset[str]
    """Names of the backbone's parameters that the features do not depend on, such as those of timm's own head."""
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, config: ModelConfig, num_classes: int, *, load: bool = True) -> None:
        super().__init__()
        config = config.settled()
        backbone = create_backbone(config, load)
        self.stride = int(backbone.feature_info[-1]["reduction"])
        self.backbone = make_exact(backbone)
        self._check_sides(config.backbone)
        # Networks that widen their features after pooling, or whose pool cannot be left out, end before their head.
        widened = getattr(backbone, "head_hidden_size", backbone.num_features) != backbone.num_features
        pooled = known_method(self.backbone).returned is None
        self._method = "forward_features" if widened or pooled else "forward"
        self.unused = unused_parameters(backbone) if self._method == "forward_features" else frozenset()
        self.pool = create_pool(config)
        num_pooled = int(backbone.num_features) * self.pool.num_bins
        self.norm = nn.LayerNorm(num_pooled)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(num_pooled, num_classes)
        nn.init.zeros_(self.head.bias)
        nn.init.normal_(self.head.weight, std=0.01)
        for name in ("mean", "std"):
            values = torch.tensor(backbone.pretrained_cfg[name], dtype=torch.float32) * 255
            self.register_buffer(name, values.view(3, 1, 1), persistent=False)
        self._chain: Chain | None = None
        self._frozen: tuple[nn.Module, ...] = ()

    def freeze(self, what: str) -> None:
        """Freeze the backbone, its stem and first stages, or "none" of it.

        Raises:
            ConfigError: the backbone has fewer stages.
        """
        self.backbone.requires_grad_(True)
        self._frozen = () if what == "none" else freeze(self.backbone, what, self.unused)

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode; frozen stages stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        return self

    def forward(
        self, pixels: torch.Tensor, sizes: torch.Tensor, strategy: Strategy = PLAIN, folder: Path | None = None
    ) -> torch.Tensor:
        """Logits, (N, num_classes) fp32, of pixels (N, 3, H, W) uint8 with regions `sizes` (N, 2), on the host.

        `strategy` says how the backbone is run, and `folder` where a CPU offloads activations to.
        """
        if strategy.is_plain:
            features, regions = self.features(self.normalized(pixels), sizes)
        else:
            features = self._channels_first(self.chain().run(strategy, pixels, sizes, folder))
            regions = self._regions(sizes)
        pooled = self.pool(features, regions)  # (N, C * bins)
        with torch.autocast(pixels.device.type, enabled=False):
            # Adam moves each weight by the same amount, so a vector of b bins would move the logits b times as far as
            # plain pooling does; normalized and divided by b, it works with the usual learning rates.
            return self.head(self.dropout(self.norm(pooled.to(self.head.weight.dtype))) / self.pool.num_bins)

    def normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalized pixels, as the backbone expects them, of uint8 pixels."""
        return (pixels - self.mean) / self.std

    def chain(self) -> Chain:
        """The backbone as a chain of steps.

        Raises:
            ExactError: it is not one.
        """
        if self._chain is None:
            self._chain = Chain(self.backbone, self._method, self.normalized)
        return self._chain

    def map_elements(self) -> float:
        """Elements of the backbone's largest map, for each pixel of the image."""
        return map_elements_per_pixel(self.backbone, self._method)

    def features(self, pixels: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Feature maps (N, C, h, w) of normalized pixels, and each image's region (N, 2) in them."""
        backbone = self.backbone
        features = (backbone if self._method == "forward" else backbone.forward_features)(pixels, sizes)
        return self._channels_first(features), self._regions(sizes)

    def _regions(self, sizes: torch.Tensor) -> torch.Tensor:
        """Each image's region (N, 2) in the backbone's one feature map."""
        return cast(torch.Tensor, output_regions(self.backbone, sizes, self._method))

    def _channels_first(self, features: torch.Tensor) -> torch.Tensor:
        """The backbone's map as (N, C, h, w)."""
        returned = known_method(self.backbone, self._method).returned
        return features.permute(0, 3, 1, 2) if returned is not None and returned.axes == (1, 2) else features

    def _check_sides(self, name: str) -> None:
        multiple = side_multiple(self.backbone)
        if multiple > 1:
            raise ConfigError(
                f"The backbone {name!r} only takes images whose sides are multiples of {multiple}, but pictures come "
                "in every size; choose another, such as resnet50 or convnext_tiny."
            )


def create_pool(config: ModelConfig) -> SpatialPyramidPool | RegionPool:
    """The pool set in the settings."""
    if config.pool == "spp" or config.pool == "auto":
        return SpatialPyramidPool(config.pyramid, config.pyramid_mode)
    return RegionPool(config.pool)


def create_backbone(config: ModelConfig, load: bool) -> Any:
    """The stock backbone set in the settings, without its head.

    Raises:
        ConfigError: timm has no such model, or its weights cannot be loaded.
    """
    config = config.settled()
    check_backbone_name(config.backbone)
    options: dict[str, Any] = {"drop_path_rate": config.drop_path} if config.drop_path else {}
    if not config.backbone.startswith("inception_next"):  # its pool cannot be left out
        options["global_pool"] = ""
    try:
        from_hub = config.pretrained == "hub" and load
        backbone = timm.create_model(config.backbone, pretrained=from_hub, num_classes=0, **options)
    except (OSError, RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
        if "drop_path" in reason:
            raise ConfigError(
                f"--drop-path {config.drop_path} does not work with the backbone {config.backbone!r}, which has no "
                "stochastic depth; leave it out."
            ) from error
        raise ConfigError(
            f"The backbone {config.backbone!r} cannot be created ({reason}); check its name, the connection to the "
            "hub, or give a local file with --weights."
        ) from error
    if config.pretrained == "package" and load:
        load_packaged(backbone, config.backbone)
    if config.norm != "own":
        backbone = freeze_batch_norms(backbone) if config.norm == "frozen" else group_norms_instead(backbone)
    # After the norms are in place: a file of a run with group norms lacks the statistics of the batch norms before.
    weights = config.weights if config.from_run is None or not load else weights_of(config.from_run)
    if weights is not None and load:
        load_weights(backbone, weights)
    return backbone


def check_model(config: ModelConfig) -> None:
    """Create the network once, without data unless it has weights to load, to fail before any header is read.

    Raises:
        ConfigError: timm has no such backbone, or its weights cannot be loaded.
        ExactError: it cannot be made exact.
    """
    with torch.random.fork_rng(devices=[]), nullcontext() if config.has_weights else torch.device("meta"):
        Classifier(config, num_classes=2)


def check_backbone_name(name: str) -> None:
    """Refuse a name that timm does not have, and suggest similar ones.

    Raises:
        ConfigError: timm has no such model.
    """
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else "try resnet18 or convnext_atto."
        raise ConfigError(f"There is no timm model {name!r}; {hint}")
