"""The front door: what may be imported, and how light it is."""

import subprocess
import sys

import unsquare


def test_the_public_names_are_these():
    """The door's names are pinned: adding or removing one is a decision."""
    assert sorted(unsquare.__all__) == [
        "BatchLoader",
        "Geometry",
        "Limits",
        "PlanConfig",
        "Predictor",
        "Shape",
        "ShapeIndex",
        "SpatialPyramidPool",
        "TrainConfig",
        "UnsquareError",
        "__version__",
        "evaluate",
        "make_exact",
        "output_regions",
        "plan_epoch",
        "predict",
        "resume",
        "scan_source",
        "train",
        "write_report",
    ]
    assert all(getattr(unsquare, name) is not None for name in unsquare.__all__)


def test_planning_and_reporting_load_no_torch():
    """Index, plan and report work where torch is not even imported."""
    code = (
        "import sys, unsquare; unsquare.scan_source, unsquare.plan_epoch, unsquare.ShapeIndex, unsquare.write_report; "
        "import unsquare.cli.plan, unsquare.cli.report; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
