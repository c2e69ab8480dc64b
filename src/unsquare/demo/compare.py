"""The demo's comparison: the same network, epochs and tuning on the same pictures, given in four ways.

Each method that trains a network tries the same learning rates and keeps the one that is best on the val split; each is
then evaluated once on the test split, with the weights that were best on the val split.
"""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from unsquare.demo.naive import NAIVE
from unsquare.files import write_text
from unsquare.index.by_shape import shape_only
from unsquare.index.scan import scan_source
from unsquare.index.table import ShapeIndex
from unsquare.progress import Say
from unsquare.runs.folder import RunFolder
from unsquare.training.components import Components
from unsquare.training.config import TrainConfig
from unsquare.training.start import train

LEARNING_RATES = (1e-3, 3e-3)
"""The learning rates that every network is tuned over."""


@dataclass(frozen=True, kw_only=True)
class ComparedMethod:
    """One method's results."""

    name: str
    accuracy: float
    """On the test split."""
    mean_per_class_accuracy: float
    num_images: int
    chosen: str
    """The value that tuning chose on the val split."""
    val_accuracy: float
    """Mean per-class accuracy on the val split, by which it was chosen."""
    train_s: float
    """Seconds of the chosen training run."""

    @property
    def margin(self) -> float:
        """Half of the 95 % interval of the accuracy (normal approximation)."""
        return 1.96 * math.sqrt(self.accuracy * (1 - self.accuracy) / self.num_images)


def compare(pictures: Path, out: Path, config: TrainConfig, say: Say) -> list[ComparedMethod]:
    """Train and evaluate all four; methods already done in `out` with the same settings are not repeated.

    Args:
        pictures: a folder with train, val and test above class folders.
        out: folder for the runs.
        config: the settings of every network, except for the learning rate.
        say: told about progress.
    """
    index = scan_source(pictures)
    side = round(math.sqrt(index.of_split("train").sizes.prod(axis=1).mean()))
    squares = _squash(pictures, out / f"squares-{side}", index, side)
    ways: list[tuple[str, Path, Components]] = [
        ("unsquare, native shapes", pictures, Components()),
        (f"squashed to {side} x {side}", squares, Components()),
        ("zero-padded random batches", pictures, NAIVE),
    ]
    rows = []
    for name, source, components in ways:
        say(f"Training: {name}.")
        rows.append(_tune(name, source, out, config, components, say))
    say("Training: width and height alone.")
    return [*rows, _by_shape(index)]


def _tune(name: str, source: Path, out: Path, config: TrainConfig, components: Components, say: Say) -> ComparedMethod:
    """Train with each learning rate; the results of the one that is best on the val split."""
    tried = []
    for rate in LEARNING_RATES:
        settings = replace(config, learning_rate=replace(config.learning_rate, lr=rate))
        folder = out / f"{'-'.join(name.replace(',', '').split())}-lr{rate:g}"
        best_val, final = _run(source, folder, settings, components)
        say(f"  learning rate {rate:g}: val {best_val:.3f}")
        tried.append((best_val, rate, final))
    best_val, rate, final = max(tried, key=lambda each: each[0])
    return ComparedMethod(
        name=name,
        accuracy=final["accuracy"],
        mean_per_class_accuracy=final["mean_per_class_accuracy"],
        num_images=final["num_images"],
        chosen=f"learning rate {rate:g}",
        val_accuracy=best_val,
        train_s=final["time_s"],
    )


def _run(source: Path, folder: Path, config: TrainConfig, components: Components) -> tuple[float, dict[str, Any]]:
    """Best val score and final row of a run, which is trained unless it exists, complete and with these settings."""
    run = RunFolder(folder)
    stamp = folder.with_suffix(".json")
    wanted = json.dumps(asdict(config), default=str, sort_keys=True)
    rows = [row.to_dict() for row in run.read_metrics().rows]
    if not (stamp.is_file() and stamp.read_text() == wanted and rows and rows[-1]["kind"] == "final"):
        shutil.rmtree(folder, ignore_errors=True)
        train(source, folder, config, quiet=True, components=components)
        write_text(stamp, wanted)
        rows = [row.to_dict() for row in run.read_metrics().rows]
    best = max(row["mean_per_class_accuracy"] for row in rows if row["kind"] == "eval")
    return best, rows[-1]


def _squash(pictures: Path, out: Path, index: ShapeIndex, side: int) -> Path:
    """The same pictures as squares of `side` pixels, stored losslessly."""
    if (out / "done").is_file():
        return out
    for row, key in enumerate(index.keys):
        target = (out / key).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(index.path(row)) as image:
            image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(target)
    write_text(out / "done", "")
    return out


def _by_shape(index: ShapeIndex) -> ComparedMethod:
    """Nearest neighbors on height and width, their number chosen on a part of the train split."""
    train = index.of_split("train")
    judged = {split: shape_only(train, index.of_split(split)) for split in ("val", "test")}
    val, test = judged["val"], judged["test"]
    assert val is not None  # there are pictures of several classes in each split
    assert test is not None
    return ComparedMethod(
        name="width and height alone",
        accuracy=test.accuracy,
        mean_per_class_accuracy=test.mean_per_class_accuracy,
        num_images=test.num_asked,
        chosen=f"{test.neighbors} neighbors",
        val_accuracy=val.mean_per_class_accuracy,
        train_s=0.0,
    )
