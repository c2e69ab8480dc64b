"""References for exactness: stock models on lone, unpadded images, and comparisons with them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from unsquare.torchvision_guard import import_timm

timm = import_timm()


def stock_model(name: str, dtype: torch.dtype = torch.float64, **options: object) -> nn.Module:
    """A stock timm model in which no parameter or statistic hides behind a zero or one of its initialisation."""
    torch.manual_seed(0)
    model = timm.create_model(name, **{"num_classes": 7, **options})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for path, values in model.state_dict().items():
            if values.ndim <= 1 and values.is_floating_point():
                noise = torch.rand(values.shape, generator=generator)
                # Gains around a third keep deep networks well-conditioned: with gains around one, a stock
                # ResNet-50 in float32 is 5e-5 away from its own gradients in float64.
                gain = path.endswith(("weight", "running_var", "gamma"))
                values.copy_(0.2 + 0.3 * noise if gain else noise - 0.5)
    return model.to(dtype).eval()


def lone_images(sizes: list[tuple[int, int]], dtype: torch.dtype = torch.float64, channels: int = 3) -> list[Tensor]:
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


def error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference against the largest expected value."""
    expected = expected.detach()
    difference = (actual.detach() - expected).abs().max()
    return float(difference / expected.abs().max().clamp(min=1e-300))


def gradient_errors(actual: nn.Module, expected: nn.Module) -> dict[str, float]:
    """The error of each parameter's gradient, by name.

    A parameter whose true gradient is zero (a bias before a norm, say) has rounding noise for a gradient, in the
    reference as well; that noise is compared with the largest gradient of all.
    """
    references = {name: parameter.grad for name, parameter in expected.named_parameters()}
    largest = max(float(grad.abs().max()) for grad in references.values() if grad is not None)
    errors = {}
    for name, parameter in actual.named_parameters():
        assert parameter.grad is not None, name
        reference = references[name]
        own = float(reference.abs().max())
        noise = 100 * torch.finfo(reference.dtype).eps * largest
        errors[name] = float((parameter.grad - reference).abs().max()) / (own if own > noise else largest)
    return errors


def run_alone(model: nn.Module, images: list[Tensor], weights: Tensor) -> Tensor:
    """Outputs (N, ...) of a stock model on each image alone; gradients of their weighted sum are left in it."""
    outputs = torch.cat([model(image[None]) for image in images])
    (outputs * weights).sum().backward()
    return outputs.detach()


def run_ragged(model: nn.Module, images: list[Tensor], weights: Tensor) -> Tensor:
    """Outputs of a stock model in training on lone images whose batch norms share all images' real pixels.

    Each image runs through the model in a thread of its own. At each batch norm the threads wait for one another;
    one of them takes the moments of all pixels of all images, laid side by side, and all go on with these.
    """
    meeting = threading.Barrier(len(images), timeout=60)
    place = threading.local()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.forward = _ragged_forward(layer, [None] * len(images), meeting, place)  # type: ignore[method-assign]

    def work(index: int) -> Tensor:
        place.index = index
        try:
            return model(images[index][None])
        except BaseException:
            meeting.abort()
            raise

    with ThreadPoolExecutor(len(images)) as pool:
        outputs = torch.cat(list(pool.map(work, range(len(images)))))
    (outputs * weights).sum().backward()
    return outputs.detach()


def _ragged_forward(
    layer: nn.BatchNorm2d, slots: list[Tensor | None], meeting: threading.Barrier, place: threading.local
) -> Callable[[Tensor], Tensor]:
    moments: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        slots[place.index] = x
        if meeting.wait() == 0:
            pixels = torch.cat([slot[0].flatten(1) for slot in slots if slot is not None], dim=1)  # (C, pixels)
            moments[:] = [pixels.mean(dim=1), pixels.var(dim=1, correction=0)]
            with torch.no_grad():
                layer.running_mean.lerp_(moments[0], layer.momentum)
                layer.running_var.lerp_(pixels.var(dim=1), layer.momentum)
        meeting.wait()
        mean, variance = (moment[:, None, None] for moment in moments)
        y = (x - mean) * (variance + layer.eps).rsqrt() * layer.weight[:, None, None] + layer.bias[:, None, None]
        for part in ("drop", "act"):
            y = getattr(layer, part)(y) if hasattr(layer, part) else y
        return y

    return forward


@pytest.fixture(scope="session")
def references() -> SimpleNamespace:
    """Everything above, for tests."""
    return SimpleNamespace(
        stock_model=stock_model,
        lone_images=lone_images,
        padded=padded,
        error=error,
        gradient_errors=gradient_errors,
        run_alone=run_alone,
        run_ragged=run_ragged,
    )


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)
