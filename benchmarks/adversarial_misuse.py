"""Calls the library and the command line wrongly, some thirteen hundred times, and counts the outcomes.

Each callable of `unsquare.__all__` is called with one argument replaced by each of a list of wrong values of the
argument's kind. Then come commands with wrong flags, values and files. A wrong call is `refused` if it raises an
`UnsquareError`, or exits with 1 or 2 without a traceback; `raw` if anything else is raised; `accepted` if nothing is;
`hung` if it takes more than a minute. Calls that should work are made as well, and must work. A new file or folder
afterwards counts as `left`.

    python benchmarks/adversarial_misuse.py --json misuse.json --show
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import shutil
import signal
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("OMP_NUM_THREADS", "2")

import unsquare
from unsquare.cli import main as command
from unsquare.exact import make_exact

# isort: split
import torch
from torch.utils.data import DataLoader, TensorDataset

SECONDS = 60
FAST = ("--backbone", "test_resnet", "--epochs", "1", "--budget-pixels", "60000", "--min-side", "33")
NAN, INF = float("nan"), float("inf")

WHOLE = {
    "a text": "many",
    "a number as text": "3",
    "an empty text": "",
    "True": True,
    "a fraction": 1.5,
    "nan": NAN,
    "inf": INF,
    "huge": 10**30,
    "negative": -1,
    "a list": [1],
    "an object": object(),
}
NUMBER = {"a text": "x", "nan": NAN, "inf": INF, "-inf": -INF, "True": True, "a list": [0.5], "huge": 10**400}
CHOICE = {"unknown": "x", "a number": 1, "empty": "", "a list": ["x"], "an array": np.zeros(3)}
SWITCH = {"a text": "no", "a number": 2, "None": None}
PATHS = {
    "too long": "a" * 300,
    "None": None,
    "a number": 3,
    "empty": "",
    "a null byte": "a\0b",
    "a list": ["a"],
    "missing": "nowhere/at/all",
}
NOT_THAT = {"a dict": {}, "a text": "x", "a number": 3, "the class": dict, "a list": [1]}
SHAPES = {
    "None": None,
    "a text": "x",
    "texts": [["a", "b"]],
    "empty": [],
    "three sides": [[1, 2, 3]],
    "one axis": [3, 4, 5],
    "fractions": [[1.5, 2.0]],
    "nan": [[NAN, 2.0]],
    "zeros": [[0, 5]],
    "negative": [[-3, 5]],
    "huge": [[1 << 33, 1 << 33]],
    "infinite": [[INF, 2.0]],
    "ragged": [[1, 2], [3]],
    "booleans": [[True, True]],
    "a generator": "GENERATOR",
    "an object": object(),
}


@dataclass
class Case:
    """One call."""

    name: str
    run: Callable[[], Any]
    wrong: bool = True


class Hung(BaseException):
    """The call takes too long."""


class Stage:
    """A folder with pictures, a small run, and files that are wrong, each in its own manner."""

    def __init__(self, root: Path) -> None:
        from unsquare.demo.materials import MaterialsConfig, make_materials

        self.root = root
        self.pictures = make_materials(
            root / "pictures", MaterialsConfig(num_train=24, num_val=6, num_test=6, mean_pixels=3_000)
        )
        self.picture = next((self.pictures / "test").rglob("*.jpg"))
        self.run_folder = root / "run"
        self.fast = {"backbone": "test_resnet", "epochs": 1, "budget_pixels": 60_000, "min_side": 33}
        self.index = unsquare.scan_source(self.pictures)
        (root / "file").write_text("x")
        (root / "folder").mkdir()
        (root / "broken.toml").write_text("[[[")
        (root / "unknown.toml").write_text("[optimizer]\nepoch = 3\n")
        (root / "table.toml").write_text("[optimiser]\nepochs = 3\n")
        (root / "types.toml").write_text("[optimizer]\nepochs = 'many'\n")
        (root / "flat.toml").write_text("epochs = 3\n")
        (root / "range.toml").write_text("[learning_rate]\nlr = nan\n")
        (root / "dates.toml").write_text("[model]\nweights = 1979-05-27\n")
        (root / "latin.toml").write_bytes(b"[model]\nbackbone = '\xe9'\n")
        (root / "zeros.toml").write_bytes(b"\0\0\0\0")
        self._weights()

    def train(self) -> None:
        """Make the run."""
        assert quietly(lambda: command(["train", str(self.pictures), "--out", str(self.run_folder), *FAST])) == 0

    def _weights(self) -> None:
        from safetensors.torch import save_file

        from unsquare.torchvision_guard import import_timm

        good = import_timm().create_model("test_resnet", num_classes=0).state_dict()
        good = {name: value.contiguous() for name, value in good.items()}
        first = next(iter(good))
        save_file(good, self.root / "good.safetensors")
        save_file(good | {first: torch.zeros(3, 3)}, self.root / "shape.safetensors")
        save_file({f"module.{name}": value for name, value in good.items()}, self.root / "module.safetensors")
        save_file({f"layers.{n}": value for n, value in enumerate(good.values())}, self.root / "names.safetensors")
        save_file({first: good[first]}, self.root / "few.safetensors")
        save_file(good | {first: torch.zeros(good[first].shape, dtype=torch.int64)}, self.root / "whole.safetensors")
        content = (self.root / "good.safetensors").read_bytes()
        (self.root / "cut.safetensors").write_bytes(content[:-100])
        (self.root / "header.safetensors").write_bytes(content[:20])
        (self.root / "empty.safetensors").write_bytes(b"")
        (self.root / "text.safetensors").write_text("these are no weights")
        torch.save(good, self.root / "pickled.safetensors")
        torch.save(good, self.root / "weights.pth")

    def fresh(self) -> Path:
        """A path that does not exist."""
        return self.root / "new" / "out"


def quietly(run: Callable[[], Any]) -> Any:
    """Its result; its output is discarded."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return run()


