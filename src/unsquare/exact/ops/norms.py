"""Batch norm and group norm whose statistics know only real pixels.

Batch norm runs PyTorch's own fused kernels over the whole canvas, about as many passes over memory as the stock
layer, and corrects the result per channel in closed form. Group norm is written out: few backbones use it.

Forward: the strips outside are filled with a rough guess f of the channel's mean (the mean of some pixels of a row
that is real in all images, rounded to the map's type), and moments are taken over the canvas. With M pixels computed, n
of them real, the real mean m and sum of squares S follow: m = (M mean - (M - n) f) / n and
S = M var - n (M - n) / M (m - f)^2. Zeros in place of f would do in exact arithmetic, and save one fill, but the last
term then cancels nearly all of the variance where a mean is large against its deviation: at a hundred times, with 10 %
padding, a sixth of the variance was wrong in bfloat16. A guess a few deviations off cancels a few digits at most.

Backward: the gradient that arrives is zero outside the regions, because any later operation on neighboring pixels
cleared it. So the kernel's two sums per channel are right, and only the count by which it would divide is not. The
kernel is asked for the sums alone; with them the input's gradient is one affine map of the input plus one multiple of
the gradient. On a CPU the fastest affine map per channel that PyTorch has is the kernel that evaluates batch norm.

Synchronized batch norm sends two numbers per channel and a count between ranks, each way. Ranks hold unequal numbers of
real pixels, so what is sent are moments with their counts. All ranks put them together in the same order, in float64,
and so agree to the last bit.

On maps of a few megabytes each small operation counts: forty of them cost as much as one pass over the map.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist
from torch.autograd.function import once_differentiable

from unsquare.errors import ExactError
from unsquare.exact.ops import masks
from unsquare.exact.ops.strips import fill, rows
from unsquare.exact.regions import Regions

# The CPU kernel adds one number after another in float32: over 64,000 rows it loses two digits of the variance, over
# 16 million all of them. Rows are folded into the channel axis until a column is about this long, and the parts are put
# together afterwards. Short columns cost time, and half precision needs fewer digits: 8192 rows keep four. Longer ones
# are no faster, and lose two where equal numbers, such as the guess, are added over and over.
_COLUMN_LENGTH = {True: 64, False: 8192}

# Pixels whose mean is the guess: enough for a fraction of the deviation, few enough to cost nothing.
_GUESSED_PIXELS = 64


def batch_moments(x: Tensor, regions: Regions | None) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel over all real pixels of a map (N, C, H, W).

    Returns:
        Two tensors (C,), float32 or the map's type where that is wider. The outside of the map is zero afterwards.
    """
    pixels = rows(x.data)
    assert pixels is not None
    if regions is None:
        return _moments(pixels)
    guess = _guess(x.data, regions)
    pixels.index_put_((regions.outside,), guess)
    mean, variance = _moments(pixels)
    fill(x, regions, 0.0)  # a convolution may read the same map, and keeps it for its backward pass
    guess = guess.to(mean.dtype)
    real, computed = regions.num_pixels, regions.num_computed
    # Written as a step from the guess, so that no digits cancel.
    step = mean.sub_(guess).mul_(computed / real)
    variance = variance.mul_(computed / real).addcmul_(step, step, value=-(computed - real) / computed)
    return guess + step, variance.clamp_(min=0)


