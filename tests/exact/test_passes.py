"""The layers of a model always work on the batch whose pass they take part in."""

from __future__ import annotations

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact import make_exact

SIZES = [(33, 47), (64, 96), (50, 61)]
OTHER_SIZES = [(64, 96), (40, 40), (35, 90)]


def _gradients(model: nn.Module, outputs: Tensor) -> list[Tensor]:
    model.zero_grad()
    outputs.square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto"])
def test_checkpointed_blocks_recompute_with_their_own_regions(references: SimpleNamespace, name: str) -> None:
    """With checkpointing, gradients are the same although another batch went through before backward."""
    exact = make_exact(references.stock_model(name))
    images = references.lone_images(SIZES)
    expected = _gradients(exact, exact(*references.padded(images)))
    exact.set_grad_checkpointing(True)
    output = exact(*references.padded(images))
    between = exact(*references.padded(references.lone_images(OTHER_SIZES)))
    actual = _gradients(exact, output)
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert torch.isfinite(between).all()


def test_two_checkpointed_batches_in_one_loss(references: SimpleNamespace) -> None:
    """One backward pass through two batches recomputes each with its own regions."""
    exact = make_exact(references.stock_model("test_resnet"))
    batches = [references.padded(references.lone_images(sizes)) for sizes in (SIZES, OTHER_SIZES)]
    expected = _gradients(exact, torch.cat([exact(*batch) for batch in batches]))
    exact.set_grad_checkpointing(True)
    actual = _gradients(exact, torch.cat([exact(*batch) for batch in batches]))
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)


def test_checkpointing_counts_a_batch_once(references: SimpleNamespace) -> None:
    """Running statistics after a checkpointed step are those of a plain step: recomputing does not count."""
    plain = make_exact(references.stock_model("test_resnet")).train()
    checkpointed = make_exact(references.stock_model("test_resnet")).train()
    checkpointed.set_grad_checkpointing(True)
    images = references.lone_images(SIZES)
    for model in (plain, checkpointed):
        _gradients(model, model(*references.padded(images)))
    torch.testing.assert_close(checkpointed.state_dict(), plain.state_dict(), rtol=1e-10, atol=1e-12)


def test_half_precision(references: SimpleNamespace) -> None:
    """Under bfloat16 autocast a padded batch is as near to float32 as lone images are."""
    for name in ("resnet18", "convnext_atto"):
        stock = references.stock_model(name, torch.float32)
        exact = make_exact(stock)
        images = references.lone_images(SIZES, torch.float32)
        truth = torch.cat([stock(image[None]) for image in images])
        with torch.autocast("cpu", torch.bfloat16):
            alone = torch.cat([stock(image[None]) for image in images])
            output = exact(*references.padded(images))
        output.float().sum().backward()
        assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in exact.parameters())
        assert references.error(output.float(), truth.detach()) < 2 * references.error(alone.float(), truth.detach())


def test_same_batch_same_bits(references: SimpleNamespace) -> None:
    """Two runs of one batch give the same outputs and gradients, bit for bit."""
    exact = make_exact(references.stock_model("test_resnet", torch.float32))
    batch = references.padded(references.lone_images(SIZES, torch.float32))
    first = _gradients(exact, exact(*batch))
    second = _gradients(exact, exact(*batch))
    assert all(torch.equal(one, other) for one, other in zip(first, second))


def test_nothing_stays_behind(references: SimpleNamespace) -> None:
    """After a pass, and after one that failed, layers know no batch; its memory goes with its graph."""
    exact = make_exact(references.stock_model("convnext_atto"))
    pixels, sizes = references.padded(references.lone_images(SIZES))
    output = exact(pixels, sizes)
    batch = weakref.ref(output.grad_fn.batch)
    assert exact.passes.batch is None
    output.sum().backward()
    del output
    gc.collect()
    assert batch() is None
    with pytest.raises(ExactError):
        exact(pixels, torch.tensor([[2, 2]] * 3))
    assert exact.passes.batch is None


def test_a_part_called_within_another_pass_is_refused(references: SimpleNamespace) -> None:
    """A map that is not of this batch's canvas is named rather than masked wrongly."""
    exact = make_exact(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(3, 3, 3)).double())
    exact[0].register_forward_hook(lambda module, args, output: output[:, :, 1:])
    with pytest.raises(ExactError, match="was given a map of 63 x 96 where the canvas of this batch makes 64 x 96"):
        exact(*references.padded(references.lone_images(SIZES)))
