"""Where height and width are after operations that keep pixels apart but may move, join or mix other axes.

Each rule is given the two axes, and the operation's first argument, arguments and result; it returns the axes
afterwards, or None where the operation may mix pixels or images.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from unsquare.torch_private import tree_leaves

Axes = tuple[int, int]
"""Height's place among the axes of a tensor, and width's."""


def axes_after(axes: Axes, places: tuple[int, ...], by: int) -> Axes:
    """Axes after one was put in at a place (by = 1), or some were taken out (by = -1)."""
    down, across = (axis + by * sum(place < axis + (by > 0) for place in places) for axis in axes)
    return down, across


def _permute(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    order = [axis % x.ndim for axis in args[1]]
    return (order.index(axes[0]), order.index(axes[1])) if order[0] == 0 else None


def _transpose(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    one, other = args[1] % x.ndim, args[2] % x.ndim
    swap = {one: other, other: one}
    return None if 0 in swap else (swap.get(axes[0], axes[0]), swap.get(axes[1], axes[1]))


def _view(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    """An axis stays itself where it has the same length and as many values before it."""
    places: dict[tuple[int, int], int] = {}
    before = 1
    for place, length in enumerate(result.shape):
        places.setdefault((before, length), place)
        before *= length
    down, across = (places.get((x.shape[:axis].numel(), x.shape[axis])) for axis in axes)
    return None if down is None or across is None else (down, across)


def _expand(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    kept = all(result.shape[axis] == x.shape[axis] for axis in axes)
    return axes if result.ndim == x.ndim and kept else None


def _layer_norm(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    return axes if max(axes) < x.ndim - len(args[1]) else None


def _along(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    """What mixes values along one axis, the last one unless it is named."""
    return axes if (args[1] if len(args) > 1 else -1) % x.ndim not in (0, *axes) else None


def _flip(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    return axes if not {axis % x.ndim for axis in args[1]} & {0, *axes} else None


def _roll(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    moved = {axis % x.ndim for axis in (args[2] if len(args) > 2 else ())}
    return axes if moved and not moved & {0, *axes} else None


def _repeat(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    return axes if result.ndim == x.ndim and all(args[1][axis] == 1 for axis in (0, *axes)) else None


def _shuffle(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    return axes if 1 not in axes else None


def _norm(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    """A vector's length, whose gradient PyTorch takes to be zero where the vector is."""
    if len(args) < 3 or args[1] not in (1, 2):
        return None
    return _reduce(axes, x, (x, args[2]), kwargs, result)


def _split(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    axis = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % x.ndim
    return axes if axis not in (0, *axes) else None


def _pick(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    axis = (args[1] if len(args) > 1 else 0) % x.ndim
    return axes_after(axes, (axis,), -1) if axis not in (0, *axes) else None


def _unsqueeze(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    axis = args[1] % (x.ndim + 1)
    return axes_after(axes, (axis,), +1) if axis else None


def _squeeze(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    return axes if result.ndim == x.ndim else _pick(axes, x, args, kwargs, result)


def _reduce(axes: Axes, x: Tensor, args: Any, kwargs: Any, result: Any) -> Axes | None:
    """A reduction over channels, or any axes but images, height and width."""
    given = args[1] if len(args) > 1 else kwargs.get("dim")
    if given is None:
        return None
    reduced = {axis % x.ndim for axis in ([given] if isinstance(given, int) else given)}
    if reduced & {0, *axes} or not reduced:
        return None
    kept = tree_leaves(result)[0].ndim == x.ndim
    return axes if kept else axes_after(axes, tuple(reduced), -1)


_Move = Callable[[Axes, Tensor, Any, Any, Any], "Axes | None"]
MOVES: dict[str, _Move] = {
    "permute": _permute,
    "transpose": _transpose,
    "view": _view,
    "_unsafe_view": _view,
    "expand": _expand,
    "native_layer_norm": _layer_norm,
    **dict.fromkeys(("_softmax", "_log_softmax", "glu"), _along),
    "flip": _flip,
    "roll": _roll,
    "repeat": _repeat,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _shuffle),
    "linalg_vector_norm": _norm,
    "split": _split,
    "split_with_sizes": _split,
    "unbind": _pick,
    "select": _pick,
    "unsqueeze": _unsqueeze,
    "squeeze": _squeeze,
    **dict.fromkeys(("mean", "sum", "var", "amax", "amin", "var_mean", "max", "min"), _reduce),
}
"""The rule of each operation."""
