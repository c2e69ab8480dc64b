"""The library's front door for whole runs: what the commands do, from Python."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from unsquare.errors import ConfigError
from unsquare.files import write_text
from unsquare.report import write_comparison_page, write_profile_page, write_report
from unsquare.shapes import Shape
from unsquare.training import profile as profiles
from unsquare.training import start
from unsquare.training.asked import Picture
from unsquare.training.config import TrainConfig
from unsquare.training.metrics import Evaluation
from unsquare.training.model import ModelConfig, Norm
from unsquare.training.predictor import OnError, Prediction, Predictor
from unsquare.training.run import RunFolder


def train(
    source: Path | str,
    out: Path | str,
    config: TrainConfig | None = None,
    *,
    quiet: bool = False,
    **settings: Any,
) -> Path:
    """Train a classifier on a source of pictures, evaluate it and write the report.

    Args:
        source: a folder of class folders, a manifest, MAMe's folder, or an index.
        out: the run folder, new or empty.
        config: the settings; None takes the defaults.
        quiet: print no progress.
        **settings: single settings by the names of their flags, such as `backbone="resnet50"` or `epochs=50`.

    Returns:
        The run folder.

    Raises:
        UnsquareError: something that can be mended; the message says how.
        Stopped: Ctrl-C or SIGTERM stopped the run, which is saved.
    """
    run = start.train(source, out, with_settings(config or TrainConfig(), settings), quiet=quiet)
    return _reported(run)


def resume(run: Path | str, *, quiet: bool = False) -> Path:
    """Go on with a run from its last checkpoint, as if it had never stopped; raises what `train` raises."""
    return _reported(start.resume(run, quiet=quiet))


def evaluate(run: Path | str, source: Path | str, split: str | None = None, *, quiet: bool = False) -> Evaluation:
    """Accuracy of a run's best weights on a source's pictures; see `Predictor.evaluate`."""
    return Predictor(run, quiet=quiet).evaluate(source, split)


def predict(
    run: Path | str,
    pictures: Picture | Iterable[Picture],
    top: int = 5,
    *,
    on_error: OnError = "raise",
    quiet: bool = True,
) -> list[Prediction]:
    """The most probable classes of pictures, in the order given; see `Predictor.predict`, which returns the same.

    Raises:
        SourceError: a picture cannot be answered, and `on_error` is raise.
    """
    return Predictor(run, quiet=quiet).predict(pictures, top, on_error=on_error)


def profile(
    subject: Path | str,
    canvas: Shape | None = None,
    out: Path | str | None = None,
    *,
    num_classes: int = 10,
    norm: Norm = "own",
    say: Callable[[str], None] = lambda line: None,
    **device: Any,
) -> tuple[dict[str, Any], Path]:
    """Where a network's memory goes, and how many images fit.

    Args:
        subject: a run folder, or a network of timm by name.
        canvas: the images' shape; None takes that of the run's median micro-batch, or 512 x 512.
        out: where the page goes; None takes the run's report, or `profile.html` here.
        num_classes: of a network without a run.
        norm: the norms of a network without a run.
        say: told what is found, line by line.
        **device: settings of the device, such as `memory="4GiB"`, in place of the run's own.

    Returns:
        The content of `profile.json`, and the page.

    Raises:
        UnsquareError: something that can be mended; the message says how.
    """
    folder = Path(subject)
    is_run = folder.is_dir() or len(folder.parts) > 1  # no network's name has a slash
    if is_run:
        config, num_classes, usual = profiles.subject_of_run(folder)
        held = profiles.capacity_of_run(folder)
    else:
        held = None
        model = ModelConfig(backbone=str(subject), norm=norm)
        config, usual = TrainConfig(model=model), Shape(512, 512)
    config = replace(config, device=replace(config.device, **device))
    name = folder.resolve().name if is_run else str(subject)
    found = profiles.profile_network(config, num_classes, canvas or usual, name, say)
    found["run"] = held
    if is_run:
        write_text(RunFolder(folder).profile, json.dumps(found))
        if out is None:
            return found, write_report(folder)
    return found, write_profile_page(found, Path(out or "profile.html"))


def compare(before: Path | str, after: Path | str, out: Path | str | None = None) -> tuple[dict[str, Any], Path]:
    """What the plans of two runs ask of the memory, side by side, and the page that shows it (`comparison.html`)."""
    found = profiles.compare_plans(Path(before), Path(after))
    return found, write_comparison_page(found, Path(out or "comparison.html"))


def with_settings(config: TrainConfig, settings: dict[str, Any]) -> TrainConfig:
    """The settings with some changed, each named as its flag is.

    Raises:
        ConfigError: there is no setting of that name, or it may not have that value.
    """
    parts = {part.name: getattr(config, part.name) for part in fields(config)}
    for name, value in settings.items():
        owner = next((part for part in parts if name in {f.name for f in fields(parts[part])}), None)
        if owner is None:
            raise ConfigError(f"There is no setting {name!r}; `unsquare train --help` lists them.")
        parts[owner] = replace(parts[owner], **{name: value})
    return TrainConfig(**parts)


def _reported(run: Path) -> Path:
    if int(os.environ.get("RANK", "0")) == 0:  # under torchrun the first rank alone writes
        write_report(run)
    return run
