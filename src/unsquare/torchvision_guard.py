"""Imports torchvision where its compiled operators do not fit the installed torch.

A torchvision built for another torch (a CUDA wheel beside CPU torch, say) fails while it describes operators that it
could not load, and with it timm, torchmetrics and Lightning, which import it. Importing calls none of those operators,
so declaring their names is enough for the import to succeed. `import unsquare` installs the guard, which looks at
imports of torchvision alone and acts on that very failure alone; torch is not loaded before torchvision loads it.

Nothing here calls those operators, so the mismatch is logged (`--verbose` shows it) rather than warned of in every
program. A call of one fails in torch, and `explanation` says why.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_MISSING_OPERATOR = re.compile(r"operator (\w+)::(\w+) does not exist")
_OPERATOR_ERROR = re.compile(r"torchvision|C\+\+ ops")
"""In what torch and torchvision say where an operator of torchvision is missing."""
# A library's declarations vanish when its object is collected, so the objects are kept.
_declarations: list[Any] = []
_log = logging.getLogger(__name__)


def guard_torchvision() -> None:
    """Let imports of torchvision succeed from now on where its operators do not fit torch; once is enough."""
    if not any(isinstance(finder, _TorchvisionFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TorchvisionFinder())


def import_timm() -> ModuleType:
    """The timm module, with torchvision guarded."""
    guard_torchvision()
    return importlib.import_module("timm")


def explanation(error: BaseException) -> str:
    """Why a call of one of torchvision's operators failed; empty for other errors, and where torchvision fits torch."""
    if not _declarations or not _OPERATOR_ERROR.search(str(error)):
        return ""
    return "The installed torchvision does not fit the installed torch; install the torchvision built for this torch."


class _TorchvisionFinder(MetaPathFinder):
    """Finds torchvision as the others do, and wraps its loader."""

    def __init__(self) -> None:
        self._asking = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The spec of torchvision; None for everything else, which other finders find."""
        if name != "torchvision" or self._asking:
            return None
        self._asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads a package; where that fails on operators that it lacks, declares them and loads it again."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the package's own loader."""
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Run the package; raises whatever it raises for any other reason."""
        declared: list[str] = []
        if module.__spec__ is not None:
            module.__loader__ = module.__spec__.loader = self._loader  # whoever asks sees the package's own
        while True:
            try:
                self._loader.exec_module(module)
                break
            except RuntimeError as error:
                missing = _MISSING_OPERATOR.search(str(error))
                if missing is None or missing[1] != module.__name__ or missing[2] in declared:
                    raise
                declared.append(missing[2])
                _declare(*missing.groups())
                _forget_parts(module.__name__)
        if declared:
            _log.info(
                "The installed torchvision does not fit the installed torch, so its operators (%s) cannot be called; "
                "unsquare calls none of them.",
                ", ".join(declared),
            )


def _declare(package: str, operator: str) -> None:
    """Declare an operator by name; calling it fails, describing it does not."""
    import torch  # loaded by torchvision by now, and not by planning

    library = torch.library.Library(package, "FRAGMENT")
    library.define(f"{operator}(Tensor[] arguments) -> Tensor")
    _declarations.append(library)


def _forget_parts(package: str) -> None:
    """Drop a package's half-imported modules, so that running it again starts afresh."""
    for name in list(sys.modules):
        if name.startswith(f"{package}."):
            del sys.modules[name]
