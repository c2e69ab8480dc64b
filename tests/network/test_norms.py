"""Frozen batch norm and group norm in place of batch norm: exact in training, whatever the micro-batch."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unsquare.exact import make_exact
from unsquare.exact.verify import references as lone
from unsquare.network.norms import freeze_batch_norms, group_norms_instead

SIZES = [(33, 47), (64, 96), (50, 61)]


@pytest.mark.parametrize("swap", [freeze_batch_norms, group_norms_instead])
@pytest.mark.parametrize("name", ["resnet18", "resnetv2_50", "mobilenetv3_small_050"])
def test_training_agrees_with_lone_images(
    references: SimpleNamespace, swap: Callable[[nn.Module], nn.Module], name: str
) -> None:
    """With either norm a padded batch in training equals the images alone, to 1e-10: no image affects another."""
    stock = lone.without_chance(swap(references.stock_model(name))).train()
    images = references.lone_images(SIZES)
    weights = torch.linspace(-1, 1, 21, dtype=torch.float64).view(3, 7)
    exact = make_exact(stock)
    expected = references.run_alone(stock, images, weights)
    output = exact(*references.padded(images, extra=(3, 5)))
    (output * weights).sum().backward()
    assert references.error(output, expected) < 1e-10
    assert max(references.gradient_errors(exact, stock).values()) < 1e-10


def test_freezing_keeps_function_and_keys(references: SimpleNamespace) -> None:
    """A frozen model evaluates as before under the same keys, its statistics stay in training, its weights learn."""
    stock = references.stock_model("resnet18")
    frozen = make_exact(freeze_batch_norms(stock)).train()
    assert list(frozen.state_dict()) == list(stock.state_dict())
    images = torch.stack(references.lone_images([(64, 64)] * 2))
    torch.testing.assert_close(frozen(images), stock(images))
    frozen(images).sum().backward()
    assert torch.equal(frozen.bn1.running_mean, stock.bn1.running_mean)
    assert frozen.bn1.weight.grad is not None
    assert type(stock.bn1) is nn.BatchNorm2d


def test_group_norm_keeps_weights_and_activations(references: SimpleNamespace) -> None:
    """Weights, biases and activations move to the group norms; batch norms and their statistics are gone."""
    stock = references.stock_model("resnetv2_50")
    changed = group_norms_instead(stock)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in changed.modules())
    keys = [key for key in stock.state_dict() if not key.endswith(("running_mean", "running_var", "batches_tracked"))]
    assert list(changed.state_dict()) == keys
    assert torch.equal(changed.norm.weight, stock.norm.weight)
    assert type(changed.norm.act) is type(stock.norm.act)