def each(
    name: str, function: Callable[..., Any], good: dict[str, Any], wrong: dict[str, dict[str, Any]]
) -> Iterator[Case]:
    """The good call, and one for each wrong value of each argument."""
    yield Case(f"{name}: good", lambda: function(**good), wrong=False)
    for argument, values in wrong.items():
        for what, value in values.items():

            def run(argument: str = argument, value: Any = value) -> Any:
                given = iter([(3, 4)]) if isinstance(value, str) and value == "GENERATOR" else value
                return function(**{**good, argument: given})

            yield Case(f"{name}({argument}={what})", run)


def without(values: dict[str, Any], *names: str) -> dict[str, Any]:
    """A list of wrong values without those that are right here."""
    return {name: value for name, value in values.items() if name not in names}


def settings_cases(stage: Stage) -> Iterator[Case]:
    """Every setting, by the classes that are public and by `train`'s keywords."""
    zero = {"zero": 0}
    yield from each(
        "Geometry",
        unsquare.Geometry,
        {},
        {
            "scale": {**NUMBER, "zero": 0, "negative": -1, "large": 1e6, "None": None},
            "max_pixels": {**WHOLE, **zero},
            "min_side": {**WHOLE, "None": None},
            "crop_fraction": {**NUMBER, "zero": 0, "above 1": 1.5, "None": None},
        },
    )
    yield from each(
        "PlanConfig",
        unsquare.PlanConfig,
        {},
        {
            "steps": {**CHOICE, "None": None},
            "step_images": {**WHOLE, **zero},
            "buckets": {**WHOLE, **zero},
            "boundaries": CHOICE,
            "canvases": {**WHOLE, **zero},
            "multiple": {**WHOLE, **zero, "None": None},
            "sampling": CHOICE,
            "seed": {**WHOLE, "None": None, "2^70": 1 << 70},
        },
    )
    yield from each(
        "Limits",
        unsquare.Limits,
        {},
        {
            "budget_pixels": {**WHOLE, **zero, "None": None},
            "launch_pixels": {**WHOLE, "None": None},
            "pixels_per_s": {**WHOLE, **zero},
            "world_size": {**WHOLE, **zero},
            "fallbacks": {"None": None, "a number": 3, "texts": ("x",), "numbers": (1, 2)},
        },
    )
    parts = ("geometry", "augment", "plan", "model", "optimizer", "learning_rate", "device", "saving")
    yield from each("TrainConfig", unsquare.TrainConfig, {}, {part: {**NOT_THAT, "None": None} for part in parts})


