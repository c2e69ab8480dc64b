"""Numbers that a model's code reads from the sizes of its maps, and what it does with them.

While a model is followed, the height and width of a map, and the number of images, are given to its code as
`torch.SymInt`: they count and calculate as numbers do, but nothing becomes a plain number or a plain truth without
asking its `SymbolicLength`. So a branch on a size (`if h > w`), and a size turned into a plain number (`float(h)`,
`range(h)`), are seen where they happen, whatever the sizes are. Comparing what a model does on several canvases would
miss a branch that goes the same way on all of them.

Some questions have one answer for every canvas, and are no branches: whether a length is above zero, and how two
lengths compare that follow from the image's size in the same way. An assertion decides nothing but whether to fail.

`torch.SymInt` asks its node for no more than what stands here; its own tracer (`ShapeEnv`) answers the same questions
by symbolic algebra, at many times the price.
"""

from __future__ import annotations

import ast
import linecache
import math
import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from unsquare.exact.extent import LengthFormula
from unsquare.torch_private import ASSERTING_FUNCTIONS

IMAGES = "images"
"""The symbol of the number of images; those of height and width are 0 and 1, as the axes of an extent."""

PlainNumber = int | float | bool

_COMPARISONS: dict[str, Callable[..., Any]] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
}
_ARITHMETIC: dict[str, Callable[..., Any]] = {
    **{name: getattr(operator, name) for name in ("add", "sub", "mul", "mod", "floordiv", "truediv", "pow", "neg")},
    "int_truediv": operator.truediv,
    "float_truediv": operator.truediv,
    "int_floordiv": operator.floordiv,
    "float_pow": operator.pow,
    "pow_by_natural": operator.pow,
    "sym_max": max,
    "sym_min": min,
    "sym_not": operator.not_,
    "and": operator.and_,
    "or": operator.or_,
    "bitwise_and": operator.and_,
    "bitwise_or": operator.or_,
    "bitwise_xor": operator.xor,
    "lshift": operator.lshift,
    "rshift": operator.rshift,
    "floor": math.floor,
    "ceil": math.ceil,
    "trunc": math.trunc,
    "abs": abs,
    "round": round,
}


class SmallMapBranch(NamedTuple):
    """A question whether a map is large enough: `if h < 7`."""

    axis: int
    formula: LengthFormula
    min_length: int
    """The length from which the answer stays the same."""
    is_met: bool
    """Whether the map has it on the canvas on which the model is followed."""


