"""Exact models inside what training puts around models: copies, averages, ranks, precisions, files."""

from __future__ import annotations

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact import make_exact, undo_exact
from unsquare.torchvision_guard import import_timm

timm = import_timm()

SIZES = [(33, 47), (64, 96), (50, 61)]
RANK = Path(__file__).parent / "rank.py"


def _rank_module() -> ModuleType:
    spec = importlib.util.spec_from_file_location("rank", RANK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _two_processes(name: str, kind: str, folder: Path) -> dict[str, Tensor]:
    out = folder / "out.safetensors"
    processes = [
        subprocess.Popen(
            [sys.executable, RANK, name, kind, str(rank), folder / "meeting", out], stderr=subprocess.PIPE, text=True
        )
        for rank in (0, 1)
    ]
    try:
        messages = [process.communicate(timeout=180)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], messages
    return load_file(out)


def _one_process(name: str) -> dict[str, Tensor]:
    rank = _rank_module()
    exact = make_exact(rank.model(name))
    images = [image for share in rank.images(torch.Generator().manual_seed(1)) for image in share]
    value = rank.loss(exact, images)
    value.backward()
    gradients = {f"gradient.{path}": one.grad for path, one in exact.named_parameters()}
    return {"loss": value.detach(), **gradients, **{f"buffer.{path}": one for path, one in exact.named_buffers()}}


@pytest.mark.parametrize(
    ("name", "kind"), [("test_convnext", "ddp"), ("test_resnet", "before"), ("test_resnet", "after")]
)
def test_two_processes_give_what_one_gives(name: str, kind: str, tmp_path: Path) -> None:
    """Two ranks with unequal numbers of pixels give one process's loss, gradients and statistics to 1e-10 in float64.

    Through DistributedDataParallel, which on a CPU takes no synchronized batch norm; those are synchronized before or
    after the model is made exact.
    """
    actual, expected = _two_processes(name, kind, tmp_path), _one_process(name)
    assert actual.keys() == expected.keys()
    for path, value in expected.items():
        scale = max(1.0, float(value.abs().max()))
        torch.testing.assert_close(actual[path], value, rtol=1e-10, atol=1e-10 * scale, msg=path)


@pytest.mark.parametrize("training", [False, True])
def test_synchronized_batch_norm_alone(references: SimpleNamespace, training: bool) -> None:
    """Without other ranks, and on a CPU, synchronized batch norm is plain exact batch norm, bit for bit."""
    plain = make_exact(references.stock_model("test_resnet")).train(training)
    synchronized = nn.SyncBatchNorm.convert_sync_batchnorm(make_exact(references.stock_model("test_resnet")))
    synchronized.train(training)
    batch = references.padded(references.unpadded_images(SIZES))
    assert torch.equal(synchronized(*batch), plain(*batch))
    torch.testing.assert_close(synchronized.state_dict(), plain.state_dict(), rtol=0, atol=0)


def test_lost_activations_are_refused(references: SimpleNamespace) -> None:
    """PyTorch's conversion loses the activation of timm's combined norms, which is said; timm's own keeps it."""
    stock = references.stock_model("test_efficientnet")
    expected = make_exact(stock)(*references.padded(references.unpadded_images(SIZES)))
    kept = make_exact(timm.layers.convert_sync_batchnorm(copy.deepcopy(stock)))
    assert torch.equal(kept(*references.padded(references.unpadded_images(SIZES))), expected)
    with pytest.raises(ExactError, match=r"use timm\.layers\.convert_sync_batchnorm"):
        make_exact(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(stock)))


def test_a_deep_copy_is_a_model_of_its_own(references: SimpleNamespace) -> None:
    """A copy gives the same, trains alone, and passes of one leave the other untouched."""
    exact = make_exact(references.stock_model("test_resnet")).train()
    copied = copy.deepcopy(exact)
    batch = references.padded(references.unpadded_images(SIZES))
    before = copy.deepcopy(copied.state_dict())
    expected = exact(*batch)
    torch.testing.assert_close(copied.state_dict(), before, rtol=0, atol=0)
    assert torch.equal(copied(*batch), expected)
    copied.exact_passes.by_masks = True
    assert not exact.exact_passes.by_masks
    assert all(
        module.exact_site.passes is copied.exact_passes for module in copied.modules() if hasattr(module, "exact_site")
    )


