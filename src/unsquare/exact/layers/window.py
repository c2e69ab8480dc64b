"""The layers that look sideways, made exact.

Each class here is laid over a stock class (`class ExactX(ExactLayer, X)`): parameters, buffers, hooks and
state-dict keys stay the stock layer's own, and only `forward` changes. Where there is no padding, every layer
but batch norm in training runs the stock code.

The norms are in `norm`, the global pools and channel attentions in `image`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from unsquare.exact.ops import paddings, sliding, splitting
from unsquare.exact.ops.sliding import KEEPS_SIZE, WindowPair
from unsquare.exact.regions import Regions, Site

# Channels below which oneDNN's widest vectors are not full.
_NARROW = 16


class ExactLayer(nn.Module):
    """What every exact layer knows: the site at which it stands."""

    exact_site: Site

    if TYPE_CHECKING:  # attributes of the stock class that an exact form is laid over

        def __getattr__(self, name: str) -> Any: ...

    @staticmethod
    def known(module: Any) -> bool:
        """Whether this form serves a layer with these settings; if not, its functional calls are looked at."""
        return True

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Why a stock layer with these settings cannot be made exact; None where it can."""
        return None

    @staticmethod
    def mixes_pixels(module: Any) -> bool:
        """Whether the layer looks beyond one pixel; if not, the stock layer stays."""
        return True

    @staticmethod
    def windows(module: Any) -> WindowPair | None:
        """How the layer slides; None where it leaves one value per image and channel."""
        return KEEPS_SIZE

    @staticmethod
    def axes(module: Any) -> tuple[int, int]:
        """Where the layer expects height and width."""
        return 2, 3

    @staticmethod
    def divisors(module: Any) -> tuple[int, int]:
        """Numbers of pixels that must divide the map's height and width, as the stock layer demands."""
        return 1, 1

    def regions(self, x: Tensor) -> Regions | None:
        """The regions of the input in the pass in progress; None where all of it is real."""
        return self.exact_site.regions(x, self.axes(self))


class ExactConv2d(ExactLayer):
    """A convolution that finds zeros outside each region, as it finds them outside the image alone."""

    @staticmethod
    def known(module: Any) -> bool:
        """Other paddings are a functional call of their own; 'same' of an even kernel is lopsided."""
        lopsided = module.padding == "same" and any(_same_padding(module, axis) % 2 for axis in (0, 1))
        return module.padding_mode == "zeros" and not lopsided

    @staticmethod
    def mixes_pixels(module: nn.Conv2d) -> bool:
        """A kernel of one pixel without padding reads one pixel, whatever its stride."""
        beyond = any(window.kernel > 1 or window.padding > 0 for window in ExactConv2d.windows(module))
        return beyond or _overruns(module)

    @staticmethod
    def windows(module: nn.Conv2d) -> WindowPair:
        """The kernel along each axis."""
        padding: Any = module.padding
        if padding == "same":
            padding = tuple(_same_padding(module, axis) // 2 for axis in (0, 1))
        elif padding == "valid":
            padding = 0
        return sliding.window_pair(module.kernel_size, module.stride, padding, module.dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve over a clean input."""
        if _overruns(self):
            down, across = self.stride
            return F.conv2d(x[:, :, ::down, ::across], self.weight, self.bias, groups=self.groups)
        return sliding.convolved(x, self.exact_site, self._cut if splitting.must_cut(self, x) else super().forward)

    def _cut(self, x: Tensor) -> Tensor:
        with splitting.CutConvolutions():
            return super().forward(x)


class ExactCondConv2d(ExactLayer):
    """timm's convolution whose weights each image chooses."""

    @staticmethod
    def windows(module: Any) -> WindowPair:
        """The kernel along each axis; with 'same' padding, what picks ceil(n / stride) outputs."""
        if module.dynamic_padding:
            return sliding.window_pair(1, module.stride, 0)
        return sliding.window_pair(module.kernel_size, module.stride, module.padding, module.dilation)

    def forward(self, x: Tensor, routing_weights: Tensor) -> Tensor:
        """Convolve over a clean input."""
        if not self.dynamic_padding:
            return sliding.convolved(
                x, self.exact_site, lambda cleaned: super(ExactCondConv2d, self).forward(cleaned, routing_weights)
            )
        if self.exact_site.lengths(x) is None:
            return super().forward(x, routing_weights)
        sides = sliding.window_pair(self.kernel_size, self.stride, 0, self.dilation)
        x = paddings.same(self.exact_site, F.pad, x, None, sides=sides)
        weight = (routing_weights @ self.weight).view(-1, *self.weight_shape[1:])  # (N * out, in / groups, k, k)
        bias = None if self.bias is None else (routing_weights @ self.bias).flatten()
        grouped = x.reshape(1, -1, *x.shape[2:])  # images beside each other, as groups of channels
        y = F.conv2d(grouped, weight, bias, self.stride, 0, self.dilation, self.groups * x.shape[0])
        return y.view(x.shape[0], self.out_channels, *y.shape[2:])


class ExactSpaceToDepth(ExactLayer):
    """Blocks of pixels become channels, for images of whole blocks."""

    @staticmethod
    def mixes_pixels(module: Any) -> bool:
        """Within whole blocks nothing is mixed."""
        return False

    @staticmethod
    def windows(module: Any) -> WindowPair:
        """The blocks."""
        return sliding.window_pair(module.bs, module.bs, 0)

    @staticmethod
    def divisors(module: Any) -> tuple[int, int]:
        """The stock layer takes no part of a block."""
        return module.bs, module.bs


class ExactMaxPool2d(ExactLayer):
    """A max-pool that finds minus infinity outside each region."""

    @staticmethod
    def refusal(module: Any) -> str | None:
        """Indices would count positions on the canvas."""
        return "it returns indices, which count positions on the padded canvas" if module.return_indices else None

    @staticmethod
    def windows(module: Any) -> WindowPair:
        """The pool's kernel."""
        return sliding.window_pair(
            module.kernel_size, module.stride, module.padding, module.dilation, ceil_mode=module.ceil_mode
        )

    def forward(self, x: Tensor) -> Tensor:
        """Pool with minus infinity outside."""
        return sliding.max_pooled(x, self.exact_site, super().forward)


class ExactAvgPool2d(ExactLayer):
    """An average pool that divides by the count the image alone would have had."""

    @staticmethod
    def windows(module: Any) -> WindowPair:
        """The pool's kernel."""
        return sliding.window_pair(module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)

    def forward(self, x: Tensor) -> Tensor:
        """Pool over a clean input, and correct the windows for which the canvas has another count."""
        return sliding.avg_pooled(
            x,
            self.exact_site,
            super().forward,
            self.windows(self),
            include_padding=bool(self.count_include_pad),
            own_divisor=bool(self.divisor_override),
        )


def _overruns(module: Any) -> bool:
    """Whether oneDNN writes beyond its workspace in the backward pass, or hangs.

    It does for kernels of one pixel with a stride, few input channels, and channels-last maps in float32:
    https://github.com/uxlfoundation/oneDNN/issues/6035. Picking the pixels first is the same and safe.
    """
    plain = (
        getattr(type(module), "stock", type(module)) is nn.Conv2d
        and module.kernel_size == (1, 1)
        and module.padding == (0, 0)
    )
    return plain and max(module.stride) > 1 and module.in_channels // module.groups < _NARROW


def _same_padding(module: nn.Conv2d, axis: int) -> int:
    return module.dilation[axis] * (module.kernel_size[axis] - 1)
