"""torchvision's networks, which call more functions of their own than timm's, answer as they do alone."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from unsquare.exact import make_exact
from unsquare.exact.verify import reference
from unsquare.torchvision_guard import import_timm

import_timm()  # a torchvision built for another torch can be imported after it

import torchvision  # noqa: E402

# Auxiliary heads run in training only. GoogLeNet's pool to a grid and take small images; Inception v3's need images of
# 299 pixels, whose eight seconds are left out.
NETWORKS = [
    ("googlenet", False),
    ("googlenet", True),
    ("inception_v3", False),
    ("mobilenet_v2", False),
    ("mnasnet0_5", False),
    ("squeezenet1_1", False),
    ("shufflenet_v2_x0_5", False),
    ("shufflenet_v2_x0_5", True),
    ("efficientnet_b0", False),
]


@pytest.mark.parametrize(("name", "training"), NETWORKS)
def test_torchvision_agrees_with_unpadded_images(references: SimpleNamespace, name: str, training: bool) -> None:
    """All outputs and gradients agree to 1e-10 in float64; in training batch norms share all images' real pixels."""
    torch.manual_seed(0)
    options = {"init_weights": False} if "ception" in name or name == "googlenet" else {}
    if name == "inception_v3":
        options["aux_logits"] = False  # which needs images above 280 pixels in training; GoogLeNet has one, too
    stock = references.without_repeats(torchvision.models.get_model(name, num_classes=7, **options))
    stock = reference.without_chance(reference.randomized(stock)).double().train(training)
    exact = make_exact(stock)
    images = references.unpadded_images([(83, 97), (97, 80)])
    expected = [torch.cat(parts) for parts in zip(*map(_tensors, reference.reference_outputs(stock, images)))]
    with reference.WithoutNoise():  # SqueezeNet's dropout stays out of this
        outputs = _tensors(exact(*references.padded(images, extra=(3, 5))))
    assert len(outputs) == len(expected) == (3 if name == "googlenet" and training else 1)
    for found in (outputs, expected):
        torch.stack([output.square().sum() for output in found]).sum().backward()
    for output, wanted in zip(outputs, expected):
        assert references.error(output, wanted) < 1e-10
    actual, grads = (
        {path: parameter.grad for path, parameter in model.named_parameters() if parameter.grad is not None}
        for model in (exact, stock)
    )
    assert reference.largest_error(reference.gradient_errors(actual, grads).values()) < 1e-10


def _tensors(output: Any) -> list[Tensor]:
    """A network's outputs, of which auxiliary ones are None in evaluation."""
    return [output] if isinstance(output, Tensor) else [one for one in output if one is not None]
