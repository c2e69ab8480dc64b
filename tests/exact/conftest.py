"""References for exactness: stock models on unpadded images, and comparisons with them."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from unsquare.exact.verify import reference
from unsquare.torchvision_guard import import_timm

timm = import_timm()


def stock_model(name: str, dtype: torch.dtype = torch.float64, *, short: bool = False, **options: object) -> nn.Module:
    """A stock timm model in which no parameter or statistic hides behind a zero or one of its initialization.

    A short one has no repeated blocks.
    """
    torch.manual_seed(0)
    model = timm.create_model(name, **{"num_classes": 7, **options})
    model = reference.randomized(without_repeats(model) if short else model)
    return model.to(dtype).eval()


def without_repeats(model: nn.Module) -> nn.Module:
    """The model with one block of each kind in each stage: a second of the same shapes takes time and adds no step.

    A stage is a sequence all of whose parts have weights. What halves the map stays, since another branch may meet it.
    """
    for stage in [module for module in model.modules() if type(module) is nn.Sequential]:
        kinds, blocks = [], list(stage.named_children())
        for name, block in blocks if all(list(block.parameters()) for _, block in blocks) else []:
            kind = (type(block), [(path, tensor.shape) for path, tensor in block.state_dict().items()])
            strides = {getattr(module, "stride", 1) for module in block.modules()}
            if kind in kinds and strides <= {1, (1, 1)}:
                delattr(stage, name)
            kinds.append(kind)
    return model


def unpadded_images(
    sizes: list[tuple[int, int]], dtype: torch.dtype = torch.float64, channels: int = 3
) -> list[Tensor]:
    """Images (C, h, w) of these sizes, the same for every dtype."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(channels, *size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


def padded(
    images: list[Tensor], *, extra: tuple[int, int] = (0, 0), garbage: float = float("nan")
) -> tuple[Tensor, Tensor]:
    """Images at the top left of one canvas filled with garbage, (N, C, H, W), and their sizes (N, 2)."""
    sizes = torch.tensor([image.shape[1:] for image in images])
    height, width = (int(side) for side in sizes.amax(dim=0) + torch.tensor(extra))
    canvas = images[0].new_full((len(images), images[0].shape[0], height, width), garbage)
    for place, image in zip(canvas, images):
        place[:, : image.shape[1], : image.shape[2]] = image
    return canvas, sizes


def gradient_errors(actual: nn.Module, expected: nn.Module) -> dict[str, float]:
    """The error of each parameter's gradient, by name; every parameter must have one."""
    actual_grads, grads = (
        {name: parameter.grad for name, parameter in model.named_parameters()} for model in (actual, expected)
    )
    assert None not in actual_grads.values()
    return reference.gradient_errors(actual_grads, {name: grad for name, grad in grads.items() if grad is not None})


def run_alone(model: nn.Module, images: list[Tensor], weights: Tensor) -> Tensor:
    """Outputs (N, ...) of a stock model on each image alone; gradients of their weighted sum are left in it."""
    outputs = torch.cat(reference.alone(model, images))
    (outputs * weights).sum().backward()
    return outputs.detach()


def run_ragged(model: nn.Module, images: list[Tensor], weights: Tensor) -> Tensor:
    """The same of a model in training whose batch norms share all images' real pixels."""
    outputs = torch.cat(reference.ragged(model, images))
    (outputs * weights).sum().backward()
    return outputs.detach()


@pytest.fixture(scope="session")
def references() -> SimpleNamespace:
    """Everything above, for tests."""
    return SimpleNamespace(
        stock_model=stock_model,
        without_repeats=without_repeats,
        unpadded_images=unpadded_images,
        padded=padded,
        error=reference.relative_error,
        gradient_errors=gradient_errors,
        run_alone=run_alone,
        run_ragged=run_ragged,
    )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