@dataclass(frozen=True)
class SymbolicLength:
    """A number that follows from sizes of maps: the node of a `torch.SymInt`, `SymFloat` or `SymBool`."""

    value: PlainNumber
    """What it is on the canvas on which the model is followed."""
    symbols: frozenset[Any]
    """The sizes that it follows from; none for a number that is the same on every canvas."""
    asked: Callable[[SymbolicLength, str], None]
    """Told when the number becomes a plain one ("number"), or decides something ("branch")."""
    formula: LengthFormula | None = None
    """How it follows from its one symbol, where that is known."""
    positive: bool = False
    """Whether it is above zero on every canvas."""
    small_map_branch: SmallMapBranch | None = None
    """Of a truth: what it says of a length, where it sets small maps apart from all larger ones."""

    def __getattr__(self, name: str) -> Any:
        """The method of an operation of `torch.SymInt`, by its name there."""
        if name in _COMPARISONS:
            return lambda other: self._compared(name, other)
        if name in _ARITHMETIC:
            return lambda *others: self._calculated(name, *others)
        raise AttributeError(name)

    def _compared(self, name: str, other: SymbolicLength) -> SymbolicLength:
        value = _COMPARISONS[name](self.value, other.value)
        if self.formula is not None and (self.formula, self.symbols) == (other.formula, other.symbols):
            return self._plain(value)
        if not other.symbols and self.positive and _decided(name, other.value):
            return self._plain(value)
        return replace(self._of(value, other), small_map_branch=self._small_map_branch(name, other))

    def _small_map_branch(self, name: str, other: SymbolicLength) -> SmallMapBranch | None:
        if self.formula is None or other.symbols or self.symbols == {IMAGES} or name in ("eq", "ne"):
            return None
        (axis,) = self.symbols
        least = math.floor(other.value) + 1 if name in ("le", "gt") else math.ceil(other.value)
        return SmallMapBranch(axis, self.formula, least, self.value >= least)

    def _calculated(self, name: str, *others: SymbolicLength) -> SymbolicLength:
        result = self._of(_ARITHMETIC[name](self.value, *(other.value for other in others)), *others)
        if not others:
            return result
        (other,) = others
        if (
            name == "sub"
            and self.formula is not None
            and (self.formula, self.symbols) == (other.formula, other.symbols)
        ):
            return self._plain(0)
        grows = name in ("add", "mul")
        left, right = (other, self) if grows and not self.symbols else (self, other)
        return replace(
            result,
            formula=None if right.symbols else _formula(name, left.formula, right.value),
            positive=grows
            and all(number.positive or (not number.symbols and number.value > 0) for number in (self, other)),
        )

    def _of(self, value: PlainNumber, *others: SymbolicLength) -> SymbolicLength:
        return SymbolicLength(value, self.symbols.union(*(other.symbols for other in others)), self.asked)

    def _plain(self, value: PlainNumber) -> SymbolicLength:
        return SymbolicLength(value, frozenset(), self.asked)

    def _ask(self, what: str) -> None:
        if self.symbols:
            self.asked(self, what)

    # What `torch.SymInt` and its like ask of their node.

    def is_int(self) -> bool:
        """Whether this belongs into a `torch.SymInt`."""
        return isinstance(self.value, int) and not isinstance(self.value, bool)

    def is_float(self) -> bool:
        """Whether this belongs into a `torch.SymFloat`."""
        return isinstance(self.value, float)

    def is_bool(self) -> bool:
        """Whether this belongs into a `torch.SymBool`."""
        return isinstance(self.value, bool)

    def is_constant(self) -> bool:
        """Whether it is the same on every canvas, so that PyTorch makes a plain number of it."""
        return not self.symbols and not self.is_float()

    def is_nested_int(self) -> bool:
        """Whether this is the length of a nested tensor's axis."""
        return False

    def is_symbolic(self) -> bool:
        """Whether this stands for a number."""
        return True

    def has_hint(self) -> bool:
        """Whether a value is known."""
        return True

    def maybe_as_int(self) -> int | None:
        """The value, where it is a constant."""
        return None

    def wrap_int(self, value: int) -> SymbolicLength:
        """A plain number beside this one."""
        return self._plain(int(value))

    def wrap_float(self, value: float) -> SymbolicLength:
        """A plain number beside this one."""
        return self._plain(float(value))

    def wrap_bool(self, value: bool) -> SymbolicLength:
        """A plain truth beside this number."""
        return self._plain(bool(value))

    def sym_float(self) -> SymbolicLength:
        """The same as a fraction."""
        return self._of(float(self.value))

    def int_(self) -> int:
        """The plain number."""
        self._ask("number")
        return int(self.value)

    def bool_(self) -> bool:
        """The plain truth."""
        self._ask("branch")
        return bool(self.value)

    def guard_int(self, file: str, line: int) -> int:
        """The plain number."""
        return self.int_()

    def guard_float(self, file: str, line: int) -> float:
        """The plain number."""
        self._ask("number")
        return float(self.value)

    def guard_bool(self, file: str, line: int) -> bool:
        """The plain truth."""
        return self.bool_()

    def expect_true(self, file: str, line: int) -> bool:
        """The truth of what is asserted."""
        return bool(self.value)

    def _graph_repr(self) -> str:
        return self.str()

    def str(self) -> str:
        """The number as text."""
        self._ask("text")
        return str(self.value)


_WRAPPED = (torch.SymInt, torch.SymFloat, torch.SymBool)


def wrapped(length: SymbolicLength) -> Any:
    """A length as the number that a model's code is given."""
    return torch.SymInt(length)


def plain(values: Any, met: list[SymbolicLength]) -> Any:
    """Values with plain numbers in place of lengths, within sequences and mappings; `met` gathers the lengths."""
    if isinstance(values, _WRAPPED):
        met.append(values.node)
        return values.node.value
    if isinstance(values, slice):
        return slice(*(plain(value, met) for value in (values.start, values.stop, values.step)))
    if isinstance(values, tuple):
        parts = [plain(value, met) for value in values]
        return type(values)(*parts) if hasattr(values, "_fields") else type(values)(parts)
    if isinstance(values, list):
        return [plain(value, met) for value in values]
    if isinstance(values, dict):
        return {name: plain(value, met) for name, value in values.items()}
    return values