class _RegionBatchNorm(torch.autograd.Function):
    """Normalize by the moments of the real pixels, of all ranks of a group if one is given."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, regions: Regions | None, group: Any
    ) -> tuple[Tensor, Tensor, Tensor, Any]:
        """The normalized map (N, C, H, W), the mean (C,), the biased variance (C,) and the number of pixels."""
        mean, variance = batch_moments(x, regions)
        count: Any = x.numel() // x.shape[1] if regions is None else regions.num_pixels
        if group is not None:
            mean, variance, count = _moments_over_ranks(mean, variance, count, group)
        scale = torch.ones_like(mean) if weight is None else weight.to(mean.dtype)
        shift = None if bias is None else bias.to(mean.dtype)
        y = torch.native_batch_norm(x, scale, shift, mean, variance, False, 0.0, eps)[0]
        ctx.save_for_backward(x, scale, mean, variance, (variance + eps).rsqrt_())
        ctx.regions, ctx.eps, ctx.group, ctx.count = regions, eps, group, count
        ctx.weight_dtype = None if weight is None else weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.mark_non_differentiable(mean, variance, *([] if group is None else [count]))
        return y, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        """The stock gradients, with the number of real pixels in place of the number computed."""
        x, scale, mean, variance, inverse = ctx.saved_tensors
        regions = ctx.regions
        grad = grad.contiguous(memory_format=torch.channels_last)
        whole = regions is None and ctx.group is None
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, scale, None, None, mean, inverse, True, ctx.eps, [whole, True, True]
        )
        if not whole:
            # Parameters' gradients are left to whoever averages over ranks; the input's needs all ranks' sums.
            dot, total = grad_weight, grad_bias
            if ctx.group is not None:
                dot, total = _sum_over_ranks(torch.stack([dot, total]), ctx.group)
            gain = scale * inverse
            each = gain / -ctx.count
            grad_x = torch.native_batch_norm(x, each * dot, each * total, mean, variance, False, 0.0, ctx.eps)[0]
            grad_x.addcmul_(grad, gain.to(grad.dtype)[:, None, None])
            if regions is not None:
                fill(grad_x, regions, 0.0)
        grad_weight = None if ctx.weight_dtype is None else grad_weight.to(ctx.weight_dtype)
        grad_bias = None if ctx.bias_dtype is None else grad_bias.to(ctx.bias_dtype)
        return grad_x, grad_weight, grad_bias, None, None, None


class _RegionGroupNorm(torch.autograd.Function):
    """Normalize each image's groups of channels by their moments over its region."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        num_groups: int,
        eps: float,
        regions: Regions,
    ) -> Tensor:
        """The normalized map (N, C, H, W)."""
        mean, variance = _group_moments(x, num_groups, regions)
        inverse = (variance + eps).rsqrt()
        scale = inverse if weight is None else inverse * weight
        shift = -mean * scale if bias is None else bias - mean * scale
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.regions, ctx.num_groups, ctx.has_bias = regions, num_groups, bias is not None
        return torch.addcmul(_spatial(shift), x, _spatial(scale)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Closed form; see Wu and He, Group Normalization, 2018, with counts of real pixels."""
        x, weight, mean, inverse = ctx.saved_tensors
        regions = ctx.regions
        grad_sum = grad.sum(dim=(2, 3), dtype=mean.dtype)  # (N, C)
        centered = x - _spatial(mean)
        grad_dot = (grad * centered).sum(dim=(2, 3), dtype=mean.dtype) * inverse
        scale = torch.ones_like(mean) if weight is None else weight.to(mean.dtype).expand_as(mean)
        size = regions.counts[:, None] * (x.shape[1] // ctx.num_groups)
        flat = _over_groups(scale * grad_sum, ctx.num_groups) / size
        slope = _over_groups(scale * grad_dot, ctx.num_groups) / size
        grad_x = torch.addcmul(_spatial(-inverse * flat), centered, _spatial(-inverse.square() * slope))
        grad_x = torch.addcmul(grad_x, grad, _spatial(inverse * scale)).to(x.dtype)
        fill(grad_x, regions, 0.0)
        grad_weight = None if weight is None else grad_dot.sum(dim=0).to(weight.dtype)
        grad_bias = grad_sum.sum(dim=0) if ctx.has_bias else None
        return grad_x, grad_weight, grad_bias, None, None, None


def batch_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, regions: Regions | None, group: Any = None
) -> tuple[Tensor, Tensor, Tensor, Any]:
    """A channels-last map normalized over all real pixels, their mean and biased variance (C,), and their number.

    `group`: a process group over whose ranks' pixels the statistics go.
    """
    if regions is None or not regions.masked:
        return _RegionBatchNorm.apply(x, weight, bias, eps, regions, group)
    if group is not None:
        raise ExactError(
            "Synchronized batch norm is not exact in a compiled graph; use plain batch norm, or do not compile."
        )
    return *masks.batch_norm(x, weight, bias, eps, regions), regions.counts.sum()


def group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, num_groups: int, eps: float, regions: Regions
) -> Tensor:
    """A map (N, C, H, W) with each image's groups of channels normalized over its region."""
    if regions.masked:
        return masks.group_norm(x, weight, bias, num_groups, eps, regions)
    return _RegionGroupNorm.apply(x, weight, bias, num_groups, eps, regions)


def process_group(layer: Any) -> Any:
    """The process group over which a synchronized layer (`nn.SyncBatchNorm`) works; None where it has no other rank."""
    if not (dist.is_available() and dist.is_initialized()):
        return None
    group = layer.process_group or dist.group.WORLD
    return group if dist.get_world_size(group) > 1 else None


def _moments_over_ranks(mean: Tensor, variance: Tensor, count: int, group: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and biased variance (C,) over the pixels of all ranks, and their number, a float64 scalar."""
    own = torch.cat([mean.double(), variance.double(), mean.new_tensor([count], dtype=torch.float64)])
    every = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
    dist.all_gather(every, own, group=group)
    means, variances, counts = torch.stack(every).split([len(mean), len(mean), 1], dim=1)
    total = counts.sum()
    middle = (means * counts).sum(dim=0) / total
    spread = ((variances + (means - middle).square()) * counts).sum(dim=0) / total
    return middle.to(mean.dtype), spread.to(mean.dtype), total


def _sum_over_ranks(values: Tensor, group: Any) -> Tensor:
    """The sum of all ranks' values."""
    total = values.double()
    if total is values:
        total = values.clone()
    dist.all_reduce(total, group=group)
    return total.to(values.dtype)


def _guess(x: Tensor, regions: Regions) -> Tensor:
    """Roughly the mean of each channel, (C,) of the map's type: of pixels in a row and columns that all images have.

    The middle row of the lowest image: at an edge, convolutions have mixed their padding into the pixels.
    """
    height, width = regions.sizes.amin(dim=0).tolist()
    step = min(width, max(1, len(x) * width // _GUESSED_PIXELS))
    sampled = x[:, :, height // 2, step // 2 : width : step]  # (N, C, columns)
    return sampled.mean(dim=(0, 2), dtype=_wide(x)).to(x.dtype)


def _moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of the columns of (P, C)."""
    num_rows, channels = pixels.shape
    fold = 1
    if pixels.device.type == "cpu":
        fold = max(1, num_rows // _COLUMN_LENGTH[_long(pixels)])
    if fold == 1:
        return _column_moments(pixels)
    head = num_rows // fold * fold
    means, variances = _column_moments(pixels[:head].view(-1, fold * channels))
    means, variances = means.view(fold, channels), variances.view(fold, channels)
    mean = means.mean(dim=0)
    variance = variances.mean(dim=0) + (means - mean).square().mean(dim=0)
    if head == num_rows:
        return mean, variance
    tail_mean, tail_variance = _column_moments(pixels[head:])
    part = (num_rows - head) / num_rows
    step = tail_mean - mean
    variance = variance * (1 - part) + tail_variance * part + step.square() * (part * (1 - part))
    return mean + step * part, variance


def _column_moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    # Running statistics that are not kept: handing over float32 ones makes the kernel work in float32.
    unused = torch.empty(pixels.shape[1], dtype=_wide(pixels), device=pixels.device)
    as_map = pixels[None, :, None].permute(0, 3, 1, 2)
    return torch.batch_norm_update_stats(as_map, unused, unused, 0.0)


def _group_moments(x: Tensor, num_groups: int, regions: Regions) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each group, repeated for its channels: two tensors (N, C)."""
    fill(x, regions, 0.0)
    count = regions.counts[:, None]
    size = count * (x.shape[1] // num_groups)
    mean = _over_groups(x.sum(dim=(2, 3), dtype=_wide(x)), num_groups) / size
    centered = x - _spatial(mean)
    fill(centered, regions, 0.0)
    squares = centered.square_().sum(dim=(2, 3), dtype=_wide(x))
    return mean, _over_groups(squares, num_groups) / size


def _over_groups(values: Tensor, num_groups: int) -> Tensor:
    """Sums (N, C) over each group of channels, repeated for its channels."""
    grouped = values.unflatten(1, (num_groups, -1))
    return grouped.sum(dim=2, keepdim=True).expand_as(grouped).flatten(1)


def _spatial(values: Tensor) -> Tensor:
    return values[:, :, None, None]


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _long(x: Tensor) -> bool:
    """Whether numbers have more than half precision."""
    return x.dtype.itemsize > 2
