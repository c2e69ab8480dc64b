"""Imports timm where torchvision's compiled operators do not fit the installed torch.

timm imports torchvision, and a torchvision built for another torch (a CUDA wheel beside CPU torch, say)
fails while it describes operators that it could not load. Nothing in this library calls those operators, so
declaring their names is enough for the import to go through. Where the builds match, this only imports timm.
"""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from types import ModuleType

import torch

_MISSING_OPERATOR = re.compile(r"operator torchvision::(\w+) does not exist")
# A library's declarations vanish when its object is collected, so the objects are kept.
_declarations: list[torch.library.Library] = []


class TorchvisionMismatchWarning(UserWarning):
    """The installed torchvision does not fit the installed torch."""


def import_timm() -> ModuleType:
    """Import timm; only if that fails on operators that torchvision lacks, declare them and try again.

    Returns:
        The timm module. Raises whatever the import raises for any other reason.
    """
    declared: list[str] = []
    while True:
        try:
            timm = importlib.import_module("timm")
            break
        except RuntimeError as error:
            missing = _MISSING_OPERATOR.search(str(error))
            if missing is None or missing[1] in declared:
                raise
            declared.append(missing[1])
            _declare(missing[1])
            _forget("torchvision", "timm")
    if declared:
        warnings.warn(
            "torchvision's compiled operators do not fit this torch, so they are only declared "
            f"({', '.join(declared)}); unsquare calls none of them.",
            TorchvisionMismatchWarning,
            stacklevel=2,
        )
    return timm


def _declare(operator: str) -> None:
    """Declare an operator by name; calling it fails, describing it does not."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define(f"{operator}(Tensor[] arguments) -> Tensor")
    _declarations.append(library)


def _forget(*packages: str) -> None:
    """Drop the half-imported modules of packages, so that the next import starts afresh."""
    for name in list(sys.modules):
        if name.split(".")[0] in packages:
            del sys.modules[name]
