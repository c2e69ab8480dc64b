"""A trained run, ready for use: evaluate it on pictures with labels, or ask it about single pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from unsquare.data.gate import DECODE_BYTES
from unsquare.data.loader import UndecodableError, decoding_bytes
from unsquare.errors import ConfigError, ImageError, SourceError
from unsquare.index.ambiguous import require_one_page
from unsquare.index.header import read_header
from unsquare.index.scan import scan_source
from unsquare.index.table import Problem, ShapeIndex, strings
from unsquare.index.trainable import check_trainable
from unsquare.memory.budget import budget_bytes
from unsquare.memory.cache import MeasurementCache, cache_folder
from unsquare.shapes import Shape
from unsquare.training import checkpoint
from unsquare.training.bounds import Bounds, identity
from unsquare.training.capacity import Capacity
from unsquare.training.config import TrainConfig, from_toml
from unsquare.training.console import Console
from unsquare.training.engine import Engine, launch
from unsquare.training.evaluate import Evaluator, check_side
from unsquare.training.loop import BEST
from unsquare.training.measure import Frame, Prober, measure_evaluation
from unsquare.training.metrics import Evaluation
from unsquare.training.model import Classifier
from unsquare.training.probing import Need
from unsquare.training.run import RunFolder


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one picture."""

    path: str
    classes: tuple[str, ...]
    """Most probable first."""
    probabilities: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        pairs = zip(self.classes, self.probabilities)
        return {"path": self.path, "top": [{"class": name, "probability": p} for name, p in pairs]}