def train_cases(stage: Stage) -> Iterator[Case]:
    """`train` with one wrong setting; a missing source shows that a setting was accepted."""
    nowhere = stage.root / "nowhere"

    def setting(name: str, what: str, value: Any, wrong: bool = True) -> Case:
        def run() -> None:
            try:
                unsquare.train(nowhere, stage.fresh(), quiet=True, **{name: value})
            except unsquare.UnsquareError as error:
                if "nowhere" not in str(error):
                    raise

        return Case(f"train({name}={what})", run, wrong)

    table: dict[str, dict[str, Any]] = {
        "epochs": {**WHOLE, "zero": 0, "1e30": 1e30},
        "lr": {**NUMBER, "zero": 0, "negative": -1},
        "recipe": CHOICE,
        "freeze": {"a text": "all", "a number": 3, "negative": "-1", "a list": ["2"]},
        "head_lr_factor": {**NUMBER, "zero": 0},
        "layer_decay": {**NUMBER, "zero": 0, "above 1": 1.5},
        "progressive": {"a text": "on", "a number": 3, "no size": "full:0", "not full": "50kP:1", "None": None},
        "min_images": {**WHOLE, "zero": 0},
        "min_scale": {**NUMBER, "zero": 0, "above 1": 1.5},
        "lr_policy": CHOICE,
        "warmup_epochs": {**NUMBER, "negative": -1},
        "final_lr_fraction": {**NUMBER, "above 1": 2},
        "weight_decay": {**NUMBER, "negative": -1},
        "clip_norm": {**NUMBER, "negative": -1},
        "label_smoothing": {**NUMBER, "one": 1},
        "memory": {
            **dict.fromkeys(("1e400GiB", "nan%", "-1GiB", "0%", "200%", "many", "", "inf", "0", "1 GiBs", "%")),
            "a number": 3,
            "a list": [1],
        },
        "accelerator": CHOICE,
        "precision": CHOICE,
        "strategy": CHOICE,
        "max_strategy": CHOICE,
        "reuse_probes": SWITCH,
        "workers": {**WHOLE, "zero": 0, "a million": 10**6},
        "budget_pixels": {**WHOLE, "zero": 0},
        "backbone": {"None": None, "a number": 3, "a list": ["resnet18"]},
        "pretrained": CHOICE,
        "pool": CHOICE,
        "norm": CHOICE,
        "pyramid": {"empty": (), "zero": (0,), "a text": "124", "a number": 3, "a million": (10**6,), "None": None},
        "pyramid_mode": CHOICE,
        "dropout": {**NUMBER, "one": 1},
        "drop_path": {**NUMBER, "one": 1},
        "optimizer": {"None": None, "a number": 3},
        "flip_horizontal": SWITCH,
        "turns": SWITCH,
        "color_jitter": {**NUMBER, "one": 1},
        "validation_fraction": {**NUMBER, "negative": -0.1, "one": 1},
        "folds": {**WHOLE, "one": 1},
        "fold": {**WHOLE, "zero": 0, "one of none": 1},
        "oriented": SWITCH,
        "auto_augment": CHOICE,
        "auto_augment_magnitude": {**WHOLE, "above 30": 31},
        "blur": {**NUMBER, "above 1": 1.5},
        "erasing": {**NUMBER, "above 1": 1.5},
        "mixup": {**NUMBER, "negative": -1},
        "cutmix": {**NUMBER, "negative": -1},
        "transform": {"a text": "noisy", "a number": 3, "half a name": "changes:", "nowhere": "no_module:noisy"},
        "evaluate_every": {**WHOLE, "zero": 0},
        "patience": {**WHOLE, "zero": 0},
        "thaw_after": {"zero": 0, "a text": "one", "half": 0.5},
        "ema": {"zero": 0, "one": 1, "a text": "on"},
        "class_weights": CHOICE,
        "focal": {**NUMBER, "negative": -1},
        "from_run": {"nowhere": "no/such/run", "a number": 3},
        "checkpoint_every_s": {**NUMBER, "negative": -1},
        "checkpoint_every_steps": WHOLE,
        "skip_bad": SWITCH,
        "weights": {"a number": 3, "a list": ["a"], "empty": ""},
        "epoch": {"a typo": 3},
    }
    for name, values in table.items():
        for what, value in values.items():
            yield setting(name, what, what if value is None and name == "memory" else value)
    yield setting("epochs", "np.int64(3)", np.int64(3), wrong=False)
    yield setting("lr", "np.float32(0.1)", np.float32(0.1), wrong=False)
    yield setting("lr", "1", 1, wrong=False)
    yield setting("max_pixels", "16e6", 16e6, wrong=False)
    yield setting("pyramid", "[1, 2]", [1, 2], wrong=False)
    yield setting("skip_bad", "np.bool_(True)", np.bool_(True), wrong=False)


def start_cases(stage: Stage) -> Iterator[Case]:
    """`train` on real pictures, wrong in what shows only when training starts."""

    def train(**settings: Any) -> Path:
        return unsquare.train(stage.pictures, stage.fresh(), quiet=True, **{**stage.fast, **settings})

    files = ("shape", "module", "names", "few", "whole", "cut", "header", "empty", "text", "pickled", "missing")
    for name in files:
        yield Case(f"train(weights={name})", lambda name=name: train(weights=str(stage.root / f"{name}.safetensors")))
    yield Case("train(weights=weights.pth)", lambda: train(weights=stage.root / "weights.pth"))
    yield Case("train(weights=folder)", lambda: train(weights=stage.root / "folder"))
    for name in ("adahessian", "kron", "x_adamw", "fusedadam", "bnbadamw", "nothing", "adamw2", ""):
        yield Case(f"train(optimizer={name})", lambda name=name: train(optimizer=name))
    for name in ("resnet19", "", "vit_tiny_patch16_224", "mobilevit_xxs", "hf-hub:nobody/nothing", "resnet18.nothing"):
        yield Case(f"train(backbone={name})", lambda name=name: train(backbone=name))
    for what, source in {**PATHS, "a file": stage.root / "file", "no pictures": stage.root / "folder"}.items():
        yield Case(f"train(source={what})", lambda source=source: unsquare.train(source, stage.fresh(), **stage.fast))
    outs = {**without(PATHS, "missing"), "below a file": stage.root / "file" / "out", "a file": stage.root / "file"}
    for what, out in outs.items():
        yield Case(f"train(out={what})", lambda out=out: unsquare.train(stage.pictures, out, quiet=True, **stage.fast))
    for what, config in NOT_THAT.items():
        yield Case(f"train(config={what})", lambda config=config: unsquare.train(stage.pictures, stage.fresh(), config))


def run_cases(stage: Stage) -> Iterator[Case]:
    """Functions that take a run, a source or a subject."""
    runs = {**PATHS, "a file": stage.root / "file", "no run": stage.root / "folder"}
    yield from each(
        "scan_source",
        unsquare.scan_source,
        {"source": stage.pictures},
        {
            "source": {**PATHS, "a file": stage.root / "file"},
            "previous": NOT_THAT,
            "workers": {**WHOLE, "zero": 0},
            "progress": {"a text": "x", "a number": 3},
        },
    )
    for name in ("resume", "write_report"):
        for what, value in runs.items():
            yield Case(f"{name}(run={what})", lambda name=name, value=value: getattr(unsquare, name)(value))
    yield Case("write_report: good", lambda: unsquare.write_report(stage.run_folder), wrong=False)
    subjects = {**PATHS, "a typo": "resnet19", "no run": stage.root / "folder", "a module": torch.nn.ReLU()}
    for what, value in subjects.items():
        yield Case(f"profile(subject={what})", lambda value=value: unsquare.profile(value))
    yield from list(
        each(
            "profile",
            lambda **given: unsquare.profile("test_resnet", **given),
            {},
            {
                "canvas": {
                    "a text": "x",
                    "zeros": (0, 0),
                    "negative": (-1, 5),
                    "one": (5,),
                    "fractions": (1.5, 2),
                    "huge": (1 << 40, 1),
                },
                "num_classes": {**WHOLE, "zero": 0},
                "norm": CHOICE,
                "memory": {"many": "many", "a number": 3},
                "memoryy": {"a typo": "4GiB"},
                "say": {"a text": "x"},
            },
        )
    )[1:]


