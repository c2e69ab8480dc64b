"""Batch norm in training knows only real pixels; its running statistics follow the same."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unsquare.exact import make_exact

SIZES = [(33, 47), (64, 96), (50, 61)]


def _train(references: SimpleNamespace, name: str, dtype: torch.dtype) -> tuple[nn.Module, nn.Module, float]:
    """The exact model and the ragged reference after one backward pass, and the error of the outputs."""
    reference = references.stock_model(name, dtype).train()
    exact = make_exact(reference)
    images = references.unpadded_images(SIZES, dtype)
    weights = torch.linspace(-1, 1, len(SIZES) * 7, dtype=dtype).view(len(SIZES), 7)
    expected = references.run_ragged(reference, images, weights)
    pixels, sizes = references.padded(images, extra=(3, 5))
    output = exact(pixels, sizes)
    (output * weights).sum().backward()
    return exact, reference, references.error(output, expected)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "seresnext26d_32x4d"])
def test_training_agrees_with_ragged_images(references: SimpleNamespace, name: str) -> None:
    """Outputs, gradients and running statistics are those of unpadded images normalized together, to 1e-10."""
    exact, reference, outputs = _train(references, name, torch.float64)
    assert outputs < 1e-10
    assert max(references.gradient_errors(exact, reference).values()) < 1e-10
    buffers = dict(reference.named_buffers())
    for path, buffer in exact.named_buffers():
        if path.endswith(("running_mean", "running_var")):
            assert references.error(buffer, buffers[path]) < 1e-10


def test_single_precision_training_is_at_rounding_level(references: SimpleNamespace) -> None:
    """In float32 the outputs agree to 1e-5, and the gradients are as near to float64 as the reference's own.

    twenty normalizations in a row over a few pixels amplify rounding: the ragged reference itself is about 5e-6 from
    its float64 gradients, so no comparison between two float32 runs can be finer than a few times that.
    """
    exact, reference, outputs = _train(references, "resnet18", torch.float32)
    truth = _train(references, "resnet18", torch.float64)[1]
    assert outputs < 1e-5
    own = max(references.gradient_errors(reference, truth).values())
    assert own < 1e-5
    assert max(references.gradient_errors(exact, truth).values()) < 4 * own


def _layer(layer: nn.Module, extra: nn.Module | None = None) -> nn.Module:
    """An exact model of one layer behind a strided window, so that regions differ from sizes."""
    parts = [nn.Conv2d(3, 8, 3, stride=2, padding=1), layer] + ([] if extra is None else [extra])
    return make_exact(nn.Sequential(*parts).double())


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_count_real_pixels(references: SimpleNamespace, momentum: float | None) -> None:
    """Running moments follow stock batch norm on the real pixels laid side by side, also as a plain average."""
    exact = _layer(nn.BatchNorm2d(8, momentum=momentum)).train()
    stock = nn.BatchNorm2d(8, momentum=momentum).double().train()
    for shift in (0.0, 2.0):
        images = [image + shift for image in references.unpadded_images(SIZES)]
        exact(*references.padded(images))
        with torch.no_grad():
            flat = [exact[0](image[None]).flatten(2) for image in images]
        stock(torch.cat(flat, dim=2)[..., None])
    torch.testing.assert_close(exact[1].state_dict(), stock.state_dict(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-4), (torch.bfloat16, 1e-3), (torch.float16, 1e-3)])
@pytest.mark.parametrize("extra", [(8, 0), (60, 60)])
@pytest.mark.parametrize("mean", [30, 100])
def test_a_large_mean_costs_no_digits(
    references: SimpleNamespace, dtype: torch.dtype, tolerance: float, extra: tuple[int, int], mean: float
) -> None:
    """A mean far larger than the deviation leaves the variance of the pixels right, with little padding and much."""
    images = [image + mean for image in references.unpadded_images([(78, 110), (80, 120)], torch.float32, channels=8)]
    images = [image.to(dtype) for image in images]
    exact = make_exact(nn.Sequential(nn.BatchNorm2d(8, momentum=1.0))).train()
    exact(*references.padded(images, extra=extra))
    pixels = torch.cat([image.double().flatten(1) for image in images], dim=1)
    torch.testing.assert_close(exact[0].running_mean.double(), pixels.mean(dim=1), rtol=tolerance / 10, atol=0)
    torch.testing.assert_close(exact[0].running_var.double(), pixels.var(dim=1), rtol=tolerance, atol=0)


def test_many_small_images_have_a_mean(references: SimpleNamespace) -> None:
    """More images than pixels are looked at for a guess of the mean leave the statistics right."""
    images = references.unpadded_images([(1, 1), (2, 3), (3, 2)] * 50, channels=8)
    exact = make_exact(nn.Sequential(nn.BatchNorm2d(8, momentum=1.0)).double()).train()
    exact(*references.padded(images, extra=(1, 2)))
    pixels = torch.cat([image.flatten(1) for image in images], dim=1)
    torch.testing.assert_close(exact[0].running_var, pixels.var(dim=1), rtol=1e-10, atol=0)


def test_one_pixel_is_refused_as_by_the_stock_layer(references: SimpleNamespace) -> None:
    """One real pixel in all has no variance: the error is stock batch norm's, though the canvas has more."""
    exact = make_exact(nn.Sequential(nn.BatchNorm2d(3))).train()
    pixels, sizes = references.padded(references.unpadded_images([(1, 1)], torch.float32), extra=(4, 4))
    with pytest.raises(ValueError, match="Expected more than 1 value per channel when training"):
        exact(pixels, sizes)


