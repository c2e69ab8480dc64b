"""Exported classifiers give in onnxruntime what PyTorch gives, for every pool and at sizes the export never saw."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from unsquare.exact import RegionPool, SpatialPyramidPool, make_exact, output_regions
from unsquare.network.classifier import Classifier
from unsquare.network.config import ModelConfig
from unsquare.torchvision_guard import import_timm

POOLS: list[dict[str, Any]] = [
    {"pool": "spp"},
    {"pool": "spp", "pyramid": (1, 3, 5), "pyramid_mode": "mean"},
    *({"pool": pool} for pool in ("avg", "max", "avgmax", "catavgmax", "gem")),
]
SIZES = [
    *[
        (591, 400),
        (400, 591),
        (223, 227),
        (211, 37),
        (37, 211),
        (127, 257),
        (101, 103),
        (97, 131),
        (89, 144),
        (331, 40),
    ],
    *[(33, 300), (300, 33), (45, 190), (155, 93), (67, 61), (47, 32), (32, 47), (35, 35), (32, 32), (256, 256)],
]
FREE = torch.export.Dim.DYNAMIC

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # PyTorch's own, inside its exporter
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


class _EveryPool(nn.Module):
    """Classifiers that differ in their pool alone, over one backbone, so that one export has all of them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classifiers = nn.ModuleList(Classifier(ModelConfig(backbone="test_resnet", **pool), 7) for pool in POOLS)
        self.backbone = self.classifiers[0].backbone
        for classifier in self.classifiers:
            classifier.backbone = self.backbone
            nn.init.normal_(classifier.head.weight)  # logits that differ
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.running_mean, std=0.1)
                nn.init.uniform_(module.running_var, 0.5, 1.5)
        self.eval()

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits of each for one picture that is the whole canvas, (1, pools, classes)."""
        features = self.backbone(self.classifiers[0].normalized(pixels))
        return self._heads(features, torch.tensor([[features.shape[2], features.shape[3]]]))

    def _heads(self, features: Tensor, regions: Tensor) -> Tensor:
        """Logits of each from the one feature map."""
        pooled = [each.pool(features, regions) for each in self.classifiers]
        return torch.stack(
            [each.head(each.norm(one) / each.pool.num_bins) for each, one in zip(self.classifiers, pooled)], dim=1
        )


def _session(model: nn.Module, inputs: tuple[Tensor, ...], free: dict[str, Any], folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model, inputs, folder / "model.onnx", dynamo=True, verbose=False, dynamic_shapes=free)
    return onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])


def _picture(height: int, width: int) -> Tensor:
    """A smooth random picture, (1, 3, H, W) uint8."""
    seeds = torch.rand(1, 3, 5, 7, generator=torch.Generator().manual_seed(height * width))
    return nn.functional.interpolate(seeds, (height, width)).mul(255).byte()


def _assert_same(found: Any, expected: Tensor) -> None:
    actual = torch.from_numpy(found)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert torch.equal(actual.argmax(-1), expected.argmax(-1))


def test_unpadded_pictures_of_any_size(tmp_path: Path) -> None:
    """Exported for one picture at a time, without sizes: logits of all pools are PyTorch's at twenty sizes."""
    model = _EveryPool()
    session = _session(model, (_picture(96, 128),), {"pixels": {2: FREE, 3: FREE}}, tmp_path)
    for height, width in SIZES:
        picture = _picture(height, width)
        with torch.no_grad():
            expected = model(picture)
        _assert_same(session.run(None, {"pixels": picture.numpy()})[0], expected)


class _Padded(nn.Module):
    """A few layers of the kinds whose places depend on each picture's size, and two pools, on a padded batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        layers = [
            nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
            import_timm().layers.Conv2dSame(8, 8, 3, 2), nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, padding=1),
        ]  # fmt: skip
        self.network = make_exact(nn.Sequential(*layers))
        self.pools = nn.ModuleList([SpatialPyramidPool((1, 3, 4)), RegionPool("avgmax")])
        self.eval()

    def forward(self, pixels: Tensor, sizes: Tensor) -> Tensor:
        """The pools' vectors, beside each other."""
        features, regions = self.network(pixels / 255, sizes), output_regions(self.network, sizes)
        return torch.cat([pool(features, regions) for pool in self.pools], dim=1)


def test_padded_pictures_with_their_sizes(tmp_path: Path) -> None:
    """Exported with sizes: each picture of a padded batch gets what it gets alone, whatever lies around it."""
    model = _Padded()
    inputs = (torch.zeros(5, 3, 96, 128, dtype=torch.uint8), torch.tensor([[96, 100], [64, 128], *[[50, 60]] * 3]))
    session = _session(model, inputs, {"pixels": {2: FREE, 3: FREE}, "sizes": None}, tmp_path)
    for first in range(0, len(SIZES), 5):
        sizes = torch.tensor(SIZES[first : first + 5])
        height, width = sizes.amax(dim=0).tolist()
        canvas = torch.full((5, 3, height, width), 255, dtype=torch.uint8)
        for place, (high, wide) in zip(canvas, sizes.tolist()):
            place[:, :high, :wide] = _picture(high, wide)[0]
        with torch.no_grad():
            expected = torch.cat([model(_picture(*size), torch.tensor([size])) for size in sizes.tolist()])
        _assert_same(session.run(None, {"pixels": canvas.numpy(), "sizes": sizes.numpy()})[0], expected)
