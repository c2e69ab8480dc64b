"""A trained run, ready for use: evaluates pictures with labels, and predicts single pictures."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import nn

from unsquare.capacity.limits import apply_heap, identity_of, measure_limits, pictures_workload, pinned_limits
from unsquare.data.loader import UndecodableError
from unsquare.errors import ImageError, SourceError
from unsquare.index.choices import Choices
from unsquare.index.listing import class_name
from unsquare.index.remarks import class_counts
from unsquare.index.scan import is_manifest, scan_source
from unsquare.index.table import ShapeIndex
from unsquare.index.text import shown, strings
from unsquare.index.trainable import check_trainable
from unsquare.network.classifier import Classifier
from unsquare.network.device import launch
from unsquare.network.engine import Engine
from unsquare.network.losses import Objective
from unsquare.runs.checkpoints import best_or_newest, read_state
from unsquare.runs.folder import RunFolder
from unsquare.runs.memory_profile import RunLimits
from unsquare.runs.origin import own_index
from unsquare.runs.selection import caution
from unsquare.settings import Range, changed, checks_arguments
from unsquare.shapes import Shape
from unsquare.training import checkpoint
from unsquare.training.asked import Asked, Picture, asked_pictures
from unsquare.training.config import TrainConfig
from unsquare.training.console import Console
from unsquare.training.evaluate import Evaluator, check_side
from unsquare.training.metrics import LIKELY, Evaluation
from unsquare.training.other_run import settings_of_run, trained_before
from unsquare.training.resolution import stage_geometry

OnError = Literal["raise", "keep"]
TOP_CLASSES = 5
STEP_IMAGES = 16
"""Images of a micro-batch beyond which a larger batch saves no time."""


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The most probable classes of one picture, its labels or its value, or the reason why there are none.

    Example:
        >>> [prediction] = unsquare.predict("runs/photos", "no_such_picture.jpg", on_error="keep")
        >>> prediction.classes
        ()
        >>> prediction.problem
        'does not exist'
    """

    path: str
    """The file's path as given; "picture" and its position where it has no path."""
    classes: tuple[str, ...] = ()
    """Most probable first. Of several labels those that the picture has, by a probability of at least a half, unless
    `top` asks for a number of them."""
    probabilities: tuple[float, ...] = ()
    value: float | None = None
    """What a regression predicts; None in other tasks."""
    problem: str = ""
    """Why there is no prediction, such as "is cut short"; empty where there is one."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        if self.value is not None:
            return {"path": self.path, "value": self.value}
        pairs = zip(self.classes, self.probabilities)
        return {"path": self.path, "top": [{"class": name, "probability": p} for name, p in pairs]}


class Predictor:
    """The best weights of a run on a device.

    Args:
        run: the run folder.
        quiet: show no progress.
        **device: settings of the device to use instead of the run's, such as `memory="4GiB"`; without `memory`, free
            memory is used.

    Raises:
        RunError: there is no run, or no checkpoint of it that can be used.

    Example:
        >>> predictor = unsquare.Predictor("runs/photos", quiet=True)
        >>> predictor.classes
        ('silk', 'wool')
        >>> [prediction] = predictor.predict("photos/val/silk/0.png")
        >>> sorted(prediction.classes)
        ['silk', 'wool']
    """

    @checks_arguments
    def __init__(self, run: Path | str, *, quiet: bool = False, **device: Any) -> None:
        self._run = RunFolder.open(Path(run))
        self._config: TrainConfig = settings_of_run(self._run)
        self._device = changed(self._config.device, {"memory": None, **device})
        weights, words = best_or_newest(self._run.checkpoints)
        state = read_state(weights)
        self._index = own_index(self._run, state.origin)
        fabric = launch(self._device)
        self._console = Console(quiet=quiet or not fabric.is_global_zero)
        model = Classifier(self._config.model, len(self.classes), load=False)
        checkpoint.load_model(weights, model)
        if fabric.is_global_zero:
            self._console.warn(words)
        optimizer = replace(self._config.optimizer, ema=None)  # the weights loaded are averages already
        self._engine = Engine(fabric, model, optimizer, Objective.of(self._index, optimizer))
        self._geometry = stage_geometry(self._config.geometry, state.max_pixels, model.stride)
        self._limits: RunLimits | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The classes of the run, its labels, or the name of its value."""
        return self._index.classes

    @property
    def is_main(self) -> bool:
        """Whether this is the process that prints, of several that were started together."""
        return bool(self._engine.fabric.is_global_zero)

    @property
    def label_separator(self) -> str:
        """Text between several labels of a picture, as the run's source has it."""
        return self._config.task.label_separator

    @property
    def classifier(self) -> nn.Module:
        """The network, from padded uint8 pixels and their sizes to logits; in evaluation mode, to be exported, say.

        The logits of classes are to be put through softmax, those of labels through a sigmoid; of a regression they are
        in standard deviations from the mean (`value_scale`).
        """
        return self._engine.model.eval()

    @property
    def value_scale(self) -> tuple[float, float]:
        """Mean and standard deviation of a regression's values over the training images; 0 and 1 in other tasks."""
        return self._engine.objective.mean, self._engine.objective.std

    @checks_arguments
    def evaluate(self, source: Path | str, split: str | None = None, *, skip_bad: bool = False) -> Evaluation:
        """Accuracy on a source's pictures.

        Args:
            source: as for training; its classes must be those of the run.
            split: train, val, test or all; None uses test, else val, else all. Pictures of the run's own source are in
                the splits of the run.
            skip_bad: skip files that cannot be read.

        Raises:
            SourceError: there are no such pictures, or their classes are not the run's.
        """
        progress = self._console.progress("reading headers")
        task = self._config.task
        if not is_manifest(Path(source)):  # other sources have no columns to choose
            task = replace(task, label_columns=())
        index = scan_source(Path(source), choices=self._index.choices, task=task, progress=progress)
        if index.root == self._index.root:
            own = dict(zip(self._index.keys, self._index.splits))
            index = replace(index, splits=strings([own.get(key, old) for key, old in zip(index.keys, index.splits)]))
        elif split is None and not np.any(index.splits != ""):
            self._console.say(
                f"{source} has no splits, so all of its pictures are evaluated, including any that were trained on."
            )
        split = split or _usual_split(index)
        index = self._with_own_classes(_of_split(index, split))
        index = check_trainable(index, skip_bad, least_classes=1)
        lost: list[UndecodableError] = []
        progress = self._console.progress("evaluating")
        try:
            limits = self._limits_for(index)
            evaluator = Evaluator(self._engine, index, self._geometry, limits, self._device.workers)
            evaluation = evaluator.evaluate(progress, lost.append if skip_bad else None)
        except UndecodableError as error:
            raise SourceError(
                f"Every picture must decode, but '{error.key}' {error.reason}; {error.remedy}, or leave such files out "
                "with --skip-bad."
            ) from error
        if lost:
            first = f"'{shown(lost[0].key)}' {lost[0].reason}"
            self._console.say(
                f"{len(lost)} of {len(index)} pictures cannot be decoded and are left out; the first: {first}."
            )
        return self._judged(evaluation, split)

    def _judged(self, evaluation: Evaluation, split: str) -> Evaluation:
        """The evaluation with its split, and with what makes it optimistic."""
        images = evaluation.images
        own = dict(zip(self._index.keys, self._index.splits)) if images.root == self._index.root else {}
        config = self._config
        words, chosen = caution(
            [own.get(key, "") for key in images.keys],
            self._run.read_evals(),
            sizes=config.resolution.chooses,
            num_known=int(trained_before(images, config.model.from_run).sum()),
        )
        last = None
        if chosen and chosen.last.num_images == evaluation.num_images:
            last = {"epoch": chosen.last.epoch, **chosen.last.figures}
        return replace(evaluation, split=split, caution=words, last_epoch=last)

    @checks_arguments
    def predict(
        self,
        pictures: Picture | Iterable[Picture],
        top: Annotated[int, Range(1)] | None = None,
        *,
        on_error: OnError = "raise",
    ) -> list[Prediction]:
        """The most probable classes of pictures, their labels or values, in the order given.

        Args:
            pictures: one or several: paths of files, paths of folders (with pictures at any depth, in the order of
                their names), Pillow images, and arrays of uint8, (height, width) for gray or (height, width, 3) for
                RGB.
            top: number of classes or labels for each, at most those of the run; None takes five classes, or the labels
                of a probability of at least a half.
            on_error: what to do with a picture that cannot be predicted: raise, or keep it in its place as a prediction
                without classes, whose `problem` says why.

        Raises:
            SourceError: a picture cannot be predicted, and `on_error` is raise; or an array is not a picture.
        """
        asked = asked_pictures(pictures)
        answers = _Answers(on_error)
        readable: list[tuple[Asked, Shape]] = []
        for each in {each.key: each for each in asked}.values():
            try:
                shape = each.shape(self._index.choices)
                check_side(self._geometry, shape, self._engine.model.stride)
                readable.append((each, shape))
            except ImageError as error:
                answers.fail(each, str(error))
        if readable:
            self._answer(readable, top, answers)
        return [replace(answers.found[each.key], path=each.name) for each in asked]

    def _answer(self, asked: list[tuple[Asked, Shape]], top: int | None, answers: _Answers) -> None:
        """Run the network on pictures in one pass; those that cannot be decoded, or do not fit, fail alone."""
        index = _loose_index(asked, self.classes, self._index.choices)
        limits = self._limits_for(index)
        held = limits.limits(1, evaluation=True).largest_pixels
        sizes = self._geometry.resize(index.sizes)
        fits = sizes.prod(axis=1) <= held
        for row in np.flatnonzero(~fits):
            height, width = sizes[row].tolist()
            reason = f"is {height} x {width} pixels, but the memory budget fits {held:,} pixels; give more memory"
            answers.fail(asked[row][0], reason)
        asked = [each for each, fit in zip(asked, fits) if fit]
        if not asked:
            return
        evaluator = Evaluator(
            self._engine,
            _loose_index(asked, self.classes, self._index.choices),
            self._geometry,
            limits,
            self._device.workers,
            opened={row: each.image for row, (each, _) in enumerate(asked) if each.image is not None},
            shared=False,  # each rank returns all predictions
        )

        def failed(error: UndecodableError) -> None:
            answers.fail(asked[error.row][0], error.reason)

        for rows, found in evaluator.predictions(self._console.progress("predicting"), failed):
            for row, values in zip(rows.tolist(), found):
                if not values.isfinite().all():
                    answers.fail(asked[row][0], "makes the network return values that are not finite")
                    continue
                answers.add(asked[row][0], self._prediction(values, top))

    def _prediction(self, values: torch.Tensor, top: int | None) -> Prediction:
        """The prediction of a picture, from its probabilities or its value, (num_classes,)."""
        task = self._engine.objective.task
        if task == "regression":
            return Prediction(path="", value=float(values[0]))
        if top is None:
            top = TOP_CLASSES if task == "classification" else int((values >= LIKELY).sum())
        highest, labels = values.topk(min(top, len(self.classes)))
        names = tuple(self.classes[label] for label in labels.tolist())
        return Prediction(path="", classes=names, probabilities=tuple(highest.tolist()))

    def _limits_for(self, index: ShapeIndex) -> RunLimits:
        """The limits for these pictures, measured again where the known limits do not hold the largest."""
        largest = int(self._geometry.resize(index.sizes).prod(axis=1).max())
        if self._limits is None or self._limits.limits(1, evaluation=True).largest_pixels < largest:
            self._limits = self._measure(index)
        return self._limits

    def _measure(self, index: ShapeIndex) -> RunLimits:
        """The limits of micro-batches: set by the user, or measured by probes of these images' sizes."""
        if (pinned := pinned_limits(self._engine, replace(self._device, strategy="auto"))) is not None:
            return pinned
        workload = pictures_workload(
            self._engine, self._device, index, self._geometry, training=None, step_images=STEP_IMAGES
        )
        identity = identity_of(self._config.model, len(self.classes), self._config.optimizer)
        limits = measure_limits(self._engine, self._device, workload, identity)
        apply_heap(limits)
        return limits

    def _with_own_classes(self, index: ShapeIndex) -> ShapeIndex:
        """The index with its labels as positions among the run's classes."""
        own = {class_name(name): position for position, name in enumerate(self.classes)}
        if index.task == "regression":  # one value, whatever it is called
            return replace(index, classes=self.classes)
        used = [name for name, by_split in class_counts(index).items() if sum(by_split.values())]
        if strange := [name for name in used if class_name(name) not in own]:
            kind = "class" if index.task == "classification" else "label"
            kinds = "classes" if index.task == "classification" else "labels"
            raise SourceError(
                f"The {kind} {strange[0]!r} is not one of the run's {len(own)} {kinds} ({', '.join(self.classes[:8])}"
                f"{', ...' if len(own) > 8 else ''}); rename it, or evaluate another run."
            )
        positions = [own.get(class_name(name), -1) for name in index.classes]
        if index.targets is not None:
            known = [(at, position) for at, position in enumerate(positions) if position >= 0]
            targets = np.where(index.labeled[:, None], np.zeros((len(index), len(own))), np.nan)
            for at, position in known:
                targets[:, position] = index.targets[:, at]
            return replace(index, classes=self.classes, targets=targets)
        labels = np.array([*positions, -1], dtype=np.int32)[index.labels]
        return replace(index, classes=self.classes, labels=labels)


