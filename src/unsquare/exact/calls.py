"""Replaces functional calls inside a module's own code, in each pass, by their exact forms.

A module whose code calls `F.max_pool2d` or `x.mean((2, 3))` offers no layer to lay an exact form over. While such a
module's forward runs, a function mode sees its calls; those named in `ops.functions.RULES` are matched, in order, with
the calls seen when the model was followed, and replaced. Calls made inside the layers below are not its own: these are
laid over with `ExactCaller` and no calls. Capturing the module's graph instead would fix its control flow and lose its
methods; rewriting its source would not reach methods of tensors. Modules without such calls, nearly all, run without
any mode.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import nn
from torch.overrides import TorchFunctionMode

from unsquare.errors import ExactError
from unsquare.exact.ops.functions import RULES, Replacement
from unsquare.exact.regions import Passes, Site


class ExactCall(NamedTuple):
    """A functional call seen when the model was followed, and what takes its place."""

    name: str
    replacement: Replacement | None
    """None where the stock function is right."""
    site: Site | None


ExactCalls = tuple[ExactCall, ...]


class _CallReplacer(TorchFunctionMode):
    """The calls of one run of a module's code, replaced in the order in which they were seen."""

    def __init__(self, calls: ExactCalls, passes: Passes, where: str) -> None:
        super().__init__()
        self._calls = calls
        self._passes = passes
        self._where = where
        self._next = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in RULES or self._passes.replacer is not self:
            return func(*args, **kwargs)
        name = RULES[func].__name__
        if self._next == len(self._calls) or self._calls[self._next].name != name:
            raise ExactError(
                f"{self._where} must make the same functional calls in each pass, but call {self._next + 1} was "
                f"{name}, unlike at conversion; use a model whose control flow does not depend on pixel values."
            )
        call = self._calls[self._next]
        self._next += 1
        if call.replacement is None:
            return func(*args, **kwargs)
        return call.replacement(call.site, func, *args, **kwargs)


@contextmanager
def replacing_calls(passes: Passes, calls: ExactCalls, where: str) -> Iterator[None]:
    """Replace the functional calls of the module whose code runs inside."""
    replacer = _CallReplacer(calls, passes, where) if calls else None
    before, passes.replacer = passes.replacer, replacer
    try:
        if replacer is None:
            yield
        else:
            with replacer:
                yield
    finally:
        passes.replacer = before


class ExactCaller(nn.Module):
    """Laid over a module that makes functional calls itself, or is called by one that does."""

    exact_calls: dict[bool, ExactCalls]
    """By `training`."""
    exact_passes: Passes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The module's own forward, its calls replaced and its caller's left alone."""
        with replacing_calls(self.exact_passes, self.exact_calls[self.training], type(self).__name__):
            return super().forward(*args, **kwargs)