def place_asked(*, for_text: bool = False) -> str | None:
    """Where a model's code asks, as "file, line n"; None where nothing follows from the answer but a message.

    Args:
        for_text: Whether a text is asked for, which prints, warnings and errors may take.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_OWN):
        frame = frame.f_back
    asserts = not _caught(frame)
    torch_frames = 0
    while frame is not None and frame.f_code.co_filename.startswith(_TORCH):
        if asserts and frame.f_code.co_name in ASSERTING_FUNCTIONS:
            return None
        frame = frame.f_back
        torch_frames += 1
    if frame is None:
        return "code"
    name, line = frame.f_code.co_filename, frame.f_lineno
    if for_text:
        by_torch = torch_frames > 1  # not `torch.SymInt.__str__` alone: a message of its own
        free = by_torch or line in _lines(name).telling
    else:
        free = asserts and line in _lines(name).asserting
    return None if free else f"{Path(name).name}, line {line}"


def _caught(frame: FrameType | None) -> bool:
    """Whether an error raised here may be caught by the model's code, which then takes another path."""
    while frame is not None and not frame.f_code.co_filename.startswith(_OWN):
        name = frame.f_code.co_filename
        if not name.startswith(_TORCH) and frame.f_lineno in _lines(name).catching:
            return True
        frame = frame.f_back
    return False


class _LineKinds(NamedTuple):
    """Lines of a file."""

    asserting: frozenset[int]
    """Those whose conditions only decide whether to raise an error."""
    catching: frozenset[int]
    """Those whose errors may be caught around them."""
    telling: frozenset[int]
    """Those that print, log, warn or raise an error."""


_OWN, _TORCH = (str(Path(file).parent) for file in (__file__, torch.__file__))


@lru_cache(maxsize=64)
def _lines(filename: str) -> _LineKinds:
    asserting: set[int] = set()
    catching: set[int] = set()
    telling: set[int] = set()
    try:
        tree = ast.parse("".join(linecache.getlines(filename)))
    except SyntaxError:
        return _LineKinds(frozenset(), frozenset(), frozenset())
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            asserting.update(_from_to(node, node))
        elif isinstance(node, ast.If) and isinstance(node.body[-1], ast.Raise) and not node.orelse:
            asserting.update(_from_to(node.test, node.test))
        elif (isinstance(node, ast.Try) and node.handlers) or (isinstance(node, ast.With) and _suppresses(node)):
            catching.update(_from_to(node.body[0], node.body[-1]))
        if isinstance(node, (ast.Assert, ast.Raise)) or (isinstance(node, ast.Expr) and _tells(node.value)):
            telling.update(_from_to(node, node))
    return _LineKinds(frozenset(asserting), frozenset(catching), frozenset(telling))


def _from_to(first: ast.stmt | ast.expr, last: ast.stmt | ast.expr) -> range:
    return range(first.lineno, (last.end_lineno or last.lineno) + 1)


def _tells(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in _TELLING


_TELLING = {"print", "warn", "debug", "info", "warning", "error", "log", "_assert", "_check"}


def _suppresses(node: ast.With) -> bool:
    return any("suppress(" in ast.unparse(item.context_expr) for item in node.items)


def _decided(name: str, bound: PlainNumber) -> bool:
    """Whether a comparison with this number has the same answer for every number above zero."""
    return bound <= 0 or (bound == 1 and name in ("ge", "lt"))


def _formula(name: str, formula: LengthFormula | None, number: PlainNumber) -> LengthFormula | None:
    """The formula of a length after one operation with a plain number; None where there is none."""
    if formula is None or not isinstance(number, int):
        return None
    if name in ("add", "sub"):
        return formula.then(offset=number if name == "add" else -number)
    if number < 1:
        return None
    if name == "mul":
        return formula.then(factor=number)
    return formula.then(divisor=number) if name in ("floordiv", "int_floordiv") else None
