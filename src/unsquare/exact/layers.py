"""The layers that look sideways, made exact.

Each class here is laid over a stock class (`class ExactX(ExactLayer, X)`): parameters, buffers, hooks and
state-dict keys stay the stock layer's own, and only `forward` changes. Where there is no padding, every layer
but batch norm in training runs the stock code.

The norms are in `norm_layers`, the global pools and channel attentions in `image_layers`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact.regions import Extent, Passes, Regions
from unsquare.exact.strips import clean, fill
from unsquare.shapes import Window

Windows = tuple[Window, Window]
"""A sliding operation along the height and along the width."""

SAME: Windows = (Window(1), Window(1))
"""The windows of a layer that keeps every region."""


class ExactLayer(nn.Module):
    """What every exact layer knows: the extent of its input, and the pass it takes part in."""

    extent: Extent
    passes: Passes
    input_is_clean: bool = False

    if TYPE_CHECKING:  # attributes of the stock class that an exact form is laid over

        def __getattr__(self, name: str) -> Any: ...

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a stock layer with these settings cannot be made exact; None where it can."""
        return None

    @staticmethod
    def sideways(module: Any) -> bool:
        """Whether the layer looks beyond one pixel; if not, the stock layer stays."""
        return True

    @staticmethod
    def windows(module: Any) -> Windows | None:
        """How the layer slides; None where it leaves one value per image and channel."""
        return SAME

    @staticmethod
    def axes(module: Any) -> tuple[int, int]:
        """Where the layer expects height and width."""
        return 2, 3

    def regions(self, x: Tensor) -> Regions | None:
        """The regions of the input in the pass in progress; None where all of it is real."""
        height, width = self.axes(self)
        return self._regions_at(self.extent, (x.shape[height], x.shape[width]))

    def _regions_at(self, extent: Extent, shape: tuple[int, int]) -> Regions | None:
        batch = self.passes.batch
        regions = None if batch is None else batch.regions(extent)
        if regions is not None and regions.canvas != shape:
            raise ExactError(
                f"{type(self).__name__} was given a map of {shape[0]} x {shape[1]} where the canvas of this "
                f"batch makes {regions.canvas[0]} x {regions.canvas[1]}; call the model as a whole, with sizes."
            )
        return regions


