"""Copies of padded maps in which each image's pixels stand elsewhere: for paddings and enlargements whose places
depend on the image's own size.

A stock operation would take the places from the canvas. Here each output pixel is a row of the channels-last map
(N * H * W, C), picked by index.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F


class Shift:
    """Moves each image down and right by its own offset, onto a canvas of another size.

    Args:
        lengths: Regions of the images (N, 2), on the device.
        starts: Where their first row and column go (N, 2).
        before: The canvas of the map given.
        after: The canvas of the map returned.
    """

    def __init__(self, lengths: Tensor, starts: Tensor, before: tuple[int, int], after: tuple[int, int]) -> None:
        self.before, self.after = before, after
        self.forth = _rows_of([source_places(lengths[:, i], starts[:, i], before[i], after[i]) for i in (0, 1)], before)
        self.back = _rows_of([_target_places(lengths[:, i], starts[:, i], before[i], after[i]) for i in (0, 1)], after)


class _Shifted(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, shift: Shift, value: float) -> Tensor:
        """Pick rows; what has no source takes the value."""
        ctx.shift = shift
        return _picked(x, shift.forth, shift.after, value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The move backwards; what lay outside has no gradient."""
        return _picked(grad, ctx.shift.back, ctx.shift.before, 0.0), None, None


def shifted(x: Tensor, shift: Shift, value: float = 0.0) -> Tensor:
    """A map (N, C, H, W) with each image moved, and a value wherever no image is."""
    return _Shifted.apply(x, shift, value)


class Mirror:
    """Which rows of a map that was padded as a whole lie in an image's own padding, and what they repeat.

    Args:
        lengths: Regions of the images before padding (N, 2), on the device.
        canvas: The padded map's (height, width).
        pads: Rows above, rows below, columns left, columns right.
        reflect: Whether the padding mirrors the image at its edge; if not, it repeats the edge.
    """

    def __init__(
        self, lengths: Tensor, canvas: tuple[int, int], pads: tuple[int, int, int, int], *, reflect: bool
    ) -> None:
        sources, own, beyond = [], [], []
        for axis in (0, 1):
            start, end = pads[2 * axis], pads[2 * axis + 1]
            places = torch.arange(canvas[axis], device=lengths.device)[None] - start
            last = lengths[:, axis, None] - 1
            repeated = 2 * last - places if reflect else last.expand(-1, canvas[axis])
            # Left of and above the image the padding of the whole map is right already.
            sources.append(torch.where(places > last, repeated, places) + start)
            own.append(places <= last + end)
            beyond.append(places > last)
        wanted = _both(own) & (beyond[0][:, :, None] | beyond[1][:, None])
        first = torch.arange(len(lengths), device=lengths.device)[:, None, None] * (canvas[0] * canvas[1])
        rows = torch.arange(canvas[0] * canvas[1], device=lengths.device).view(1, *canvas)
        self.copies = (first + rows)[wanted]
        self.sources = (first + sources[0][:, :, None] * canvas[1] + sources[1][:, None])[wanted]


class _Mirrored(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mirror: Mirror) -> Tensor:
        """Overwrite the images' own padding; the map was made for this and has no other reader."""
        ctx.mirror = mirror
        ctx.mark_dirty(x)
        pixels = _rows(x)
        pixels.index_copy_(0, mirror.copies, pixels.index_select(0, mirror.sources))
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        """Hand the gradient of what was overwritten to what it repeats."""
        grad = grad.clone(memory_format=torch.channels_last)
        pixels = _rows(grad)
        copied = pixels.index_select(0, ctx.mirror.copies)
        pixels.index_fill_(0, ctx.mirror.copies, 0.0)
        pixels.index_add_(0, ctx.mirror.sources, copied)
        return grad, None


def mirrored(padded: Tensor, mirror: Mirror) -> Tensor:
    """A map (N, C, H, W), just padded as a whole, with each image's own padding right of and below its region."""
    return _Mirrored.apply(padded.contiguous(memory_format=torch.channels_last), mirror)


def picked_along(x: Tensor, axis: int, places: Tensor) -> Tensor:
    """A map (N, C, H, W) whose rows (axis 2) or columns (axis 3) are those at the given places (N, new length)."""
    images, channels, height, width = x.shape
    pixels = x.permute(0, 2, 3, 1)  # (N, H, W, C)
    first = torch.arange(images, device=x.device)[:, None]
    if axis == 2:
        rows = pixels.reshape(images * height, width * channels)
        taken = F.embedding(first * height + places, rows).view(images, -1, width, channels)
    else:
        rows = pixels.reshape(images * height * width, channels)
        lines = torch.arange(images * height, device=x.device).view(images, height, 1) * width
        taken = F.embedding(lines + places[:, None], rows)
    return taken.permute(0, 3, 1, 2)


def gathered(x: Tensor, down: Tensor, across: Tensor, value: float = 0.0) -> Tensor:
    """A map (N, C, H, W) of the pixels at the given rows (N, new H) and columns (N, new W); a value where these are -1.

    With ordinary autograd and nothing known on the host: for `masks`.
    """
    x = picked_along(picked_along(x, 2, down.clamp(min=0)), 3, across.clamp(min=0))
    return torch.where((down >= 0)[:, None, :, None] & (across >= 0)[:, None, None, :], x, value)


def mirror_places(
    lengths: Tensor, canvas: tuple[int, int], pads: tuple[int, int, int, int], *, reflect: bool
) -> tuple[Tensor, Tensor]:
    """For each row and column of a mirrored map, the place before in the image's own region; -1 beyond its padding."""
    found = []
    for axis in (0, 1):
        start, end = pads[2 * axis], pads[2 * axis + 1]
        places = torch.arange(canvas[axis], device=lengths.device)[None] - start
        last = lengths[:, axis, None] - 1
        inside = last - (last - places.abs()).abs() if reflect else torch.minimum(places.clamp(min=0), last)
        found.append(torch.where(places > last + end, -1, inside))
    return found[0], found[1]


def _rows(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _both(along: list[Tensor]) -> Tensor:
    return along[0][:, :, None] & along[1][:, None]


def source_places(lengths: Tensor, starts: Tensor, before: int, after: int) -> Tensor:
    """For each place after, the place before (N, after), or -1."""
    places = torch.arange(after, device=lengths.device)[None] - starts[:, None]
    return places.masked_fill_((places < 0) | (places >= lengths[:, None]) | (places >= before), -1)


def _target_places(lengths: Tensor, starts: Tensor, before: int, after: int) -> Tensor:
    """For each place before, the place after (N, before), or -1."""
    places = torch.arange(before, device=lengths.device)[None]
    targets = places + starts[:, None]
    return targets.masked_fill_((places >= lengths[:, None]) | (targets >= after), -1)


def _rows_of(places: list[Tensor], canvas: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row numbers in the map seen as (N * H * W, C), and which places have no source."""
    down, across = places[0][:, :, None], places[1][:, None]
    first = torch.arange(len(down), device=down.device)[:, None, None] * (canvas[0] * canvas[1])
    rows = first + down * canvas[1] + across
    empty = ((down < 0) | (across < 0)).flatten()
    return rows.flatten().masked_fill_(empty, 0), empty.nonzero()[:, 0]


def _picked(x: Tensor, rows: tuple[Tensor, Tensor], canvas: tuple[int, int], value: float) -> Tensor:
    source, empty = rows
    picked = _rows(x).index_select(0, source).index_fill_(0, empty, value)
    return picked.view(x.shape[0], *canvas, x.shape[1]).permute(0, 3, 1, 2)
