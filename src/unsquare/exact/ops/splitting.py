"""Convolutions in several calls, where one call would fall off a cliff or take much workspace; the result is the same.

Measured on CPUs with oneDNN 3.12 (docs/experiments.md): a dense float32 convolution whose map reaches 2^31 bytes leaves
its fast kernels, and its backward pass takes minutes instead of seconds; and the weights' gradient of a depthwise
convolution wider than three pixels, in bfloat16, takes 33 times the map as workspace, more than everything else that
ConvNeXt holds for the map's stage. A channels-last map is cut into images and bands of rows; a convolution's rows need
few input rows more than their own, and gradients of weights and of overlapping rows add up. The bands of a wide
depthwise convolution are small and computed in float32, which has no such workspace: that is quicker, too.

Not cut: 1 x 1 convolutions, which stay fast to 2^31 elements; the planner keeps maps below those.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

MAP_BYTES = 1 << 31
"""Maps of this size or more are cut; where kernels stay fast longer, maps of this number of elements: in half
precision, and for narrow depthwise convolutions, which compute so little that copies of bands would show."""
BAND_BYTES = 1 << 29
"""Of a band's map: what is computed of it takes little memory, which is used again for the next."""
WIDENED_BYTES = 4 << 20
"""Bfloat16 bytes of a wide depthwise convolution's map that are computed in float32 at once, for its weights."""

_WIDEST_GOOD_KERNEL = 3

_backward = torch.ops.aten.convolution_backward