def plan_cases(stage: Stage) -> Iterator[Case]:
    """The planners."""
    sizes = np.array([[30, 40], [50, 20], [33, 34]] * 8)
    good = {"sizes": sizes, "config": unsquare.PlanConfig(), "limits": unsquare.Limits(budget_pixels=8000), "epoch": 0}
    plan = {
        "sizes": SHAPES,
        "config": {**NOT_THAT, "None": None, "a Limits": unsquare.Limits()},
        "limits": {**NOT_THAT, "None": None},
        "epoch": {**without(WHOLE), "None": None},
        "turns": SWITCH,
        "weights": {"a text": "x", "negative": [-1] * 24, "few": [1, 2], "nan": [NAN] * 24, "zeros": [0] * 24},
        "buckets": NOT_THAT,
    }
    yield from each("plan_epoch", lambda **given: list(unsquare.plan_epoch(**given).steps), good, plan)
    stream = {"shapes": sizes.tolist(), "config": unsquare.PlanConfig(step_images=4), "limits": unsquare.Limits()}
    for what, value in without(SHAPES, "a generator", "empty", "booleans").items():
        yield Case(
            f"plan_stream(shapes={what})", lambda value=value: list(unsquare.plan_stream(**{**stream, "shapes": value}))
        )
    yield from each(
        "plan_stream",
        lambda **given: list(unsquare.plan_stream(**given)),
        stream,
        {
            "config": {**NOT_THAT, "None": None},
            "limits": {**NOT_THAT, "None": None},
            "epoch": WHOLE,
            "buffer_images": {**WHOLE, "zero": 0, "None": None},
        },
    )
    geometry = unsquare.Geometry(max_pixels=100, min_side=3)
    for method in ("resize", "crop"):
        for what, value in without(SHAPES, "empty", "a generator").items():
            yield Case(
                f"Geometry.{method}({what})", lambda method=method, value=value: getattr(geometry, method)(value)
            )
    yield Case("Geometry.resize(a tensor)", lambda: geometry.resize(torch.tensor([[30, 40]])), wrong=False)
    yield Case(
        "plan_epoch(a tensor)", lambda: unsquare.plan_epoch(**{**good, "sizes": torch.tensor(sizes)}), wrong=False
    )
    yield Case("plan_epoch(np.int64 epoch)", lambda: unsquare.plan_epoch(**{**good, "epoch": np.int64(1)}), wrong=False)
    yield Case("plan_epoch(whole floats)", lambda: unsquare.plan_epoch(**{**good, "sizes": sizes * 1.0}), wrong=False)