class ExactConv2d(ExactLayer):
    """A convolution that finds zeros outside each region, as it finds them outside the image alone."""

    @staticmethod
    def refusal(module: nn.Conv2d) -> str | None:
        """Padding other than zeros, or on one side only, depends on where the image ends."""
        if module.padding_mode != "zeros":
            return f"{module.padding_mode} padding takes its values from beyond the region's edge"
        if module.padding == "same" and any(_same_padding(module, axis) % 2 for axis in (0, 1)):
            return "'same' padding of an even kernel pads one side more than the other"
        return None

    @staticmethod
    def sideways(module: nn.Conv2d) -> bool:
        """A kernel of one pixel without padding reads one pixel, whatever its stride."""
        return any(window.kernel > 1 or window.padding > 0 for window in ExactConv2d.windows(module))

    @staticmethod
    def windows(module: nn.Conv2d) -> Windows:
        """The kernel along each axis."""
        padding: Any = module.padding
        if padding == "same":
            padding = tuple(_same_padding(module, axis) // 2 for axis in (0, 1))
        elif padding == "valid":
            padding = 0
        return _windows(module.kernel_size, module.stride, padding, module.dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Clean the input, then convolve."""
        if not self.input_is_clean:
            x = clean(x, self.regions(x))
        return super().forward(x)


class ExactBlurPool2d(ExactLayer):
    """A fixed blur with zero padding: a convolution like any other."""

    @staticmethod
    def refusal(module: Any) -> str | None:
        """The default mirrors the image at its edge."""
        if module.pad_mode != "constant":
            return f"{module.pad_mode} padding takes its values from inside the image's own edge"
        return None

    @staticmethod
    def windows(module: Any) -> Windows:
        """The blur's kernel."""
        return _windows(module.filt_size, module.stride, module.padding[0], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Clean the input, then blur."""
        return super().forward(clean(x, self.regions(x)))


class ExactMaxPool2d(ExactLayer):
    """A max-pool that finds minus infinity outside each region.

    It needs no cleaning of its gradient: that goes to the maximum of each real window, a real pixel.
    """

    @staticmethod
    def refusal(module: nn.MaxPool2d) -> str | None:
        """Indices would count positions on the canvas."""
        return "its indices count positions on the canvas" if module.return_indices else None

    @staticmethod
    def windows(module: Any) -> Windows:
        """The pool's kernel."""
        return _windows(module.kernel_size, module.stride, module.padding, module.dilation, ceil_mode=module.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Pool with minus infinity outside; zeros outside before and after."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x)
        fill(x, regions, float("-inf"))
        y = super().forward(x)
        fill(x, regions, 0.0)
        after = self._regions_at(self.extent.through(self.windows(self)), (y.shape[2], y.shape[3]))
        if after is not None:
            fill(y, after, 0.0)
        return y


class ExactAvgPool2d(ExactLayer):
    """An average pool that divides by the count the image alone would have had."""

    @staticmethod
    def windows(module: Any) -> Windows:
        """The pool's kernel."""
        return _windows(module.kernel_size, module.stride, module.padding, 1, ceil_mode=module.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Clean the input, pool, and mend the windows that the canvas counts otherwise."""
        regions = self.regions(x)
        if regions is None:
            return super().forward(x)
        y = super().forward(clean(x, regions))
        if self._counts_are_constant():
            return y
        batch = self.passes.batch
        assert batch is not None
        shape = (y.shape[2], y.shape[3])
        key = ("count", self.extent, self.windows(self), self.count_include_pad, y.dtype)
        return y * batch.recall(key, lambda: self._count_ratio(regions, shape).to(y.dtype))

    def _counts_are_constant(self) -> bool:
        if self.divisor_override:
            return True
        padded = any(window.padding for window in self.windows(self))
        return not self.ceil_mode and (bool(self.count_include_pad) or not padded)

    def _count_ratio(self, regions: Regions, shape: tuple[int, int]) -> Tensor:
        """Pixels counted on the canvas / pixels counted alone, (N, 1, H, W) of the output."""
        ratios = []
        for axis, window in enumerate(self.windows(self)):
            alone = regions.on_device[:, axis, None]
            canvas = torch.full_like(alone, regions.canvas[axis])
            counts = [_counted(n, window, shape[axis], self.count_include_pad) for n in (canvas, alone)]
            ratios.append(counts[0].double() / counts[1])
        return ratios[0][:, None, :, None] * ratios[1][:, None, None, :]


def _counted(lengths: Tensor, window: Window, num_outputs: int, include_padding: bool) -> Tensor:
    """How many positions each window counts along an axis of these lengths (N, 1): (N, num_outputs)."""
    start = torch.arange(num_outputs, device=lengths.device) * window.stride - window.padding
    end = torch.minimum(start + window.kernel, lengths + window.padding)
    if not include_padding:
        start, end = start.clamp(min=0), torch.minimum(end, lengths)
    return (end - start).clamp(min=1)  # windows beyond the region count nothing, and are not read


def _same_padding(module: nn.Conv2d, axis: int) -> int:
    return module.dilation[axis] * (module.kernel_size[axis] - 1)


def _windows(kernel: Any, stride: Any, padding: Any, dilation: Any, *, ceil_mode: bool = False) -> Windows:
    pairs = [value if isinstance(value, tuple) else (value, value) for value in (kernel, stride, padding, dilation)]
    first, second = (Window(*[pair[axis] for pair in pairs])._replace(ceil_mode=ceil_mode) for axis in (0, 1))
    return first, second