class ConvOptions(NamedTuple):
    """What a convolution slides by: pairs along height and width."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int


def must_cut(module: Any, x: Tensor) -> bool:
    """Whether an `nn.Conv2d` of a map (N, C, H, W) may need more than one call, forward or backward."""
    if x.device.type != "cpu" or torch.compiler.is_compiling():
        return False
    # The map returned may be the larger one: by channels, less by the stride.
    growth = max(1, module.out_channels // (module.in_channels * module.stride[0] * module.stride[1]) + 1)
    kernel, groups, channels = module.kernel_size, module.groups, module.in_channels
    return _is_large(growth * x.numel(), x.dtype, kernel, groups, channels) or _is_heavy(kernel, groups, channels)


def _is_heavy(kernel: Any, groups: int, channels: int) -> bool:
    """Whether a convolution's weights' gradient takes much workspace in bfloat16."""
    return groups == channels > 1 and max(kernel) > _WIDEST_GOOD_KERNEL


def _is_large(num_elements: int, dtype: torch.dtype, kernel: Any, groups: int, channels: int) -> bool:
    """Whether a map of this number of elements is cut."""
    is_light = groups == channels > 1 and max(kernel) <= _WIDEST_GOOD_KERNEL
    return num_elements * (1 if is_light or dtype.itemsize < 4 else dtype.itemsize) >= MAP_BYTES


class CutConvolutions(TorchFunctionMode):
    """Within its block, convolutions are cut where they must be."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            return conv2d(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """As `F.conv2d` of a map (N, C, H, W), cut into calls where one would not do; paddings are numbers."""
    if isinstance(padding, str) or input.ndim != 4 or torch.compiler.is_compiling():
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    kind = input.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        input, weight = input.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    options = ConvOptions(_pair(stride), _pair(padding), _pair(dilation), groups)
    with torch.autocast(kind, enabled=False):
        return _Convolution.apply(input, weight, bias, options)


class _Convolution(torch.autograd.Function):
    """A convolution, band by band."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, options: ConvOptions) -> Tensor:
        """The convolved map (N, C', H', W')."""
        ctx.save_for_backward(x, weight)
        ctx.options, ctx.has_bias = options, bias is not None
        height = _out_length(x.shape[2], weight.shape[2], options, 0)
        width = _out_length(x.shape[3], weight.shape[3], options, 1)
        most = max(x.numel(), len(x) * len(weight) * height * width)
        if not _is_large(most, x.dtype, weight.shape[2:], options.groups, x.shape[1]):
            return F.conv2d(x, weight, bias, *options)
        shape = (len(x), len(weight), height, width)
        y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        rows = _rows_within(min(BAND_BYTES, MAP_BYTES // 2), x, y)
        for band in _bands(x, y, weight, options, rows):
            y[band.images, :, band.rows] = F.conv2d(
                band.given(x), weight, bias, *options._replace(padding=band.padding)
            )
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the map, the weights and the bias."""
        x, weight = ctx.saved_tensors
        wanted = [ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.has_bias and ctx.needs_input_grad[2]]
        if torch.is_grad_enabled():  # a graph of this backward is wanted
            return *_gradients(grad, x, weight, ctx.options, wanted), None
        grad = grad.contiguous(memory_format=torch.channels_last)
        kind = (weight.shape[2:], ctx.options.groups, x.shape[1])
        if _is_large(max(x.numel(), grad.numel()), x.dtype, *kind):
            return *_banded(
                grad, x, weight, ctx.options, wanted, _rows_within(min(BAND_BYTES, MAP_BYTES // 2), x, grad)
            ), None
        if x.dtype != torch.bfloat16 or not _is_heavy(*kind):
            return *_gradients(grad, x, weight, ctx.options, wanted), None
        grad_x = _gradients(grad, x, weight, ctx.options, [wanted[0], False, False])[0]
        rows = _rows_within(WIDENED_BYTES, x, grad)
        return grad_x, *_banded(grad, x, weight.float(), ctx.options, [False, *wanted[1:]], rows)[1:], None


class _Band(NamedTuple):
    """Output rows of some images, and the input rows that they need."""

    images: slice
    rows: slice
    given_rows: slice
    above: int
    below: int
    padding: tuple[int, int]

    def given(self, x: Tensor) -> Tensor:
        """The input rows, with the rows of zeros that lie in the padding."""
        piece = x[self.images, :, self.given_rows]
        return F.pad(piece, (0, 0, self.above, self.below)) if self.above or self.below else piece


def _bands(x: Tensor, y: Tensor, weight: Tensor, options: ConvOptions, rows: int) -> Iterator[_Band]:
    """Bands of about `rows` output rows, counted over images: whole images together, or parts of one."""
    num_images, _, out_height, _ = y.shape
    height, span = x.shape[2], options.dilation[0] * (weight.shape[2] - 1) + 1
    together = max(1, rows // out_height)
    for first in range(0, num_images, together):
        images = slice(first, min(first + together, num_images))
        step = out_height if together > 1 else min(rows, out_height)
        for top in range(0, out_height, step):
            bottom = min(top + step, out_height)
            start = top * options.stride[0] - options.padding[0]
            end = (bottom - 1) * options.stride[0] - options.padding[0] + span
            first_row, last_row = min(max(start, 0), height), max(min(end, height), 0)
            inside = max(last_row - first_row, 0)
            above = min(max(-start, 0), end - start)
            yield _Band(
                images=images,
                rows=slice(top, bottom),
                given_rows=slice(first_row, first_row + inside),
                above=above,
                below=end - start - inside - above,
                padding=(0, options.padding[1]),
            )


def _banded(
    grad: Tensor, x: Tensor, weight: Tensor, options: ConvOptions, wanted: list[bool], rows: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients summed over bands, in the weights' type; those of the weights in float32 at least."""
    wide = torch.promote_types(weight.dtype, torch.float32)
    grad_x = torch.empty_like(x, memory_format=torch.channels_last) if wanted[0] else None
    written = 0
    grad_weight = torch.zeros_like(weight, dtype=wide) if wanted[1] else None
    grad_bias = weight.new_zeros(len(weight), dtype=wide) if wanted[2] else None
    for band in _bands(x, grad, weight, options, rows):
        piece = band.given(x).to(weight.dtype)
        own = grad[band.images, :, band.rows].to(weight.dtype)
        parts = _gradients(own, piece, weight, options._replace(padding=band.padding), wanted)
        if grad_x is not None and parts[0] is not None:
            own_x = parts[0][:, :, band.above : piece.shape[2] - band.below]
            written = _lay(own_x, grad_x[band.images], band.given_rows.start, 0 if band.rows.start == 0 else written)
            if band.rows.stop == grad.shape[2]:
                grad_x[band.images, :, written:] = 0
        for total, part in ((grad_weight, parts[1]), (grad_bias, parts[2])):
            if total is not None and part is not None:
                total += part
    return (
        grad_x,
        None if grad_weight is None else grad_weight.to(x.dtype),
        None if grad_bias is None else grad_bias.to(x.dtype),
    )


def _lay(rows: Tensor, whole: Tensor, start: int, written: int) -> int:
    """Put rows (N, C, h, W) into a map from a row on: added to the first `written` rows, written to those beyond.

    Returns:
        How many of the map's rows are written now.
    """
    end = start + rows.shape[2]
    both = min(max(written - start, 0), rows.shape[2])
    if both:
        whole[:, :, start : start + both] += rows[:, :, :both]
    if start > written:
        whole[:, :, written:start] = 0
    whole[:, :, start + both : end] = rows[:, :, both:]
    return max(written, end)


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, options: ConvOptions, wanted: list[bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The stock gradients of map, weights and bias, those that are wanted."""
    if not any(wanted):
        return None, None, None
    x_grad, weight_grad, bias_grad = _backward(
        grad, x, weight, [len(weight)], *options[:3], False, (0, 0), options.groups, wanted
    )
    return x_grad if wanted[0] else None, weight_grad if wanted[1] else None, bias_grad if wanted[2] else None


def _rows_within(num_bytes: int, x: Tensor, y: Tensor) -> int:
    """Output rows for which input and output rows both stay within a number of bytes; at least one."""
    per_row = max(part.shape[1] * part.shape[2] * part.shape[3] * part.element_size() for part in (x, y))
    return max(1, num_bytes * y.shape[2] // per_row)


def _out_length(length: int, kernel: int, options: ConvOptions, axis: int) -> int:
    span = options.dilation[axis] * (kernel - 1) + 1
    return (length + 2 * options.padding[axis] - span) // options.stride[axis] + 1


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, (tuple, list)):
        return (int(value[0]), int(value[-1]))
    return (int(value), int(value))