def loader_cases(stage: Stage) -> Iterator[Case]:
    """Samplers, loaders, collate functions, the index."""
    sizes = np.array([[30, 40], [50, 20], [33, 34]] * 8)

    def sampler(**given: Any) -> Any:
        return list(unsquare.StepSampler(**given))

    yield from each(
        "StepSampler",
        sampler,
        {"sizes": sizes, "limits": unsquare.Limits(budget_pixels=8000)},
        {
            "sizes": SHAPES,
            "config": NOT_THAT,
            "limits": {**NOT_THAT, "of other ranks": unsquare.Limits(world_size=3)},
            "turns": SWITCH,
            "weights": {"a text": "x", "few": [1.0], "negative": [-1] * 24, "nan": [NAN] * 24},
            "rank": {"alone": 0, "a text": "x"},
            "world_size": {"alone": 2, "a text": "x"},
        },
    )
    for what, (rank, world_size) in {
        "equal": (2, 2),
        "negative": (-1, 2),
        "texts": ("0", "2"),
        "fractions": (0.5, 1.5),
    }.items():
        yield Case(
            f"StepSampler(rank and world_size {what})",
            lambda rank=rank, world_size=world_size: list(
                unsquare.StepSampler(sizes, rank=rank, world_size=world_size)
            ),
        )
    state = unsquare.StepSampler(sizes).state_dict()
    states = {
        "None": None,
        "a list": [],
        "empty": {},
        "a version": state | {"version": 99},
        "a text": "x",
        "a negative epoch": state | {"epoch": -1},
        "steps": state | {"steps_done": 10**9},
        "texts": state | {"epoch": "x"},
        "settings": state | {"settings": None},
        "numbers": state | {"settings": 3},
    }
    for what, value in states.items():
        yield Case(
            f"StepSampler.load_state_dict({what})",
            lambda value=value: unsquare.StepSampler(sizes).load_state_dict(value),
        )
    for what, value in {**WHOLE, "None": None}.items():
        yield Case(f"StepSampler.set_epoch({what})", lambda value=value: unsquare.StepSampler(sizes).set_epoch(value))
    for what, value in {**NOT_THAT, "None": None, "a plain loader": DataLoader(TensorDataset(torch.zeros(3)))}.items():
        yield Case(f"StepLoader(loader={what})", lambda value=value: unsquare.StepLoader(value))
    yield from each(
        "PadCollate",
        unsquare.PadCollate,
        {},
        {
            "multiple": {**WHOLE, "zero": 0, "None": None},
            "canvases": {
                "a text": "x",
                "a number": 3,
                "numbers": [1, 2],
                "three": [(1, 2, 3)],
                "zeros": [(0, 5)],
                "negative": [(-1, 5)],
                "texts": [("a", "b")],
                "fractions": [(1.5, 2)],
                "empty": [],
            },
        },
    )
    picture = torch.zeros(3, 4, 5)
    from PIL import Image

    batches = {
        "None": None,
        "empty": [],
        "a tensor": torch.zeros(2, 3, 4, 5),
        "no labels": [picture, picture],
        "texts": ["ab"],
        "PIL images": [(Image.new("RGB", (4, 5)), 0)],
        "arrays": [(np.zeros((4, 5, 3), np.uint8), 0)],
        "two axes": [(torch.zeros(4, 5), 0)],
        "four axes": [(torch.zeros(1, 3, 4, 5), 0)],
        "an empty picture": [(torch.zeros(3, 0, 5), 0)],
        "uneven channels": [(picture, 0), (torch.zeros(1, 4, 5), 0)],
        "mixed types": [(picture, 0), (picture.to(torch.uint8), 0)],
        "labels of None": [(picture, None)],
        "uneven labels": [(picture, [1]), (picture, [1, 2])],
        "label kinds": [(picture, 1), (picture, "a")],
        "triples": [(picture, 0, 1)],
    }
    for what, value in batches.items():
        yield Case(f"PadCollate()({what})", lambda value=value: unsquare.PadCollate()(value))
    yield Case("PadCollate()(two pictures)", lambda: unsquare.PadCollate()([(picture, 0), (picture, 1)]), wrong=False)
    yield Case("PadCollate()(a generator)", lambda: unsquare.PadCollate()(iter([(picture, 0)])), wrong=False)
    yield Case("PadCollate(multiple=np.int64(8))", lambda: unsquare.PadCollate(multiple=np.int64(8)), wrong=False)
    yield from each(
        "BatchLoader",
        lambda **given: unsquare.BatchLoader(**given).close(),
        {"index": stage.index, "geometry": unsquare.Geometry()},
        {
            "index": {**NOT_THAT, "None": None},
            "geometry": {**NOT_THAT, "None": None},
            "augment": NOT_THAT,
            "workers": {**WHOLE, "zero": 0},
        },
    )

    def load(plan: Any, batches: Any) -> None:
        loader = unsquare.BatchLoader(stage.index, unsquare.Geometry())
        try:
            list(loader.load(plan, batches))
        finally:
            loader.close()

    plan = unsquare.plan_epoch(stage.index.sizes, unsquare.PlanConfig(), unsquare.Limits(), 0)
    yield Case("BatchLoader.load: good", lambda: load(plan, iter(plan.micro_batches)), wrong=False)
    for what, value in {**NOT_THAT, "None": None}.items():
        yield Case(f"BatchLoader.load(plan={what})", lambda value=value: load(value, list(plan.micro_batches)))
    for what, value in {**without(NOT_THAT, "a dict"), "None": None}.items():
        yield Case(f"BatchLoader.load(micro_batches={what})", lambda value=value: load(plan, value))
    columns = ("keys", "sizes", "labels", "splits", "num_bytes", "modified_ns")
    good = {name: getattr(stage.index, name) for name in ("root", "classes", *columns)}
    yield from each(
        "ShapeIndex",
        unsquare.ShapeIndex,
        good,
        {
            **{name: {"None": None, "a text": "x", "short": good[name][:-1], "a number": 3} for name in columns},
            "classes": {"None": None, "a number": 3},
            "root": {"None": None, "a number": 3},
            "problems": {"None": None, "texts": ("x",)},
        },
    )
    for what, value in {**PATHS, "a file": stage.root / "file", "a folder": stage.root / "folder"}.items():
        yield Case(f"ShapeIndex.read({what})", lambda value=value: unsquare.ShapeIndex.read(value))
    for what, value in without(PATHS, "missing").items():
        yield Case(f"ShapeIndex.write({what})", lambda value=value: stage.index.write(value))
    for what, value in {"None": None, "a number": 3}.items():
        yield Case(f"ShapeIndex.of_split({what})", lambda value=value: stage.index.of_split(value))


