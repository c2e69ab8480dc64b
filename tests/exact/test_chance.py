"""Layers that draw random numbers do to padded images what they do to images alone, given the same draws."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unsquare.exact import make_exact, output_regions
from unsquare.exact.verify import reference
from unsquare.torchvision_guard import import_timm

import_timm()  # a torchvision built for another torch can be imported after it

import torchvision  # noqa: E402


def _channel_dropout() -> nn.Module:
    layers = [nn.Conv2d(3, 16, 3, 2, 1), nn.Dropout2d(0.4), nn.BatchNorm2d(16), nn.Conv2d(16, 8, 3, padding=1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8, 7))


@pytest.mark.parametrize("num_images", [1, 3])
@pytest.mark.parametrize(
    "build",
    [
        lambda: import_timm().create_model("resnet10t", num_classes=7, drop_path_rate=0.6, drop_rate=0.3),
        lambda: import_timm().create_model("convnext_atto", num_classes=7, drop_path_rate=0.6, drop_rate=0.3),
        lambda: torchvision.models.efficientnet_b0(num_classes=7, stochastic_depth_prob=0.6),
        _channel_dropout,
    ],
    ids=["resnet10t", "convnext_atto", "efficientnet_b0", "dropout2d"],
)
def test_draws_per_image_do_not_see_the_canvas(
    references: SimpleNamespace, build: Callable[[], nn.Module], num_images: int
) -> None:
    """Images of one size, stacked, and the same on a larger canvas, drop the same paths, channels and features.

    Numbers are drawn per image, so one seed gives both the same: outputs and gradients agree to 1e-10.
    """
    torch.manual_seed(0)
    stock = reference.randomized(build()).double().train()
    exact = make_exact(stock)
    images = references.unpadded_images([(65, 90)] * num_images)
    weights = torch.linspace(-1, 1, num_images * 7, dtype=torch.float64).view(num_images, 7)
    torch.manual_seed(3)
    expected = stock(torch.stack(images))
    (expected * weights).sum().backward()
    torch.manual_seed(3)
    output = exact(*references.padded(images, extra=(30, 41)))
    (output * weights).sum().backward()
    assert references.error(output, expected) < 1e-10
    assert max(references.gradient_errors(exact, stock).values()) < 1e-10
    assert references.error(exact(*references.padded(images)), expected) > 1e-3  # other draws tell


class _Replayed:
    """Notes which values dropout has kept in a padded batch, and lets an unpadded image's dropout keep the same."""

    def __init__(self, exact: nn.Sequential, stock: nn.Sequential) -> None:
        self.kept: dict[int, Tensor] = {}
        self.image = 0
        for place, layer in enumerate(exact):
            if isinstance(layer, nn.Dropout):
                layer.register_forward_hook(self._note(place))
                stock[place].register_forward_hook(self._replay(place, layer.p))

    def _note(self, place: int) -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
            self.kept[place] = output.detach() != 0  # what follows a convolution is not zero by itself

        return hook

    def _replay(self, place: int, p: float) -> Any:
        def hook(layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            kept = self.kept[place][self.image, :, : output.shape[2], : output.shape[3]]
            return args[0] * kept / (1 - p)

        return hook


def test_dropped_values_are_dropped_alone(references: SimpleNamespace) -> None:
    """Dropout draws per place of the canvas; an unpadded image that loses the same has the same map and gradients."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.Dropout(0.4), nn.GroupNorm(2, 8), nn.ReLU()]
    stock = nn.Sequential(*layers, nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.2), nn.Conv2d(8, 4, 3, padding=1))
    stock = stock.double().train()
    exact = make_exact(stock)
    images = references.unpadded_images([(33, 47), (20, 25)])
    pixels, sizes = references.padded(images, extra=(9, 6))
    replayed = _Replayed(exact, stock)
    pixels.requires_grad_()
    output = exact(pixels, sizes)
    output.square().sum().backward()
    for index, (image, (height, width)) in enumerate(zip(images, output_regions(exact, sizes).tolist())):
        replayed.image = index
        expected = stock(image[None])
        expected.square().sum().backward()
        torch.testing.assert_close(output[index, :, :height, :width], expected[0], rtol=1e-10, atol=1e-12)
        assert not output[index, :, height:].any()
        assert not output[index, :, :, width:].any()
        assert not pixels.grad[index, :, image.shape[1] :].any()
        assert not pixels.grad[index, :, :, image.shape[2] :].any()
    assert max(references.gradient_errors(exact, stock).values()) < 1e-10
