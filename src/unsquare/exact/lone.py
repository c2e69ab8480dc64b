"""References for exactness: a stock model on each image by itself, and how far another result is from that.

In evaluation an image is simply run alone. In training, batch norms share statistics between images, so alone has no
meaning; there the reference runs every image unpadded in a thread of its own, and at each batch norm the threads meet
and take the moments of all pixels of all images, laid side by side.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn


def alone(model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """Outputs (1, ...) of a stock model on each image (C, h, w) alone."""
    return [model(image[None]) for image in images]


def ragged(model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """Outputs (1, ...) of a stock model on lone images whose batch norms share all images' real pixels.

    The model's batch norms are changed in place: give a copy.
    """
    meeting = threading.Barrier(len(images), timeout=600)
    place = threading.local()
    for layer in model.modules():
        if isinstance(layer, nn.modules.batchnorm._BatchNorm) and layer.training:
            setattr(layer, "forward", _meeting(layer, [None] * len(images), meeting, place))  # noqa: B010

    def work(index: int) -> Tensor:
        place.index = index
        try:
            return model(images[index][None])
        except BaseException:
            meeting.abort()
            raise

    with ThreadPoolExecutor(len(images)) as pool:
        return list(pool.map(work, range(len(images))))


def _meeting(
    layer: Any, slots: list[Tensor | None], meeting: threading.Barrier, place: threading.local
) -> Callable[[Tensor], Tensor]:
    """The forward of a batch norm whose statistics are those of all threads' pixels."""
    moments: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        slots[place.index] = x
        if meeting.wait() == 0:
            pixels = torch.cat([slot[0].flatten(1) for slot in slots if slot is not None], dim=1)  # (C, pixels)
            moments[:] = [pixels.mean(dim=1), pixels.var(dim=1, correction=0)]
            if layer.track_running_stats:
                _follow(layer, moments[0], pixels.var(dim=1))
        meeting.wait()
        shape = (-1,) + (1,) * (x.ndim - 2)
        mean, variance = (moment.view(shape) for moment in moments)
        y = (x - mean) * (variance + layer.eps).rsqrt()
        if layer.affine:
            y = y * layer.weight.view(shape) + layer.bias.view(shape)
        for part in ("drop", "act"):  # timm's layers bring these along
            y = getattr(layer, part)(y) if hasattr(layer, part) else y
        return y

    return forward


@torch.no_grad()
def _follow(layer: Any, mean: Tensor, variance: Tensor) -> None:
    layer.num_batches_tracked.add_(1)
    pace = 1 / float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean, pace)
    layer.running_var.lerp_(variance, pace)


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
    gradients = dict(actual.named_parameters())
    references = {name: parameter.grad for name, parameter in expected.named_parameters() if parameter.grad is not None}
    largest = max((float(grad.abs().max()) for grad in references.values()), default=0.0)
    errors = {}
    for name, reference in references.items():
        own = float(reference.abs().max())
        noise = 100 * torch.finfo(reference.dtype).eps * largest
        grad = gradients[name].grad
        difference = torch.inf if grad is None else float((grad - reference).abs().max())
        errors[name] = difference / max(own if own > noise else largest, 1e-300)
    return errors


def shaken(model: nn.Module, seed: int = 1) -> nn.Module:
    """A copy of a model in which no gain, bias or statistic hides behind a zero or one of its initialisation."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, values in model.state_dict().items():
            if values.ndim <= 1 and values.is_floating_point():
                noise = torch.rand(values.shape, generator=generator)
                # Gains around a third keep deep networks well-conditioned: with gains around one, a stock
                # ResNet-50 in float32 is 5e-5 away from its own gradients in float64.
                gain = path.endswith(("weight", "running_var", "gamma"))
                values.copy_(0.2 + 0.3 * noise if gain else noise - 0.5)
    return model


def without_chance(model: nn.Module) -> nn.Module:
    """A copy of a model that draws no random numbers in training: no dropout, no stochastic depth."""
    model = copy.deepcopy(model)
    for module in model.modules():
        for name in ("p", "drop_prob", "drop_rate", "drop_path_rate"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    return model
