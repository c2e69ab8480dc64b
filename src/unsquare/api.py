"""The library's functions for whole runs: the commands, as Python functions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import msgspec

from unsquare.data.transform import own_transform
from unsquare.errors import ConfigError
from unsquare.files import without_empty_folders
from unsquare.network.classifier import check_backbone_name, check_model
from unsquare.network.config import ModelConfig, Norm
from unsquare.network.ranks import is_first
from unsquare.profiling import sweep as profiles
from unsquare.report import write_comparison_page, write_profile_page, write_rate_page, write_report
from unsquare.report.folds.page import write_folds_page
from unsquare.runs.folder import RunFolder
from unsquare.runs.folds import CrossValidation, fold_path
from unsquare.runs.schemas import ComparisonResult, ProfileResult
from unsquare.settings import Range, changed, checks_arguments
from unsquare.shapes import Shape, checked_shape
from unsquare.training import rate_test, start
from unsquare.training.asked import Picture
from unsquare.training.config import MOST_FOLDS, TrainConfig, with_settings
from unsquare.training.find_rate import find_rate
from unsquare.training.folds import train_folds
from unsquare.training.metrics import Evaluation
from unsquare.training.optimizer_check import check_optimizer
from unsquare.training.outcome import write_outcome
from unsquare.training.predictor import OnError, Prediction, Predictor
from unsquare.training.rate_test import RateTest
from unsquare.training.recipes import settled_network


@checks_arguments
def train(
    source: Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    *,
    changed_pictures: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> Path:
    """Train a classifier on a source of pictures, evaluate it and write the report.

    Called again with the same source and settings, it continues a run that is not finished.

    Args:
        source: a folder of class folders, a manifest, MAMe's folder, or an index.
        out: the run folder: new, empty, or that of a run with the same source and settings; more epochs continue it.
        config: the settings; None takes the defaults. With `folds` and without `fold` this is `cross_validate`.
        changed_pictures: where a run is continued, use pictures that have changed since it started as they are now.
        quiet: print no progress.
        **settings: single settings by the names of their flags, such as `backbone="resnet50"` or `epochs=50`.

    Returns:
        The run folder, or that of all folds.

    Raises:
        UnsquareError: a problem that the user can fix; the message says how.
        Stopped: Ctrl-C or SIGTERM stopped the run, which is saved.

    Example:
        >>> settings = dict(backbone="test_resnet", epochs=1, accelerator="cpu", budget_pixels=20_000)
        >>> run = unsquare.train("photos", "runs/new", quiet=True, **settings)
        >>> (run / "report.html").is_file()
        True
    """
    config = with_settings(config or TrainConfig(), settings)
    if config.saving.folds is not None and config.saving.fold is None:
        folds = config.saving.folds
        cross_validate(source, out, config, folds=folds, changed_pictures=changed_pictures, quiet=quiet)
        return Path(out)
    _check_beginning(config, Path(out))
    with without_empty_folders(Path(out)):
        run = start.train(source, out, config, changed_pictures=changed_pictures, quiet=quiet)
    return _reported(run)


@checks_arguments
def cross_validate(
    source: Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    *,
    folds: Annotated[int, Range(2, MOST_FOLDS)] | None = None,
    changed_pictures: bool = False,
    quiet: bool = False,
    **settings: Any,
) -> CrossValidation:
    """Train a run for each of several folds, so that every image judges once; mean and spread of their accuracies.

    All images but those of a test split are dealt to the folds, class by class, in whole groups. Called again with the
    same source and settings, it continues where it stopped.

    Args:
        source: as for `train`.
        out: the folder of all runs, `fold-1` to `fold-k`; `folds.json` and `report.html` are written there, too.
        config: the settings of each run; None takes the defaults.
        folds: how many there are; None takes the settings' own number, or 5.
        changed_pictures: where a run is continued, use pictures that have changed since it started as they are now.
        quiet: print no progress.
        **settings: single settings by the names of their flags.

    Returns:
        The figures of each fold, and their means and standard deviations.

    Raises:
        UnsquareError: a problem that the user can fix; the message says how.
        Stopped: Ctrl-C or SIGTERM stopped one of the runs, which is saved.

    Example:
        >>> settings = dict(backbone="test_resnet", epochs=1, accelerator="cpu", budget_pixels=20_000)
        >>> found = unsquare.cross_validate("photos", "runs/folds", folds=2, quiet=True, **settings)
        >>> [fold.run for fold in found.folds], found.num_images
        (['fold-1', 'fold-2'], 10)
        >>> 0 <= found.last["accuracy"].mean <= 1
        True
    """
    config, folder = with_settings(config or TrainConfig(), settings), Path(out)
    folds = folds or config.saving.folds or 5
    _check_beginning(config, fold_path(folder, 1))
    with without_empty_folders(folder):
        found = train_folds(
            Path(source), folder, config, folds, changed_pictures=changed_pictures, quiet=quiet, finished=_reported
        )
    if is_first():
        write_folds_page(folder, found)
    return found


@checks_arguments
def resume(
    run: Path | str,
    config: TrainConfig | None = None,
    *,
    epochs: int | None = None,
    changed_pictures: bool = False,
    quiet: bool = False,
) -> Path:
    """Continue a run from its last checkpoint, as if it had never stopped, or for more epochs than it had.

    Args:
        run: the run folder.
        config: the settings; None takes the run's own. Only epochs and patience may differ from those.
        epochs: passes over the training images in all; None takes the run's own number.
        changed_pictures: use pictures that have changed since the run started as they are now.
        quiet: print no progress.

    Returns:
        The run folder.

    Raises:
        UnsquareError: a problem that the user can fix; the message says how.
        Stopped: Ctrl-C or SIGTERM stopped the run, which is saved.

    Example:
        >>> run = unsquare.resume("runs/photos", epochs=2, quiet=True)
        >>> (run / "report.html").is_file()
        True
    """
    folder = start.resume(run, config, epochs=epochs, changed_pictures=changed_pictures, quiet=quiet)
    return _reported(folder)


@checks_arguments
def find_lr(
    source: Path | str,
    config: TrainConfig | None = None,
    *,
    out: Path | str | None = None,
    num_steps: Annotated[int, Range(rate_test.LEAST_STEPS, 100_000)] = 100,
    lowest: Annotated[float, Range(above=0, most=1e6)] = 1e-6,
    highest: Annotated[float, Range(above=0, most=1e6)] = 1.0,
    quiet: bool = False,
    **settings: Any,
) -> RateTest:
    """Find a learning rate: train some steps at rising rates until the loss diverges, and draw loss against rate.

    Args:
        source: pictures, as for training.
        config: the settings of the run that the rate is for; None takes the defaults.
        out: where the page is written; None takes `learning-rate.html` in the working directory.
        num_steps: steps, each at a higher rate than the one before.
        lowest: the rate of the first step.
        highest: the rate of the last step, unless the loss diverges before.
        quiet: print no progress.
        **settings: single settings by the names of their flags, such as `backbone="resnet50"`.

    Returns:
        The losses by rate, the rate at which they fall fastest, and the page. Nothing else is kept.

    Raises:
        UnsquareError: a problem that the user can fix; the message says how.

    Example:
        >>> settings = dict(backbone="test_resnet", pretrained="none", accelerator="cpu", budget_pixels=20_000)
        >>> found = unsquare.find_lr("photos", num_steps=10, quiet=True, **settings)
        >>> found.rates[0], found.rates[-1] <= 1
        (1e-06, True)
        >>> print(found.page)
        learning-rate.html
    """
    if lowest >= highest:
        raise ConfigError(f"lowest must be below highest, but they are {lowest:g} and {highest:g}; exchange them.")
    config = with_settings(config or TrainConfig(), settings)
    check_optimizer(config.optimizer)
    check_model(settled_network(config, lambda text: None).model)
    rates = rate_test.rising_rates(lowest, highest, num_steps)
    found = find_rate(Path(source), config, rates, quiet=quiet)
    return replace(found, page=write_rate_page(found, Path(out or "learning-rate.html")))


def evaluate(
    run: Path | str,
    source: Path | str,
    split: str | None = None,
    *,
    out: Path | str | None = None,
    quiet: bool = False,
) -> Evaluation:
    """Measure the accuracy of a run's best weights on a source's pictures.

    Args:
        run: the run folder.
        source: as for training; its classes or labels must be among the run's.
        split: train, val, test or all; None takes test, else val, else all.
        out: a folder for `predictions.csv`, and for `confusion.csv` and `per_class.csv` where the task has them.
        quiet: print no progress.

    Returns:
        Loss and the figures of the run's task, in all and by class or label, what makes them optimistic, and what is
        predicted of each picture.

    Raises:
        SourceError: there are no such pictures, they have other classes, or one of them cannot be read.
        RunError: there is no run, or no checkpoint of it that can be used.
        BudgetError: a picture does not fit the memory.

    Example:
        >>> evaluation = unsquare.evaluate("runs/photos", "photos", split="val", quiet=True)
        >>> evaluation.num_images
        2
        >>> 0 <= evaluation.mean_per_class_accuracy <= 1
        True
    """
    predictor = Predictor(run, quiet=quiet)
    evaluation = predictor.evaluate(source, split)
    if out is not None and predictor.is_main:
        write_outcome(Path(out), evaluation, predictor.label_separator)
    return evaluation


def predict(
    run: Path | str,
    pictures: Picture | Iterable[Picture],
    top: int | None = None,
    *,
    on_error: OnError = "raise",
    quiet: bool = True,
) -> list[Prediction]:
    """Predict the most probable classes of pictures, their labels or values.

    For many calls use `Predictor`, which loads the network once.

    Args:
        run: the run folder.
        pictures: one or several: paths of files, paths of folders (whose pictures are taken at every depth, in the
            order of their names), pictures of PIL, and arrays of uint8, (height, width) for grey or
            (height, width, 3) for RGB.
        top: number of classes or labels for each picture; there are no more than the run has. None takes five classes,
            or the labels of a probability of at least a half.
        on_error: what to do with a picture that cannot be read: raise, or keep it in its place as a prediction
            without classes, whose `problem` says why.
        quiet: print no progress.

    Returns:
        A prediction for each picture, in the order given.

    Raises:
        SourceError: a picture cannot be read, and `on_error` is raise; or an array is no picture.
        RunError: there is no run, or no checkpoint of it that can be used.

    Example:
        >>> for prediction in unsquare.predict("runs/photos", ["photos/val/silk/0.png", "photos/val/wool"], top=1):
        ...     print(prediction.path, len(prediction.classes))
        photos/val/silk/0.png 1
        photos/val/wool/0.png 1
    """
    return Predictor(run, quiet=quiet).predict(pictures, top, on_error=on_error)


@checks_arguments
def profile(
    subject: Path | str,
    canvas: tuple[int, int] | None = None,
    out: Path | str | None = None,
    *,
    num_classes: Annotated[int, Range(1, 1 << 20)] = 10,
    norm: Norm = "own",
    say: Callable[[str], None] = lambda line: None,
    **device: Any,
) -> ProfileResult:
    """Measure where a network's memory goes, and how many images fit.

    Args:
        subject: a run folder, or a network of timm by name.
        canvas: the images' height and width in pixels; None takes that of the run's median micro-batch, or 512 x 512.
        out: where the page is written; None takes the run's report, or `profile.html` in the working directory.
        num_classes: of a network without a run, up to a million.
        norm: the norm layers of a network without a run.
        say: called with each line of progress.
        **device: settings of the device, such as `memory="4GiB"`, in place of the run's own.

    Returns:
        The batches that fit, what holds the peak, memory against time, and the page that shows it; `to_dict` gives the
        content of `profile.json`.

    Raises:
        BudgetError: not even one image fits.
        RunError: the run, or a file of it, cannot be used.
        ConfigError: there is no such network, or a setting may not have its value.

    Example:
        >>> memory = dict(accelerator="cpu", precision="32-true", memory="800MiB")
        >>> found = unsquare.profile("test_resnet", canvas=(512, 512), **memory)
        >>> found.sweep.largest_images >= 1
        True
        >>> print(found.page)
        profile.html
    """
    shape = None if canvas is None else checked_shape(canvas, "canvas")
    folder = Path(subject)
    is_run = folder.is_dir() or len(folder.parts) > 1  # names of networks have no slash
    if is_run:
        config, num_classes, usual = profiles.subject_of_run(folder)
        held = profiles.memory_of_run(folder)
    else:
        held = None
        model = ModelConfig(backbone=str(subject), norm=norm)
        check_backbone_name(model.backbone)
        config, usual = TrainConfig(model=model), Shape(512, 512)
    config = replace(config, device=changed(config.device, device))
    name = folder.resolve().name if is_run else str(subject)
    found = profiles.profile_network(config, num_classes, shape or usual, name, say)
    found = msgspec.structs.replace(found, run=held)
    if is_run:
        run = RunFolder(folder)
        run.write_json(run.profile, found.to_dict())
    page = write_report(folder) if is_run and out is None else write_profile_page(found, Path(out or "profile.html"))
    return ProfileResult(**msgspec.structs.asdict(found), page=page)


@checks_arguments
def compare(before: Path | str, after: Path | str, out: Path | str | None = None) -> ComparisonResult:
    """Compare the memory that the plans of two runs ask for.

    Args:
        before: a run folder.
        after: another one.
        out: where the page is written; None takes `comparison.html` in the working directory.

    Returns:
        Both plans with their predicted and measured peaks in bytes, and the page that shows them.

    Raises:
        RunError: a folder is no run, nothing was planned in it yet, or a file of it or the page cannot be used.

    Example:
        >>> found = unsquare.compare("runs/photos", "runs/photos")
        >>> before, after = found.plans
        >>> len(before.micro_batches) == len(after.micro_batches)
        True
        >>> print(found.page)
        comparison.html
    """
    found = profiles.compare_plans(Path(before), Path(after))
    page = write_comparison_page(found, Path(out or "comparison.html"))
    return ComparisonResult(plans=found.plans, page=page)


def _check_beginning(config: TrainConfig, run: Path) -> None:
    """Try what only a trial shows, before a run folder is made; a resumed run needs no starting weights."""
    check_optimizer(config.optimizer)
    own_transform(config.augment.transform)
    if not os.path.exists(RunFolder(run).config):
        check_model(settled_network(config, lambda text: None).model)


def _reported(run: Path) -> Path:
    if is_first():
        write_report(run)
    return run