def network_cases(stage: Stage) -> Iterator[Case]:
    """Exactness: networks, sizes, pools."""
    stock = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU())
    exact = make_exact(stock)
    for name in ("make_exact", "undo_exact", "verify_exact"):
        for what, value in {
            **NOT_THAT,
            "None": None,
            "the class itself": torch.nn.ReLU,
            "a tensor": torch.zeros(3),
        }.items():
            yield Case(f"{name}(model={what})", lambda name=name, value=value: getattr(unsquare, name)(value))
    yield Case("make_exact: good", lambda: make_exact(stock), wrong=False)
    yield Case("undo_exact(a stock network)", lambda: unsquare.undo_exact(stock), wrong=False)
    good = {"model": exact, "sizes": torch.tensor([[5, 6]])}
    sizes = {
        "None": None,
        "a text": "x",
        "texts": [["a", "b"]],
        "three": [[1, 2, 3]],
        "fractions": [[1.5, 2.0]],
        "zeros": [[0, 5]],
        "negative": [[-1, 5]],
        "ragged": [[1, 2], [3]],
        "one axis": [3, 4],
    }
    yield from each(
        "output_regions",
        unsquare.output_regions,
        good,
        {
            "model": {**NOT_THAT, "None": None, "stock": stock},
            "sizes": sizes,
            "method": {"None": None, "unknown": "x", "a number": 3, "missing": "forward_features"},
        },
    )
    pixels = torch.zeros(1, 3, 8, 8)
    for what, value in without(sizes, "None").items():
        yield Case(f"exact model(sizes={what})", lambda value=value: exact(pixels, value))
    for what, value in {
        "None": None,
        "an array": np.zeros((1, 3, 8, 8)),
        "three axes": torch.zeros(3, 8, 8),
        "a list": [1],
    }.items():
        yield Case(f"exact model(pixels={what})", lambda value=value: exact(value, torch.tensor([[5, 6]])))
    yield Case("exact model: a list of sizes", lambda: exact(pixels, [[5, 6]]), wrong=False)
    yield from list(
        each(
            "verify_exact",
            lambda **given: unsquare.verify_exact(stock, **given),
            {},
            {
                "sizes": {
                    "a text": "x",
                    "one": [(20, 30)],
                    "zeros": [(0, 3), (20, 30)],
                    "fractions": [(1.5, 20), (20, 30)],
                    "three": [(1, 2, 3), (4, 5, 6)],
                    "empty": [],
                    "numbers": [3, 4],
                    "negative": [(-3, 20), (20, 30)],
                },
                "num_images": {**WHOLE, "one": 1, "None": None},
                "max_side": {**WHOLE, "small": 3, "None": None},
                "seed": {**WHOLE, "None": None},
                "dtype": {**CHOICE, "a dtype": torch.float64, "None": None},
                "tolerance": {**NUMBER, "negative": -1},
                "training": SWITCH,
            },
        )
    )[1:]
    yield from each("RegionPool", unsquare.RegionPool, {}, {"kind": {**CHOICE, "None": None}})
    yield from each(
        "SpatialPyramidPool",
        unsquare.SpatialPyramidPool,
        {},
        {
            "levels": {
                "empty": (),
                "zero": (0,),
                "negative": (-1,),
                "a text": "124",
                "a number": 3,
                "a million": (10**6,),
                "fractions": (1.5,),
                "None": None,
                "True": (True,),
            },
            "mode": {**CHOICE, "None": None},
        },
    )
    features = torch.rand(2, 3, 8, 8)
    regions = {
        "None": None,
        "a list": [[1, 2], [3, 4]],
        "three": torch.ones(2, 3, dtype=torch.int64),
        "few": torch.ones(1, 2, dtype=torch.int64),
        "fractions": torch.full((2, 2), 1.5),
        "zeros": torch.zeros(2, 2, dtype=torch.int64),
        "large": torch.full((2, 2), 99),
    }
    for kind in ("avg", "gem"):
        pool = unsquare.RegionPool(kind)
        for what, value in regions.items():
            yield Case(f"RegionPool({kind})(regions={what})", lambda pool=pool, value=value: pool(features, value))
    pool = unsquare.SpatialPyramidPool((1, 2))
    for what, value in {"three axes": torch.rand(3, 8, 8), "an array": np.zeros((2, 3, 8, 8)), "None": None}.items():
        yield Case(
            f"SpatialPyramidPool()(features={what})", lambda value=value: pool(value, torch.tensor([[1, 2], [3, 4]]))
        )


def predict_cases(stage: Stage) -> Iterator[Case]:
    """Predictors."""
    runs = {**PATHS, "a file": stage.root / "file", "no run": stage.root / "folder"}
    for what, value in runs.items():
        yield Case(f"Predictor(run={what})", lambda value=value: unsquare.Predictor(value, quiet=True))
        yield Case(f"evaluate(run={what})", lambda value=value: unsquare.evaluate(value, stage.pictures, quiet=True))
        yield Case(f"predict(run={what})", lambda value=value: unsquare.predict(value, [stage.picture]))
    devices = {
        "memoryy": "4GiB",
        "memory": "many",
        "workers": 0,
        "accelerator": "gpu3",
        "precision": 3,
        "budget_pixels": -1,
    }
    for name, value in devices.items():
        yield Case(
            f"Predictor({name}={value})",
            lambda name=name, value=value: unsquare.Predictor(stage.run_folder, quiet=True, **{name: value}),
        )
    predictor = unsquare.Predictor(stage.run_folder, quiet=True, budget_pixels=60_000)
    yield Case("Predictor.predict: good", lambda: predictor.predict([stage.picture]), wrong=False)
    yield Case("Predictor.predict: all classes", lambda: predictor.predict([stage.picture], top=10**6), wrong=False)
    for what, value in {**without(WHOLE, "huge"), "zero": 0, "None": None}.items():
        yield Case(f"Predictor.predict(top={what})", lambda value=value: predictor.predict([stage.picture], top=value))
    for what, value in {"None": None, "a number": 3, "numbers": [3]}.items():
        yield Case(f"Predictor.predict(paths={what})", lambda value=value: predictor.predict(value))
    for what, value in {**without(PATHS), "a file": stage.root / "file"}.items():
        yield Case(f"Predictor.evaluate(source={what})", lambda value=value: predictor.evaluate(value))
    for what, value in {"unknown": "x", "a number": 3, "a list": ["val"]}.items():
        yield Case(f"Predictor.evaluate(split={what})", lambda value=value: predictor.evaluate(stage.pictures, value))


