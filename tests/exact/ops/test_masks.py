"""Regions by whole-tensor masks give what strips give: the one is checked by the other, and both by unpadded images."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch

from unsquare.exact.convert import converted as make_exact  # compared more strictly here than by its own trial
from unsquare.exact.verify import reference

SIZES = [(33, 47), (64, 96), (50, 61)]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", {}),
        ("test_convnext2", {}),
        ("convnextv2_atto", {}),
        ("resnet18", {"norm_layer": "groupnorm"}),
        ("resnet10t", {"global_pool": "catavgmax", "block_args": {"attn_layer": "gc"}}),
        ("mobilenetv3_small_050", {}),
        ("tf_efficientnet_b0", {}),
        ("resnetblur18", {}),
        ("ghostnetv2_100", {}),
        ("inception_v3", {}),
    ],
)
def test_masks_and_strips_agree(
    references: SimpleNamespace, name: str, options: dict[str, object], training: bool
) -> None:
    """Outputs, gradients and running statistics agree to 1e-10 in float64, in evaluation and in training."""
    stock = reference.without_chance(references.stock_model(name, short=True, **options))
    sizes = [(129, 140), (131, 150)] if name == "inception_v3" else SIZES
    strips = make_exact(stock).train(training)
    masks = copy.deepcopy(strips)
    masks.exact_passes.by_masks = True
    weights = torch.linspace(-1, 1, len(sizes) * 7, dtype=torch.float64).view(len(sizes), 7)
    outputs = []
    for model in (strips, masks):
        outputs.append(model(*references.padded(references.unpadded_images(sizes), extra=(3, 5))))
        (outputs[-1] * weights).sum().backward()
    assert references.error(outputs[1], outputs[0]) < 1e-10
    assert max(references.gradient_errors(masks, strips).values()) < 1e-10
    for (path, one), other in zip(strips.named_buffers(), masks.buffers()):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12, msg=path)


def test_masks_in_half_precision(references: SimpleNamespace) -> None:
    """Under bfloat16 autocast statistics by masks are float32, and outputs as near to float32's as those by strips."""
    stock = references.stock_model("resnet18", torch.float32).train()
    batch = references.padded(references.unpadded_images(SIZES, torch.float32))
    truth = make_exact(stock)(*batch)
    errors = []
    for by_masks in (False, True):
        exact = make_exact(stock)
        exact.exact_passes.by_masks = by_masks
        with torch.autocast("cpu", torch.bfloat16):
            errors.append(references.error(exact(*batch).float(), truth))
        assert exact.bn1.running_var.dtype == torch.float32
    assert errors[1] < 2 * errors[0]
