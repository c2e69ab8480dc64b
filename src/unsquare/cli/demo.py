"""`unsquare demo`: everything from pictures to report, on pictures that it makes itself."""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from rich.console import Console
from rich.table import Table

from unsquare.api import train
from unsquare.cli.arguments import DemoArguments
from unsquare.cli.output import progress_bar
from unsquare.demo.compare import ComparedMethod, compare
from unsquare.demo.materials import MaterialsConfig, make_materials
from unsquare.network.classifier import check_model
from unsquare.network.ranks import is_first
from unsquare.training.config import TrainConfig, with_settings

_SHORT_RUN = {"auto_augment": "none", "min_scale": 1.0, "label_smoothing": 0.0, "progressive": "off"}
"""Settings for few epochs: what the recipe does against overfitting pays in five times as many."""
SMALLEST_SIDE = 32
"""The stride of the backbones; pictures made very small are enlarged to it."""


def run(given: DemoArguments) -> int:
    """Run the command."""
    materials = MaterialsConfig(
        num_train=given.num_train,
        num_val=given.num_val,
        num_test=given.num_test,
        mean_pixels=given.mean_pixels,
        seed=given.seed,
    )
    config = with_settings(
        TrainConfig(),
        {
            "epochs": given.epochs,
            "backbone": given.backbone,
            "recipe": "scratch",
            **_SHORT_RUN,
            "memory": given.memory,
            "seed": given.seed,
            "lr": given.lr,
            "min_side": SMALLEST_SIDE,
        },
    )
    check_model(config.model)
    with progress_bar("making pictures") as progress:
        pictures = make_materials(given.out / "pictures", materials, progress)
    if given.compare:
        _print(compare(pictures, given.out / "compare", config, lambda text: print(text, file=sys.stderr)))
        return 0
    folder = train(pictures, _free(given.out, "run"), config)
    if is_first():
        print(f"The pictures are in {pictures}, the run is in {folder}.\nOpen the report: {folder / 'report.html'}")
    return 0


def _free(parent: Path, name: str) -> Path:
    """The first of name, name-2, name-3, ... that is not taken: an earlier run stays."""
    candidates = (parent / (name if number == 1 else f"{name}-{number}") for number in count(1))
    return next(path for path in candidates if not path.exists())


def _print(rows: list[ComparedMethod]) -> None:
    table = Table("", "test accuracy", "mean per class", "chosen on val", "val accuracy", "training time", box=None)
    for row in rows:
        table.add_row(
            row.name,
            f"{row.accuracy:.3f} ± {row.margin:.3f}",
            f"{row.mean_per_class_accuracy:.3f}",
            row.chosen,
            f"{row.val_accuracy:.3f}",
            f"{row.train_s:.0f} s" if row.train_s else "",
        )
    Console().print(table)
