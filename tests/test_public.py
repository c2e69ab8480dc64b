"""The front door: what may be imported, and how light it is."""

import ast
import builtins
import dataclasses
import inspect
import re
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import unsquare
import unsquare.errors

PUBLIC = {name: getattr(unsquare, name) for name in unsquare.__all__ if name != "__version__"}


def test_the_public_names_are_these():
    """The door's names are pinned: adding or removing one is a decision."""
    assert sorted(unsquare.__all__) == [
        "AugmentConfig",
        "BatchLoader",
        "Bucket",
        "Buckets",
        "BudgetError",
        "Choices",
        "ClassFigures",
        "ComparisonResult",
        "ConfigError",
        "CrossValidation",
        "DeviceConfig",
        "Duplicate",
        "EpochPlan",
        "Evaluation",
        "ExactError",
        "ExactnessErrors",
        "Fallback",
        "Geometry",
        "ImageError",
        "ImageOverBudgetError",
        "LearningRateConfig",
        "Limits",
        "MicroBatch",
        "ModelConfig",
        "OptimizerConfig",
        "PadCollate",
        "PaddedBatch",
        "PlanConfig",
        "PlanError",
        "Prediction",
        "Predictor",
        "Problem",
        "ProfileResult",
        "RankStep",
        "RegionPool",
        "Remark",
        "ResolutionConfig",
        "RunError",
        "SavingConfig",
        "Shape",
        "ShapeIndex",
        "SourceError",
        "SpatialPyramidPool",
        "StaleImageError",
        "Step",
        "StepLoader",
        "StepSampler",
        "Stopped",
        "TaskConfig",
        "TrainConfig",
        "UndecodableError",
        "UnsquareError",
        "UsageError",
        "Verification",
        "__version__",
        "class_weights",
        "compare",
        "cross_validate",
        "evaluate",
        "find_duplicates",
        "find_remarks",
        "form_buckets",
        "make_exact",
        "output_regions",
        "plan_epoch",
        "plan_stream",
        "predict",
        "profile",
        "resume",
        "scan_source",
        "train",
        "undo_exact",
        "verify_exact",
        "write_report",
    ]
    assert all(getattr(unsquare, name) is not None for name in unsquare.__all__)


def methods_of(value: Any) -> Iterator[Callable[..., Any]]:
    """A public function, or the public methods and properties of a class of the package."""
    if not inspect.isclass(value):
        yield value
        return
    for name, member in inspect.getmembers(value):
        function = member.fget if isinstance(member, property) else member
        own = inspect.isroutine(function) and (getattr(function, "__module__", None) or "").startswith("unsquare")
        if own and (name[0] != "_" or name in ("__init__", "__iter__", "__call__", "__getitem__")):
            yield function


def classes_in(hint: Any) -> set[type]:
    """The package's own classes in an annotation, at any depth."""
    inner = typing.get_args(hint)
    found = {hint} if isinstance(hint, type) and not inner and hint.__module__.startswith("unsquare") else set()
    return found.union(*map(classes_in, inner))


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_returned_is_public(name):
    """So are the fields of public dataclasses; rows within a profile's file are reached by their fields alone."""
    value = PUBLIC[name]
    hints = [typing.get_type_hints(function).get("return") for function in methods_of(value)]
    if dataclasses.is_dataclass(value) or (inspect.isclass(value) and issubclass(value, tuple)):
        hints += typing.get_type_hints(value).values()
    assert set().union(*map(classes_in, hints)) <= set(filter(inspect.isclass, PUBLIC.values()))


@pytest.mark.parametrize("name", PUBLIC)
def test_what_is_raised_is_public(name):
    """Every exception that the Raises part of a public docstring names can be caught by a public name."""
    value = PUBLIC[name]
    for docstring in (inspect.getdoc(each) or "" for each in (value, *methods_of(value))):
        _, _, raises = docstring.partition("Raises:")
        for error in re.findall(r"\b[A-Z]\w*Error\b|\bStopped\b", raises):
            assert error in PUBLIC or hasattr(builtins, error), error


@pytest.mark.parametrize("name", [name for name, value in PUBLIC.items() if inspect.isfunction(value)])
def test_functions_say_what_they_take_and_return(name):
    """Each argument has a line of its own in the docstring, and there is a part on what is returned."""
    docstring = inspect.getdoc(PUBLIC[name])
    assert "\nReturns:\n" in docstring
    for argument in inspect.signature(PUBLIC[name]).parameters:
        assert re.search(rf"^    \**{argument}: ", docstring, re.MULTILINE), argument


def test_every_error_of_the_tree_is_public():
    """What `errors` defines, a user can catch."""
    tree = {name for name, value in vars(unsquare.errors).items() if inspect.isclass(value)}
    assert tree <= set(PUBLIC)


def test_type_checkers_see_the_public_names():
    """Each name that is loaded at first use is also imported from its home where only type checkers look."""
    tree = ast.parse(inspect.getsource(unsquare))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname: node.module for node in block.body for alias in node.names}
    assert seen == unsquare._HOMES


def test_names_stay_what_they_are_whatever_is_imported():
    """No subpackage takes the place of a public name, before or after it is loaded."""
    code = (
        "import unsquare.api, unsquare.training.start, unsquare.errors, unsquare; from unsquare import train; "
        "import sys; sys.exit(not all(callable(getattr(unsquare, n)) for n in unsquare.__all__ if n[0] != '_'))"
    )
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=False).returncode == 0


def test_planning_and_reporting_load_no_torch():
    """Index, plan and report work where torch is not even imported."""
    code = (
        "import sys, unsquare; unsquare.scan_source, unsquare.plan_epoch, unsquare.ShapeIndex, unsquare.write_report; "
        "import unsquare.cli.plan, unsquare.cli.report; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