def command_cases(stage: Stage) -> Iterator[Case]:
    """Commands; a status of 1 or 2 refuses, 0 accepts."""
    source, run, root = str(stage.pictures), str(stage.run_folder), stage.root

    def out() -> str:
        return str(stage.fresh())

    def train(*flags: str) -> list[str]:
        return ["train", source, "--out", out(), *FAST, *flags]

    lines: list[list[str]] = [
        ["trian"],
        ["--nothing"],
        [""],
        ["train", "--out"],
        ["plan"],
        ["scan"],
        ["predict"],
        ["report"],
    ]
    lines += [
        [name, "--nonsense"] for name in ("demo", "scan", "plan", "train", "evaluate", "predict", "profile", "report")
    ]
    lines += [
        train(*words.split(" "))
        for words in (
            "--seed 1180591620717411303424",
            "--seed -1",
            "--seed x",
            "--memory 1e400GiB",
            "--memory nan%",
            "--memory -1GiB",
            "--memory 0%",
            "--memory 200%",
            "--pyramid 1000000",
            "--pyramid 0",
            "--pyramid",
            "--optimizer adahessian",
            "--optimizer nothing",
            "--epochs 1e30",
            "--epochs 0",
            "--epochs 1.5",
            "--epochs nan",
            "--epochs ²",
            "--lr nan",
            "--lr inf",
            "--lr x",
            "--lr-policy x",
            "--max-pixels nan",
            "--max-pixels inf",
            "--max-pixels -5",
            "--max-pixels 1e400",
            "--scale 1e400",
            "--clip-norm inf",
            "--workers 0",
            "--workers 1e9",
            "--budget-pixels 0",
            "--budget-pixels 1e30",
            "--backbone resnet19",
            "--backbone vit_tiny_patch16_224",
            "--weights nowhere.safetensors",
            "--pool x",
            "--norm",
            "--validation-fraction 1",
            "--checkpoint-every-s -1",
            "--label-smoothing 1",
            "--launch-pixels -1",
            "--accelerator tpu",
            "--color-jitter 2",
            "--epoch 3",
            "--config",
            "--resume",
        )
    ]
    lines += [
        train("--weights", str(root / f"{name}.safetensors")) for name in ("shape", "module", "few", "cut", "text")
    ]
    lines += [
        train("--weights", ""),
        ["train", source, "--out", ""],
        ["train", "", "--out", out()],
        ["train", source, "--out", run],
    ]
    for name in ("broken", "unknown", "table", "types", "flat", "range", "dates", "latin", "zeros", "missing"):
        lines.append(train("--config", str(root / f"{name}.toml")))
    lines += [train("--config", str(root / "folder")), train("--config", "")]
    lines += [
        ["train", "--resume", str(root / "folder")],
        ["train", "--resume", ""],
        ["train", source, "--resume", run],
    ]
    lines += [["scan", str(root / "file"), "--out", out()], ["scan", source, "--out", str(root / "folder")]]
    lines += [
        ["scan", source, "--out", str(root / "file" / "x.parquet")],
        ["scan", source, "--out", out(), "--workers", "0"],
    ]
    lines += [["scan", source, "--out", out(), "--workers", "1e12"], ["scan", source, "--out", str(root / "file")]]
    lines += [
        ["plan", source, *words.split(" ")]
        for words in (
            "--split x",
            "--epoch -1",
            "--epoch x",
            "--epoch 1e40",
            "--budget-pixels 0",
            "--budget-pixels 1e40",
            "--canvases 0",
            "--canvases 1e9",
            "--multiple 0",
            "--multiple 1e30",
            "--buckets 0",
            "--world-size 0",
            "--world-size 1e12",
            "--steps x",
            "--step-images 0",
            "--seed -1",
            "--seed 1e40",
            "--turns maybe",
            "--limits-of nowhere",
            "--pixels-per-s 0",
            "--crop-fraction 0",
            "--min-side -1",
            "--min-side 1e40",
            "--scale 0",
            "--launch-pixels 1e40",
            "--sampling twice",
            "--limits.fallbacks 3",
        )
    ]
    lines += [
        ["plan", source, "--html", str(root / "folder")],
        ["plan", source, "--html", str(root / "file" / "x.html")],
    ]
    lines += [
        ["plan", source, "--limits-of", str(root / "folder")],
        ["plan", "nowhere"],
        ["plan", ""],
        ["plan", str(root / "file")],
    ]
    picture = str(stage.picture)
    lines += [["predict", run, picture, "--top", value] for value in ("0", "-1", "x", "1.5")]
    lines += [
        ["predict", run],
        ["predict", run, "nowhere.jpg"],
        ["predict", run, str(root / "folder")],
        ["predict", run, ""],
    ]
    lines += [["predict", run, picture, "--memory", "many"], ["predict", run, picture, "--workers", "0"]]
    lines += [
        ["predict", str(root / "folder"), picture],
        ["evaluate", run, "nowhere"],
        ["evaluate", run, source, "--split", "x"],
    ]
    lines += [["evaluate", str(root / "file"), source], ["evaluate", run, source, "--budget-pixels", "-1"]]
    lines += [
        ["profile", *words.split(" ")]
        for words in (
            "resnet19",
            "nowhere/run",
            "test_resnet --canvas x",
            "test_resnet --canvas 0x0",
            "test_resnet --canvas 1x",
            "test_resnet --num-classes 0",
            "test_resnet --num-classes 1e30",
            "test_resnet --memory many",
            "test_resnet --norm x",
            "test_resnet --strategy x",
            "test_resnet --canvas 99999999999x99999999999",
        )
    ]
    lines += [
        ["profile", run, "--against", "nowhere"],
        ["profile", ""],
        ["report", "nowhere"],
        ["report", str(root / "file")],
    ]
    lines += [["report", str(root / "folder")], ["report", ""]]
    lines += [
        ["verify-exact", *words.split(" ")]
        for words in (
            "test_resnet --sizes x",
            "test_resnet --sizes 64x64",
            "test_resnet --images 1",
            "test_resnet --images 1e30",
            "test_resnet --images -1",
            "test_resnet --max-side 3",
            "test_resnet --max-side 1e30",
            "test_resnet --seed -1",
            "test_resnet --seed 1e40",
            "test_resnet --dtype x",
            "test_resnet --tolerance nan",
            "test_resnet --tolerance -1",
            "nothing",
            "no.module:thing",
            "json:loads",
            "os:path",
            ":",
            "math:pi",
        )
    ]
    lines += [["verify-exact"], ["demo", "--out", str(root / "file")], ["demo", "--out", out(), "--num-train", "0"]]
    lines += [
        ["demo", "--out", out(), *words.split(" ")]
        for words in (
            "--mean-pixels 1",
            "--epochs 0",
            "--epochs 1e30",
            "--seed -1",
            "--seed 1e40",
            "--lr nan",
            "--lr 0",
            "--backbone resnet19",
            "--memory many",
            "--memory 1e400GiB",
            "--num-train 1e30",
            "--num-val -1",
        )
    ]
    for line in lines:
        yield Case(f"unsquare {' '.join(line)}".replace(str(root), "ROOT"), lambda line=line: _commanded(line))
    for name in ("demo", "scan", "plan", "train", "evaluate", "predict", "profile", "report", "verify-exact"):
        yield Case(f"unsquare {name} --help", lambda name=name: _commanded([name, "--help"]), wrong=False)


