"""Paddings as steps of their own, made exact: by a constant, by the image's edge, and TensorFlow's 'same'.

Each takes the place of a call of `F.pad` in a pass: it is given the site, the stock function and the call's arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from unsquare.errors import ExactError
from unsquare.exact.ops.relocation import Mirror, Shift, gathered, mirror_places, mirrored, shifted, source_places
from unsquare.exact.ops.sliding import WindowPair
from unsquare.exact.ops.strips import applied_with_outside, clean
from unsquare.exact.regions import Site

StockFunction = Callable[..., Tensor]
"""A function of PyTorch's, as a model's code calls it."""


def constant(
    site: Site, function: StockFunction, input: Tensor, pad: Any, mode: str = "constant", value: float | None = None
) -> Tensor:
    """A value beside each image."""
    regions = site.regions(input, (input.ndim - 2, input.ndim - 1))
    if regions is None:
        return function(input, pad, mode, value)
    if input.ndim != 4:
        raise ExactError(
            f"Padding takes maps (N, C, H, W), but got a tensor of {input.ndim} axes; add the missing axes."
        )
    cleaned = clean(input, regions, shared=True)
    if not value:
        return function(cleaned, pad, mode, value)
    return applied_with_outside(cleaned, regions, value, lambda x: function(x, pad, mode, value))


def mirror(
    site: Site, function: StockFunction, input: Tensor, pad: Any, *args: Any, pads: Any, reflect: bool, **kwargs: Any
) -> Tensor:
    """What each image has at its edge, reflected or repeated beside it."""
    regions = site.regions(input)
    if regions is None:
        return function(input, pad, *args, **kwargs)
    if regions.masked:
        canvas = (input.shape[2] + pads[0] + pads[1], input.shape[3] + pads[2] + pads[3])
        return gathered(input, *mirror_places(regions.sizes, canvas, pads, reflect=reflect))
    if reflect and bool((regions.sizes <= max(pads)).any()):
        raise ExactError(
            f"Reflect padding by {max(pads)} pixels needs larger maps, but an image's map is "
            f"{' x '.join(map(str, regions.sizes.amin(dim=0).tolist()))} pixels; raise min_side in the geometry."
        )
    padded = function(clean(input, regions, shared=True), pad, *args, **kwargs)
    canvas = (padded.shape[2], padded.shape[3])
    return mirrored(
        padded,
        site.recall(input, ("mirror", pads, reflect), lambda: Mirror(regions.on_device, canvas, pads, reflect=reflect)),
    )


def same(
    site: Site, function: StockFunction, input: Tensor, pad: Any, mode: str = "constant", value: float | None = None,
    *, sides: WindowPair,
) -> Tensor:  # fmt: skip
    """As much beside each image as makes ceil(n / stride) outputs of its own size, the smaller half on the left."""
    lengths = site.lengths(input)
    if lengths is None:
        return function(input, pad, mode, value)
    if site.masked:
        return _same_padded_by_masks(input, lengths, sides, value or 0.0)
    totals, afters = [], []
    for axis, window in enumerate(sides):
        span = window.dilation * (window.kernel - 1) + 1
        every = torch.cat([lengths[:, axis], torch.tensor([input.shape[2 + axis]])])
        padded = ((every + window.stride - 1) // window.stride - 1) * window.stride + span
        totals.append((padded[:-1] - every[:-1]).clamp(min=0))
        afters.append(int(padded[-1]))
    starts = torch.stack(totals, dim=1) // 2
    before, after = (input.shape[2], input.shape[3]), (afters[0], afters[1])
    top, left = starts[0].tolist()
    if bool((starts == starts[0]).all()):
        pads = [left, after[1] - before[1] - left, top, after[0] - before[0] - top]
        return constant(site, function, input, pads, mode, value)
    device = input.device
    shift = site.recall(input, ("shift", sides), lambda: Shift(lengths.to(device), starts.to(device), before, after))
    return shifted(input, shift, value or 0.0)


def _same_padded_by_masks(x: Tensor, lengths: Tensor, sides: WindowPair, value: float) -> Tensor:
    places = []
    for axis, window in enumerate(sides):
        span = window.dilation * (window.kernel - 1) + 1
        length, before = lengths[:, axis], x.shape[2 + axis]
        # Sums before the division, since ONNX rounds a negative quotient towards zero.
        padded = ((length + window.stride - 1) // window.stride - 1) * window.stride + span
        after = ((before + window.stride - 1) // window.stride - 1) * window.stride + span
        places.append(source_places(length, (padded - length).clamp(min=0) // 2, before, after))
    return gathered(x, places[0], places[1], value)
