"""References for exactness: a stock model on each image by itself, and how far another result is from that.

In evaluation an image is simply run alone. In training, batch norms share statistics between images, so alone has no
meaning; there the reference runs every image unpadded in a thread of its own, and at each batch norm the threads meet
and take the moments of all pixels of all images, laid side by side.

Each image runs through a copy of the model that shares its parameters alone: state that moves with every forward, such
as the power iteration of spectral norm, is then the same for all of them, and in the next run.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import inf, isnan, nan
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from unsquare.torch_private import BatchNormBase, without_checkpointing


def reference_outputs(model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """Outputs (1, ...) of a stock model on each image (C, h, w) by itself, whatever its mode and its norms."""
    return (ragged if shared_norms(model) else alone)(model, images)


def alone(model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """Outputs (1, ...) of a stock model on each image (C, h, w) alone."""
    with WithoutNoise(), without_checkpointing():
        each = (replica(model) for _ in images) if model.training else [replica(model)] * len(images)
        return [copied(image[None]) for copied, image in zip(each, images)]


def ragged(model: nn.Module, images: Sequence[Tensor]) -> list[Tensor]:
    """Outputs (1, ...) of a stock model on unpadded images whose batch norms share all images' pixels.

    Of the model's state its running statistics alone move.
    """
    meeting = threading.Barrier(len(images), timeout=600)
    place = threading.local()
    replicas = [replica(model) for _ in images]
    for layer, *copies in zip(shared_norms(model), *(shared_norms(each) for each in replicas)):
        forward = _meeting(layer, [None] * len(images), meeting, place)
        for each in copies:
            setattr(each, "forward", forward)  # noqa: B010

    def work(index: int) -> Tensor:
        place.index = index
        try:
            with WithoutNoise():
                return replicas[index](images[index][None])
        except BaseException:
            meeting.abort()
            raise

    with without_checkpointing(), ThreadPoolExecutor(len(images)) as pool:
        return list(pool.map(work, range(len(images))))


def replica(model: nn.Module) -> nn.Module:
    """A copy of a model with state of its own and the same parameters: what its run leaves behind goes with it."""
    return copy.deepcopy(model, {id(parameter): parameter for parameter in model.parameters()})


def shared_norms(model: nn.Module) -> list[nn.Module]:
    """The batch norms that take their statistics from the batch."""
    return [m for m in model.modules() if isinstance(m, BatchNormBase) and (m.training or m.running_mean is None)]


def _meeting(
    layer: Any, slots: list[Tensor | None], meeting: threading.Barrier, place: threading.local
) -> Callable[[Tensor], Tensor]:
    """The forward of a batch norm whose statistics are those of all threads' pixels."""
    moments: list[Tensor] = []

    def forward(x: Tensor) -> Tensor:
        slots[place.index] = x
        if meeting.wait() == 0:
            columns = [slot[0].reshape(slot.shape[1], -1) for slot in slots if slot is not None]
            pixels = torch.cat(columns, dim=1)  # (C, pixels)
            moments[:] = [pixels.mean(dim=1), pixels.var(dim=1, correction=0)]
            if layer.training and layer.track_running_stats:
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


def relative_error(actual: Tensor, expected: Tensor) -> float:
    """The largest difference against the largest expected value."""
    expected = expected.detach()
    difference = (actual.detach() - expected).abs().max()
    return float(difference / expected.abs().max().clamp(min=1e-300))


def gradient_errors(
    actual: Mapping[str, Tensor], expected: Mapping[str, Tensor], rounded: Mapping[str, Tensor] | None = None
) -> dict[str, float]:
    """The error of each parameter's gradient, by name; infinite where a gradient is missing.

    A parameter whose true gradient is zero (a bias before a norm, say) has rounding noise for a gradient, in the
    reference as well; that noise is compared with the largest gradient of all.

    Args:
        actual: Gradients by the parameter's name.
        expected: The reference's.
        rounded: The reference's where each pixel is rounded otherwise; a gradient that this moves by a tenth is noise.
    """
    largest = max((float(grad.abs().max()) for grad in expected.values()), default=0.0)
    errors = dict.fromkeys(actual.keys() - expected.keys(), inf)
    for name, reference in expected.items():
        own = float(reference.abs().max())
        noise = 100 * torch.finfo(reference.dtype).eps * largest
        if rounded is not None:
            noise = max(noise, 10 * float((rounded[name] - reference).abs().max()))
        difference = float((actual[name] - reference).abs().max()) if name in actual else inf
        errors[name] = difference / max(own if own > noise else largest, 1e-300)
    return errors


def largest_error(errors: Iterable[float]) -> float:
    """The largest of some errors; not a number if any is none, which `max` would pass over."""
    errors = list(errors)
    return nan if any(isnan(error) for error in errors) else max(errors, default=0.0)


def randomized(model: nn.Module, seed: int = 1) -> nn.Module:
    """A copy of a model in which no gain, bias or statistic hides behind a zero or one of its initialization."""
    model = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, values in model.state_dict().items():
            if values.ndim <= 1 and values.is_floating_point():
                noise = torch.rand(values.shape, generator=generator)
                # Gains around a third keep deep networks well-conditioned: with gains around one, a stock
                # ResNet-50 in float32 is 5e-5 away from its own gradients in float64. What is above zero stays so,
                # since a root or logarithm may be taken of it.
                gain = path.endswith(("weight", "running_var", "gamma")) or bool((values > 0).all())
                values.copy_(0.2 + 0.3 * noise if gain else noise - 0.5)
    return model


def without_chance(model: nn.Module, *, in_place: bool = False) -> nn.Module:
    """A copy of a model, or itself, whose layers draw no random numbers: no dropout, no stochastic depth."""
    model = model if in_place else copy.deepcopy(model)
    for module in model.modules():
        # By name, since every library has its own. Only there is `p` a probability, and not a power, say.
        drops = any(
            "drop" in kind.__name__.lower() or kind.__name__ == "StochasticDepth" for kind in type(module).mro()
        )
        for name in ("p", "drop_prob", "drop_rate", "drop_path_rate"):
            if isinstance(getattr(module, name, None), float) and (drops or name.startswith("drop_")):
                setattr(module, name, 0.0)
    return model


class WithoutNoise(TorchFunctionMode):
    """While open, dropout that a model's code calls as a function lets everything pass, and float64 stays float64.

    Some layers compute statistics in float32 whatever they are given; their rounding would hide what is looked for.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, unless it is a dropout or makes float64 shorter."""
        if func in _DROPOUTS:
            return args[0] if args else (kwargs or {})["input"]
        if func is Tensor.float and args[0].dtype == torch.float64:
            return args[0]
        return func(*args, **(kwargs or {}))


_DROPOUTS = {
    *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout),
    *(torch.dropout, torch.dropout_, torch.alpha_dropout, torch.feature_dropout, torch.feature_alpha_dropout),
}