class Predictor:
    """The best weights of a run on a device.

    Args:
        run: the run folder.
        quiet: show no progress.
        **device: settings of the device to use instead of the run's, such as `memory="4GiB"`; without `memory`, what
            is free now.

    Raises:
        RunError: there is no run, or no checkpoint of it that can be used.
    """

    def __init__(self, run: Path | str, *, quiet: bool = False, **device: Any) -> None:
        self._run = RunFolder.open(Path(run))
        self._config: TrainConfig = from_toml(self._run.read_config(), str(self._run.config))
        self._device = replace(self._config.device, **{"memory": None, **device})
        self._index = ShapeIndex.read(self._run.index)
        fabric = launch(self._device)
        self._console = Console(quiet=quiet or not fabric.is_global_zero)
        model = Classifier(self._config.model, len(self.classes), load=False)
        checkpoint.load_model(self._weights(), model)
        self._engine = Engine(fabric, model, self._config.optimizer)
        self._bounds: Bounds | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes that the network tells apart."""
        return self._index.classes

    def evaluate(self, source: Path | str, split: str | None = None, *, skip_bad: bool = False) -> Evaluation:
        """Accuracy on a source's pictures.

        Args:
            source: as for training; its class names must be the run's.
            split: train, val, test or all; None takes test, else val, else all. Pictures of the run's own source are
                in the splits that the run gave them.
            skip_bad: leave out files that cannot be read.

        Raises:
            SourceError: there are no such pictures, or they have other classes.
        """
        progress = self._console.progress("reading headers")
        index = scan_source(Path(source), choices=self._index.choices, progress=progress)
        if index.root == self._index.root:
            own = dict(zip(self._index.keys, self._index.splits))
            index = replace(index, splits=strings([own.get(key, old) for key, old in zip(index.keys, index.splits)]))
        elif split is None and not np.any(index.splits != ""):
            self._console.say(f"{source} names no splits, so all its pictures are evaluated, trained on or not.")
        index = self._with_own_classes(_of_split(index, split))
        index = check_trainable(index, skip_bad, least_classes=1)
        return self._evaluator(index).evaluate(self._console.progress("evaluating"))

    def predict(self, paths: Sequence[Path | str], top: int = 5) -> tuple[list[Prediction], list[Problem]]:
        """The most probable classes of pictures, in the order given, and the files that cannot be answered.

        Args:
            paths: image files.
            top: number of classes for each.
        """
        if top < 1:
            raise ConfigError(f"top must be at least 1, but is {top}.")
        shapes: dict[str, Shape] = {}
        problems: dict[str, str] = {}
        for path in map(str, paths):
            try:
                header = read_header(Path(path))
                require_one_page(header, self._index.choices)
                shapes[path] = header.shape
                check_side(self._config.geometry, shapes[path], self._engine.model.stride)
            except ImageError as error:
                problems[path] = str(error)
        found: dict[str, Prediction] = {}
        while asked := {path: shape for path, shape in shapes.items() if path not in found and path not in problems}:
            try:
                found |= self._ask(asked, top)
            except UndecodableError as error:  # its header was good; the others are asked again without it
                problems[error.key] = error.reason
        answered = [found[path] for path in map(str, paths) if path in found]
        return answered, [Problem(key=path, reason=reason) for path, reason in problems.items()]

    def _ask(self, shapes: dict[str, Shape], top: int) -> dict[str, Prediction]:
        paths = list(shapes)
        loose = _loose_index(paths, list(shapes.values()), self.classes)
        evaluator = self._evaluator(replace(loose, choices=self._index.choices))
        found: dict[str, Prediction] = {}
        for images, probabilities in evaluator.probabilities(self._console.progress("predicting")):
            highest, order = probabilities.topk(min(top, len(self.classes)), dim=1)
            for image, values, labels in zip(images.tolist(), highest.tolist(), order.tolist()):
                names = tuple(self.classes[label] for label in labels)
                found[paths[image]] = Prediction(path=paths[image], classes=names, probabilities=tuple(values))
        return found

    def _weights(self) -> Path:
        best = self._run.checkpoints / BEST
        return best if best.is_dir() else checkpoint.latest(self._run.checkpoints)

    def _evaluator(self, index: ShapeIndex) -> Evaluator:
        largest = int(self._config.geometry.resize(index.sizes).prod(axis=1).max())
        if self._bounds is None or self._bounds.limits(1, evaluation=True).largest_pixels < largest:
            self._bounds = self._measure(index)
        return Evaluator(self._engine, index, self._config.geometry, self._bounds, self._device.workers)

    def _measure(self, index: ShapeIndex) -> Bounds:
        """What a micro-batch may hold: as pinned, or as probes of these images' sizes show."""
        device = self._device
        if device.budget_pixels is not None:
            return Bounds(budget_pixels=device.budget_pixels, launch_pixels=device.launch_pixels)
        on_cpu = self._engine.device.type == "cpu"
        frame = Frame(
            budget_bytes=budget_bytes(device.memory, self._engine.device, self._engine.num_local_ranks),
            reserved_bytes=min(decoding_bytes(index, self._config.geometry), DECODE_BYTES) if on_cpu else 0,
            highest=device.highest_rung,
            may_keep=True,
        )
        cache = MeasurementCache(cache_folder() if device.reuse_probes else None)
        prober = Prober(self._engine, identity(self._config, len(self.classes)), cache)
        need = Need.of(self._config.geometry.resize(index.sizes), step_images=16)
        capacity = measure_evaluation(prober, frame, need)
        # One rank's measurements decide, so that all make the same plan.
        bounds = Bounds(capacity=Capacity.from_dict(self._engine.fabric.broadcast(capacity.to_dict())))
        bounds.apply_heap()
        return bounds

    def _with_own_classes(self, index: ShapeIndex) -> ShapeIndex:
        """The index with its labels as positions in the run's classes."""
        own = {name: position for position, name in enumerate(self.classes)}
        used = [index.classes[label] for label in np.unique(index.labels[index.labels >= 0])]
        if strange := [name for name in used if name not in own]:
            raise SourceError(
                f"The pictures must be of the run's {len(own)} classes, but {strange[0]!r} is none of them "
                f"({', '.join(self.classes[:8])}{', ...' if len(own) > 8 else ''}); rename it or evaluate another run."
            )
        position = np.array([own.get(name, -1) for name in index.classes] + [-1], dtype=np.int32)
        return replace(index, classes=self.classes, labels=position[index.labels])


def _of_split(index: ShapeIndex, split: str | None) -> ShapeIndex:
    """The rows of a split; of the first of test, val and all that there is where none is named."""
    if split is None:
        split = next((name for name in ("test", "val") if np.any(index.splits == name)), "all")
    chosen = index if split == "all" else index.of_split(split)
    # A bad file without a split could belong to any.
    problems = tuple(problem for problem in index.problems if split == "all" or problem.split in ("", split))
    chosen = replace(chosen, problems=problems)
    if not len(chosen) and not chosen.problems:
        there = sorted({name or "(none)" for name in index.splits.tolist()})
        raise SourceError(f"There are no images in the split {split!r}; the source has {', '.join(there)}.")
    return chosen


def _loose_index(paths: list[str], shapes: Sequence[tuple[int, int]], classes: tuple[str, ...]) -> ShapeIndex:
    """An index of single files without labels, in the order given."""
    number = len(paths)
    return ShapeIndex(
        root=".",
        classes=classes,
        keys=strings(paths),
        sizes=np.array(shapes, dtype=np.int64).reshape(-1, 2),
        labels=np.full(number, -1, dtype=np.int32),
        splits=strings([""] * number),
        num_bytes=np.zeros(number, dtype=np.int64),
        modified_ns=np.zeros(number, dtype=np.int64),
    )