def _usual_split(index: ShapeIndex) -> str:
    """The split that is evaluated where none is named: the first of test, val and all that has any images."""
    return next((name for name in ("test", "val") if np.any(index.splits == name)), "all")


def _of_split(index: ShapeIndex, split: str) -> ShapeIndex:
    """The rows of a split."""
    chosen = index if split == "all" else index.of_split(split)
    # A bad file without a split may belong to any of them.
    problems = tuple(problem for problem in index.problems if split == "all" or problem.split in ("", split))
    chosen = replace(chosen, problems=problems)
    if not len(chosen) and not chosen.problems:
        there = sorted({name for name in index.splits.tolist() if name})
        splits = f"its splits are {', '.join(there)}, and all" if there else "it has no splits; leave --split out"
        raise SourceError(f"There are no images of the split {split!r} in the source; {splits}.")
    return chosen


class _Answers:
    """The predictions so far, by their pictures' keys."""

    def __init__(self, on_error: OnError) -> None:
        self.found: dict[Any, Prediction] = {}
        self._raises = on_error == "raise"

    def add(self, asked: Asked, prediction: Prediction) -> None:
        """Record a prediction."""
        self.found[asked.key] = prediction

    def fail(self, asked: Asked, reason: str) -> None:
        """Record why there is no prediction.

        Raises:
            SourceError: failures are to be raised.
        """
        if self._raises:
            raise SourceError(
                f"'{shown(asked.name)}' {reason}; leave it out, or use on_error='keep' to get it back with its problem."
            )
        self.add(asked, Prediction(path="", problem=reason))


def _loose_index(asked: list[tuple[Asked, Shape]], classes: tuple[str, ...], choices: Choices) -> ShapeIndex:
    """An index of single pictures without labels, in the order given."""
    number = len(asked)
    return ShapeIndex(
        root=".",
        classes=classes,
        keys=strings([each.name for each, _ in asked]),
        sizes=np.array([shape for _, shape in asked], dtype=np.int64).reshape(-1, 2),
        labels=np.full(number, -1, dtype=np.int32),
        splits=strings([""] * number),
        num_bytes=np.zeros(number, dtype=np.int64),
        modified_ns=np.zeros(number, dtype=np.int64),
        choices=choices,
    )