def test_timms_moving_average(references: SimpleNamespace) -> None:
    """ModelEmaV3 averages an exact model's weights and statistics, and the average is exact."""
    exact = make_exact(references.stock_model("test_resnet"))
    average = timm.utils.ModelEmaV3(exact, decay=0.5)
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.add_(0.01)
    average.update(exact, step=2)
    images = references.unpadded_images(SIZES)
    alone = torch.cat([undo_exact(average.module)(image[None]) for image in images])
    assert references.error(average.module(*references.padded(images)).detach(), alone.detach()) < 1e-10
    assert not torch.equal(next(average.module.parameters()), next(exact.parameters()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_autocast(references: SimpleNamespace, name: str, dtype: torch.dtype) -> None:
    """Under autocast a padded batch is as near to float32 as unpadded images are, and gradients are finite."""
    stock = references.stock_model(name, torch.float32)
    exact = make_exact(stock)
    images = references.unpadded_images(SIZES, torch.float32)
    truth = torch.cat([stock(image[None]) for image in images]).detach()
    with torch.autocast("cpu", dtype):
        alone = torch.cat([stock(image[None]) for image in images])
        output = exact(*references.padded(images))
    assert references.error(output.float().detach(), truth) < 2 * references.error(alone.float().detach(), truth)
    with torch.autocast("cpu", dtype):
        exact.train()(*references.padded(images)).float().sum().backward()
    assert all(bool(torch.isfinite(parameter.grad).all()) for parameter in exact.parameters())


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    "name", ["test_resnet", "resnetblur18", "test_efficientnet", "tf_mobilenetv3_small_minimal_100"]
)
def test_maps_stay_channels_last(references: SimpleNamespace, name: str, training: bool) -> None:
    """Every layer is given and returns channels-last memory, so that no fill falls back to a mask."""
    options = {"num_classes": 0, "global_pool": ""}
    exact = make_exact(references.stock_model(name, torch.float32, **options)).train(training)
    exact.to(memory_format=torch.channels_last)
    wrong: list[str] = []

    def watch(path: str) -> object:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            for one in (args[0], output):
                if one.ndim == 4 and not one.is_contiguous(memory_format=torch.channels_last):
                    wrong.append(path)

        return hook

    for path, module in exact.named_modules():
        module.register_forward_hook(watch(path))
    output = exact(*references.padded(references.unpadded_images(SIZES, torch.float32)))
    assert output.is_contiguous(memory_format=torch.channels_last)
    assert [path for path in wrong if path] == []


def test_weights_go_both_ways_through_files(references: SimpleNamespace, tmp_path: Path) -> None:
    """State dicts have the stock model's keys, and go through safetensors and torch.save from and to either."""
    stock = references.stock_model("test_resnet")
    exact = make_exact(stock)
    assert list(exact.state_dict()) == list(stock.state_dict())
    batch = references.padded(references.unpadded_images(SIZES))
    expected = exact(*batch)
    other = timm.create_model("test_resnet", num_classes=7).double().eval()
    save_file(exact.state_dict(), tmp_path / "exact.safetensors")
    other.load_state_dict(load_file(tmp_path / "exact.safetensors"), strict=True)
    assert torch.equal(make_exact(other)(*batch), expected)
    third = make_exact(timm.create_model("test_resnet", num_classes=7).double().eval())
    torch.save(stock.state_dict(), tmp_path / "stock.pt")
    third.load_state_dict(torch.load(tmp_path / "stock.pt", weights_only=True), strict=True)
    assert torch.equal(third(*batch), expected)


@pytest.mark.parametrize("name", ["test_resnet", "convnextv2_atto", "tf_mobilenetv3_small_minimal_100"])
def test_undone_is_as_never_made(references: SimpleNamespace, name: str) -> None:
    """`undo_exact` gives back the stock classes, attributes, and outputs bit for bit; and can be made exact again."""
    stock = references.stock_model(name)
    exact = make_exact(stock)
    undone = undo_exact(exact)
    for one, other in zip(undone.modules(), stock.modules(), strict=True):
        assert type(one) is type(other)
        assert one.__dict__.keys() == other.__dict__.keys()
    image = references.unpadded_images(SIZES[:1])[0][None]
    assert torch.equal(undone(image), stock(image))
    batch = references.padded(references.unpadded_images(SIZES))
    assert torch.equal(make_exact(undone)(*batch), exact(*batch))