class Refused(Exception):
    """A command that exited with status 1 or 2 and gave the reason."""


def _commanded(line: list[str]) -> None:
    """Run a command in this process; a refusal raises."""
    errors = io.StringIO()
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(errors):
            status = command(line)
    except SystemExit as stop:
        status = stop.code or 0
    said = errors.getvalue()
    if "Traceback" in said:
        raise RuntimeError(said.strip().splitlines()[-1])
    if status in (1, 2):
        if not said.strip():
            raise RuntimeError("it says nothing")
        raise Refused(" ".join(said.split()))
    if status:
        raise RuntimeError(f"status {status}")


def outcome(case: Case, stage: Stage) -> tuple[str, str]:
    """The outcome of a call, and its message."""

    def hang(*_: Any) -> None:
        raise Hung

    before = {path for path in stage.root.rglob("*") if stage.run_folder not in path.parents}
    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    here = os.getcwd()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            case.run()
        kind, said = "accepted", ""
    except (unsquare.UnsquareError, Refused) as error:
        kind, said = "refused", str(error)
        if "\n" in said.strip():
            kind, said = "raw", f"several lines: {said}"
    except Hung:
        kind, said = "hung", ""
    except Exception as error:  # whatever it raises is the finding
        kind, said = "raw", f"{type(error).__name__}: {error}"
    finally:
        signal.alarm(0)
        os.chdir(here)
    after = {path for path in stage.root.rglob("*") if stage.run_folder not in path.parents}
    left = sorted(str(path.relative_to(stage.root)) for path in after - before)
    if left and case.wrong and kind != "accepted":
        said += f" LEFT {', '.join(left[:3])}"
        kind += " and left"
    for path in sorted(after - before):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.exists():
            path.unlink()
    return kind, said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write every call and its outcome here")
    parser.add_argument("--show", action="store_true", help="print the calls with a wrong outcome")
    parser.add_argument("--only", default="", help="only calls whose name contains this")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
        (Path(folder) / "stage").mkdir()
        os.chdir(Path(folder) / "stage")
        stage = Stage(Path(folder) / "stage")
        stage.train()
        cases = [
            *settings_cases(stage),
            *train_cases(stage),
            *start_cases(stage),
            *run_cases(stage),
            *plan_cases(stage),
            *loader_cases(stage),
            *network_cases(stage),
            *predict_cases(stage),
            *command_cases(stage),
        ]
        rows = []
        for case in cases:
            if given.only in case.name:
                kind, said = outcome(case, stage)
                rows.append({"call": case.name, "wrong": case.wrong, "outcome": kind, "said": said})
                if given.show and kind != ("refused" if case.wrong else "accepted"):
                    print(f"{kind:18} {case.name}: {said[:300]}", flush=True)
        os.chdir("/")
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1, ensure_ascii=False))
    for name, kept in (
        ("wrong calls of the API", [row for row in rows if row["wrong"] and not row["call"].startswith("unsquare ")]),
        ("wrong commands", [row for row in rows if row["wrong"] and row["call"].startswith("unsquare ")]),
        ("calls that should work", [row for row in rows if not row["wrong"]]),
    ):
        counts = Counter(row["outcome"] for row in kept)
        print(f"{len(kept)} {name}: " + ", ".join(f"{number} {kind}" for kind, number in counts.most_common()))


if __name__ == "__main__":
    sys.exit(main())
