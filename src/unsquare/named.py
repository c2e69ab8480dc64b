"""Objects of a user's own by their names, as `package.module:function`: networks and transforms."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from pathlib import Path
from typing import Any

_PACKAGE = Path(__file__).parent


def named_object(name: str) -> Any:
    """What a name stands for, looked up from the working folder, too.

    Raises:
        Exception: of any kind, since the user's code runs; `words_of_failure` says it in a sentence.
    """
    module, _, attributes = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    found = importlib.import_module(module)
    for attribute in attributes.split("."):
        found = getattr(found, attribute)
    return found


def name_of(value: Any) -> str:
    """The name by which an object can be found again, or that of its class where it has none."""
    owner = value if hasattr(value, "__qualname__") else type(value)
    return f"{owner.__module__}:{owner.__qualname__}"


def words_of_failure(error: BaseException) -> str:
    """What failed in a user's code, and where, on one line."""
    step = traceback.extract_tb(error.__traceback__)[-1]
    own = not step.filename.startswith("<") and _PACKAGE not in Path(step.filename).parents
    place = f" ({Path(step.filename).name}, line {step.lineno})" if own else ""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}{place}" if said else f"{type(error).__name__}{place}"
