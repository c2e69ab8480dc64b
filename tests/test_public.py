"""The front door: what may be imported, and how light it is."""

import ast
import inspect
import subprocess
import sys

import unsquare


def test_the_public_names_are_these():
    """The door's names are pinned: adding or removing one is a decision."""
    assert sorted(unsquare.__all__) == [
        "BatchLoader",
        "Choices",
        "Geometry",
        "Limits",
        "PadCollate",
        "PlanConfig",
        "Predictor",
        "RegionPool",
        "Shape",
        "ShapeIndex",
        "SpatialPyramidPool",
        "StepLoader",
        "StepSampler",
        "TrainConfig",
        "UnsquareError",
        "__version__",
        "evaluate",
        "find_remarks",
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
