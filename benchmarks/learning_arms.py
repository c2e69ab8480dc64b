"""The arms of the learning study: the same pictures, given to the same network in different ways."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unsquare.demo.materials import MaterialsConfig, make_materials
from unsquare.demo.naive import NAIVE, NaiveClassifier
from unsquare.files import replacing
from unsquare.index.scan import scan_source
from unsquare.index.table import ShapeIndex
from unsquare.index.text import strings
from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.epoch import EpochPlan, Step, micro_batches_of
from unsquare.plan.planner import plan_epoch
from unsquare.training.components import DEFAULT, Components

TUNED_FRACTION = 0.25
"""Part of the training pictures that learning rates are chosen on."""
DEMOS = {
    "demo": MaterialsConfig(),
    "demo-large": MaterialsConfig(num_train=120, num_val=60, num_test=120, mean_pixels=2_000_000),
}
"""Sets that are made; what tells the classes of the demo apart is 2 to 6 pixels wide in both."""
GRAY = (128, 128, 128)


@dataclass(frozen=True)
class Arm:
    """One way to give pictures to a network."""

    name: str
    settings: dict[str, Any]
    """Settings of `unsquare train` besides those that all arms share."""
    components: Components = DEFAULT
    square: Callable[[Image.Image], Image.Image] | None = None
    """Makes each picture a square; None takes it as it is."""
    side: int = 0


def arms_of(side: int) -> dict[str, Arm]:
    """All arms; `side` gives squares the mean number of pixels of the training pictures."""
    off = {"progressive": "off"}
    squares = {f"squash-{each}": _squash(each) for each in dict.fromkeys((160, 224, 320, side))}
    boxes = {f"letterbox-{each}": _letterbox(each) for each in dict.fromkeys((224, side))}
    return {
        "ours": Arm("ours", {}),
        "native": Arm("native", off),
        "naive": Arm("naive", off, Components(classifier=NaiveClassifier)),
        "random": Arm("random", off, NAIVE),
        "alone": Arm("alone", off, Components(plan=plan_alone)),
        **squares,
        **boxes,
    }


def _squash(side: int) -> Arm:
    def square(image: Image.Image) -> Image.Image:
        return image.resize((side, side), Image.Resampling.BICUBIC)

    return Arm(f"squash-{side}", {"progressive": "off"}, square=square, side=side)


def _letterbox(side: int) -> Arm:
    def square(image: Image.Image) -> Image.Image:
        factor = side / max(image.size)
        inner = image.resize([max(1, round(length * factor)) for length in image.size], Image.Resampling.BICUBIC)
        out = Image.new("RGB", (side, side), GRAY)
        out.paste(inner, ((side - inner.width) // 2, (side - inner.height) // 2))
        return out

    return Arm(f"letterbox-{side}", {"progressive": "off"}, square=square, side=side)


def plan_alone(sizes: Any, config: PlanConfig, limits: Limits, epoch: int, **options: Any) -> EpochPlan:
    """The steps of `plan_epoch` with every image in a micro-batch of its own."""
    plan = plan_epoch(sizes, config, limits, epoch, **options)

    def alone(step: Step) -> Step:
        images = [each.images[number : number + 1] for each in step.micro_batches for number in range(len(each.images))]
        return Step((tuple(micro_batches_of(plan.sizes, images)),))

    return replace(plan, steps=tuple(alone(step) for step in plan.steps))


def pictures_of(name: str, data: Path, work: Path) -> Path:
    """The folder of a set's pictures; those of the demo are made."""
    return make_materials(work / name, DEMOS[name]) if name in DEMOS else data / name


def squared(arm: Arm, pictures: Path, work: Path) -> Path:
    """The folder of the pictures as the arm shows them: made once, stored losslessly."""
    if arm.square is None:
        return pictures
    out = work / f"{pictures.name}-{arm.name}"
    if (out / "done").is_file():
        return out
    index = scan_source(pictures)
    for row, key in enumerate(index.keys):
        target = (out / key).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(index.path(row)) as image:
            arm.square(image.convert("RGB")).save(target)
    (out / "done").touch()
    return out


def mean_side(pictures: Path) -> int:
    """The side of squares with the mean number of pixels of the training pictures."""
    return round(math.sqrt(scan_source(pictures).of_split("train").sizes.prod(axis=1).mean()))


def tuning_index(pictures: Path, groups: dict[str, str], out: Path) -> Path:
    """An index of the training pictures alone, a quarter of which is its val split, groups (senders) kept together."""
    if not out.is_file():
        index = scan_source(pictures).of_split("train")
        with replacing(out) as partial:
            replace(index, splits=_tuning_splits(index, groups)).write(partial)
    return out


def _tuning_splits(index: ShapeIndex, groups: dict[str, str]) -> Any:
    """Whole groups go to val in a random order, until a class would have more than its part there."""
    stems = [Path(key).stem for key in index.keys]
    group = np.array([groups.get(stem, stem) for stem in stems])
    wanted = np.bincount(index.labels) * TUNED_FRACTION
    held = np.zeros(len(wanted))
    chosen: set[str] = set()
    for name in np.random.default_rng(0).permutation(np.unique(group)):
        counts = np.bincount(index.labels[group == name], minlength=len(wanted))
        if (held + counts <= wanted + 1).all():
            held += counts
            chosen.add(str(name))
    return strings(["val" if name in chosen else "train" for name in group.tolist()])


def groups_of(pictures: Path) -> dict[str, str]:
    """The group of each picture by its file's stem, where the set says which pictures belong together."""
    path = pictures / "manifest.csv"
    if not path.is_file():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    name = next((column for column in rows[0] if column in ("group", "sender")), None)
    file_column = next((column for column in rows[0] if column in ("file", "name", "path")), None)
    if name is None or file_column is None:
        return {}
    return {Path(row[file_column]).stem: row[name] for row in rows}
