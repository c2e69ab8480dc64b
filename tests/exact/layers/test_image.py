"""Layers that run image by image, and instance norm, give each image what the stock layer gives it alone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unsquare.errors import ExactError
from unsquare.exact import make_exact, output_regions
from unsquare.exact.verify import reference
from unsquare.torchvision_guard import import_timm

layers = import_timm().layers

SIZES = [(9, 14), (15, 7), (15, 14)]


def _network(layer: nn.Module) -> nn.Module:
    """A layer behind a strided window, so that regions differ from sizes."""
    torch.manual_seed(0)
    return reference.randomized(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.SiLU(), layer)).double()


@pytest.mark.parametrize(
    "layer",
    [
        layers.EvoNorm2dS0(8, groups=2),
        layers.EvoNorm2dS0a(8, groups=4),
        layers.EvoNorm2dS1(8, groups=2),
        layers.EvoNorm2dS2(8, groups=2),
        layers.FilterResponseNormTlu2d(8),
        layers.FilterResponseNormAct2d(8),
        layers.AttentionPool2d(8, feat_size=7, head_dim=4),
        layers.AttentionPool2d(8, feat_size=(3, 5), num_heads=1, pool_type="", out_features=5),
        layers.RotAttentionPool2d(8, head_dim=4),
        nn.InstanceNorm2d(8),
        nn.InstanceNorm2d(8, affine=True),
    ],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("training", [False, True])
def test_agrees_with_the_stock_layer_alone(references: SimpleNamespace, layer: nn.Module, training: bool) -> None:
    """Outputs, and gradients of pixels and parameters, agree to 1e-10 in float64; a map is zero outside."""
    stock = _network(layer).train(training)
    exact = make_exact(stock)
    images = references.unpadded_images(SIZES)
    pixels, sizes = references.padded(images, extra=(4, 3))
    pixels.requires_grad_()
    with reference.WithoutNoise():
        output = exact(pixels, sizes)
    output.square().sum().backward()
    for index, image in enumerate(images):
        alone = image[None].clone().requires_grad_()
        with reference.WithoutNoise():
            expected = stock(alone)
        expected.square().sum().backward()
        actual = output[index]
        if expected.ndim == 4:
            height, width = output_regions(exact, sizes)[index].tolist()
            assert not actual[:, height:].any()
            assert not actual[:, :, width:].any()
            actual = actual[:, :height, :width]
        torch.testing.assert_close(actual, expected[0], rtol=1e-10, atol=1e-12)
        inside = pixels.grad[index, :, : image.shape[1], : image.shape[2]]
        torch.testing.assert_close(inside, alone.grad[0], rtol=1e-9, atol=1e-11)
    assert max(references.gradient_errors(exact, stock).values()) < 1e-10


def test_a_compiled_graph_cannot_run_image_by_image(references: SimpleNamespace) -> None:
    """Where regions are kept by masks no size is known on the host, which is said."""
    exact = make_exact(_network(layers.FilterResponseNormAct2d(8)))
    exact.exact_passes.by_masks = True
    with pytest.raises(ExactError, match="FilterResponseNormAct2d runs image by image"):
        exact(*references.padded(references.unpadded_images(SIZES)))