def test_without_affine_and_running_statistics(references: SimpleNamespace) -> None:
    """Batch norm without parameters or running statistics uses the batch's in evaluation too."""
    exact = _layer(nn.BatchNorm2d(8, affine=False, track_running_stats=False), nn.AdaptiveAvgPool2d(1)).eval()
    images = references.unpadded_images(SIZES)
    output = exact(*references.padded(images))
    maps = [exact[0](image[None])[0] for image in images]
    pixels = torch.cat([one.flatten(1) for one in maps], dim=1)
    mean, deviation = pixels.mean(dim=1), (pixels.var(dim=1, correction=0) + 1e-5).sqrt()
    expected = torch.stack([(one.mean(dim=(1, 2)) - mean) / deviation for one in maps])
    torch.testing.assert_close(output[:, :, 0, 0], expected, rtol=1e-10, atol=1e-12)


def test_half_precision_keeps_full_precision_statistics(references: SimpleNamespace) -> None:
    """Under bfloat16 autocast the running statistics are float32, and right to what the pixels' rounding allows."""
    images = references.unpadded_images(SIZES, torch.float32)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8, momentum=1.0)).train()
    exact = make_exact(layers)
    with torch.autocast("cpu", torch.bfloat16):
        output = exact(*references.padded(images))
        maps = [layers[0](image[None])[0].detach() for image in images]
    assert output.dtype == torch.bfloat16
    pixels = torch.cat([one.double().flatten(1) for one in maps], dim=1)
    assert exact[1].running_var.dtype == torch.float32
    torch.testing.assert_close(exact[1].running_mean.double(), pixels.mean(dim=1), rtol=0, atol=1e-4)
    torch.testing.assert_close(exact[1].running_var.double(), pixels.var(dim=1), rtol=1e-3, atol=0)


@pytest.mark.parametrize("groups", [1, 4])
def test_group_norm_knows_each_image_alone(references: SimpleNamespace, groups: int) -> None:
    """Group norm's output and parameter gradients are those of unpadded images."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(groups, 8), nn.Conv2d(8, 7, 3, padding=1))
    stock = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()).double()
    exact = make_exact(stock)
    images = references.unpadded_images(SIZES)
    weights = torch.linspace(-1, 1, 21, dtype=torch.float64).view(3, 7)
    expected = references.run_alone(stock, images, weights)
    output = exact(*references.padded(images))
    (output * weights).sum().backward()
    assert references.error(output, expected) < 1e-10
    assert max(references.gradient_errors(exact, stock).values()) < 1e-10
