"""The layers of a model always work on the batch whose pass they take part in."""

from __future__ import annotations

import gc
import weakref
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

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
    images = references.unpadded_images(SIZES)
    expected = _gradients(exact, exact(*references.padded(images)))
    exact.set_grad_checkpointing(True)
    output = exact(*references.padded(images))
    between = exact(*references.padded(references.unpadded_images(OTHER_SIZES)))
    actual = _gradients(exact, output)
    for one, other in zip(actual, expected):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12)
    assert torch.isfinite(between).all()


def test_two_checkpointed_batches_in_one_loss(references: SimpleNamespace) -> None:
    """One backward pass through two batches recomputes each with its own regions."""
    exact = make_exact(references.stock_model("test_resnet"))
    batches = [references.padded(references.unpadded_images(sizes)) for sizes in (SIZES, OTHER_SIZES)]
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
    images = references.unpadded_images(SIZES)
    for model in (plain, checkpointed):
        _gradients(model, model(*references.padded(images)))
    torch.testing.assert_close(checkpointed.state_dict(), plain.state_dict(), rtol=1e-10, atol=1e-12)


def test_half_precision(references: SimpleNamespace) -> None:
    """Under bfloat16 autocast a padded batch is as near to float32 as unpadded images are."""
    for name in ("resnet18", "convnext_atto"):
        stock = references.stock_model(name, torch.float32)
        exact = make_exact(stock)
        images = references.unpadded_images(SIZES, torch.float32)
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
    batch = references.padded(references.unpadded_images(SIZES, torch.float32))
    first = _gradients(exact, exact(*batch))
    second = _gradients(exact, exact(*batch))
    assert all(torch.equal(one, other) for one, other in zip(first, second))


def test_nothing_stays_behind(references: SimpleNamespace) -> None:
    """After a pass, and after one that failed, layers know no batch; its memory goes with its graph."""
    exact = make_exact(references.stock_model("convnext_atto"))
    pixels, sizes = references.padded(references.unpadded_images(SIZES))
    seen = []
    exact.stem.register_forward_hook(lambda *_: seen.append(weakref.ref(exact.exact_passes.batch)))
    output = exact(pixels, sizes)
    (batch,) = seen
    assert batch() is not None
    assert exact.exact_passes.batch is None
    output.sum().backward()
    del output
    gc.collect()
    assert batch() is None
    with pytest.raises(ExactError):
        exact(pixels, torch.tensor([[2, 2]] * 3))
    assert exact.exact_passes.batch is None


def test_a_part_called_within_another_pass_is_refused(references: SimpleNamespace) -> None:
    """A map that is not of this batch's canvas is named rather than masked wrongly."""
    exact = make_exact(nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.MaxPool2d(2), nn.Conv2d(3, 3, 3)).double())
    exact[0].register_forward_hook(lambda module, args, output: output[:, :, 1:])
    with pytest.raises(ExactError, match="expects a map of 64 x 96 on the canvas of this batch, but got 63 x 96"):
        exact(*references.padded(references.unpadded_images(SIZES)))


def test_threads_share_a_model(references: SimpleNamespace) -> None:
    """Calls from several threads at once, on canvases alike and unlike, each give what a call alone gives."""
    exact = make_exact(references.stock_model("test_resnet"))
    batches = [
        references.padded(references.unpadded_images(SIZES[:number]), extra=(number, 0)) for number in (1, 2, 3, 2)
    ]
    with torch.no_grad():
        expected = [exact(*batch) for batch in batches]
        with ThreadPoolExecutor(4) as pool:
            for _ in range(5):
                for found, one in zip(pool.map(lambda batch: exact(*batch), batches), expected):
                    torch.testing.assert_close(found, one, rtol=1e-12, atol=0)


class _Kept(nn.Module):
    """A checkpointed block whose map is kept beside the output."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.more = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.kept: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.kept[:] = [checkpoint(lambda y: self.more(y).relu(), self.body(x), use_reentrant=False)]
        return self.kept[0].mean((2, 3))


def test_a_loss_on_an_inner_map_alone_is_refused(references: SimpleNamespace) -> None:
    """Recomputing for a loss that is not of the model's output is named, after another backward pass as well."""
    exact = make_exact(_Kept().double())
    batch = references.padded(references.unpadded_images(SIZES))
    exact(*batch).sum().backward()
    exact(*batch)
    with pytest.raises(ExactError, match="take the loss from the model's output"):
        exact.kept[0].sum().backward()


def test_outputs_may_be_changed_in_place(references: SimpleNamespace) -> None:
    """What the model returns is an ordinary tensor: dividing it in place divides its gradients."""
    exact = make_exact(references.stock_model("test_resnet"))
    batch = references.padded(references.unpadded_images(SIZES))
    exact(*batch).sum().backward()
    whole = [parameter.grad.clone() for parameter in exact.parameters()]
    exact.zero_grad()
    exact(*batch).div_(2).sum().backward()
    for parameter, gradient in zip(exact.parameters(), whole):
        torch.testing.assert_close(parameter.grad * 2, gradient, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_the_head_by_itself(references: SimpleNamespace, name: str) -> None:
    """`forward_head` on what `forward_features` returned pools each image's own region, as the whole model does."""
    exact = make_exact(references.stock_model(name))
    batch = references.padded(references.unpadded_images(SIZES), extra=(40, 8))
    torch.testing.assert_close(
        exact.forward_head(exact.forward_features(*batch)), exact(*batch), rtol=1e-12, atol=1e-14
    )


def test_other_arguments_are_refused(references: SimpleNamespace) -> None:
    """Arguments that the stock model would take could change its steps; they are named."""
    exact = make_exact(references.stock_model("test_resnet"))
    with pytest.raises(ExactError, match=r"takes pixels and sizes alone, .* but got mask"):
        exact(*references.padded(references.unpadded_images(SIZES)), mask=None)
