"""The learning study: which settings learn well, beside squared pictures and other ways to batch. One command a table.

Every run is an ordinary run of `unsquare train` in the work folder, so a table that was stopped continues where it was.
An arm's learning rate is chosen on a part of the training pictures, by the same rates for each. Arms of squares have
as many epochs as take the training time of `ours` (equal time), or as many epochs as it (equal epochs). Pictures that
are judged are the val split, or the test split where there is one; the figure after the last epoch stands beside the
best one. `--jobs N` trains that many runs at once, each with its part of the threads: small networks keep several cores
busier that way, and times then compare with one another only.

    python benchmarks/learning.py arms --set clothing-large --data shared/data/photos --work learning --seeds 3 \
        --out benchmarks/results/learning_arms-DATE.json
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as the command line sets them
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

import torch
from learning_arms import arms_of, groups_of, mean_side, pictures_of, squared, tuning_index
from learning_figure import draw

from unsquare.runs.folder import RunFolder
from unsquare.training.components import DEFAULT, Components
from unsquare.training.config import TrainConfig, with_settings
from unsquare.training.start import train

RATES = (2.5e-4, 5e-4, 1e-3)
TUNING_EPOCHS = 3
SETS = ("clothing-large", "clothing", "food", "demo", "demo-large")
TABLES: dict[str, dict[str, dict[str, Any]]] = {
    "norms": {
        **{f"own, {n} images": {"norm": "own", "min_images": n, "step_images": 16} for n in (1, 2, 4, 8, 16)},
        "frozen": {"norm": "frozen", "step_images": 16},
        "group": {"norm": "group", "step_images": 16},
    },
    "padding": {
        "exact": {"norm": "frozen", "step_images": 16},
        **{f"naive, {n} images": {"arm": "naive", "min_images": n, "step_images": 16} for n in (1, 16)},
        "naive, random batches of 8": {"arm": "random", "step_images": 16},
    },
    "pools": {"avg (default)": {}, **{pool: {"pool": pool} for pool in ("spp", "catavgmax", "gem")}},
    "steps": {
        "mixed (default)": {},
        **{f"b2b, {policy}": {"steps": "b2b", "lr_policy": policy} for policy in ("none", "sqrt", "linear")},
    },
    "freezing": {
        "none (default)": {},
        **{f"freeze {what}": {"freeze": what} for what in ("2", "4", "backbone")},
        "backbone, thawed after 1": {"freeze": "backbone", "thaw_after": 1},
    },
    "smoothing": {"0.1 (default)": {}, "0": {"label_smoothing": 0.0}},
    "decay": {"1 (default)": {}, **{f"{decay:g}": {"layer_decay": decay} for decay in (0.9, 0.75)}},
    "heads": {"x 1 (default)": {}, **{f"x {factor:g}": {"head_lr_factor": factor} for factor in (3.0, 10.0)}},
    "rates": {f"lr {rate:g}": {"lr": rate} for rate in (1e-4, 2.5e-4, 5e-4, 1e-3, 2e-3)},
    "augmentation": {"flips (default)": {}, "RandAugment": {"auto_augment": "randaugment"}},
    "progressive": {
        "native": {"progressive": "off"},
        "50kP": {"progressive": "off", "max_pixels": 50_176},
        "100kP": {"progressive": "off", "max_pixels": 100_352},
        "auto": {"progressive": "auto"},
        "50kP to full": {"progressive": "50kP:2,full:1"},
    },
}
"""Tables of one or two settings that differ, or of an arm; all else is as by default, or as given with --shared. The
defaults of `finetune` are not spelled out, so that tables share the run that has them."""


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    table: str
    set: str
    row: str
    arm: str
    seed: int
    settings: dict[str, Any]
    epochs: int
    accuracy: float
    """Of the weights best on val; on the test split where there is one."""
    last_accuracy: float
    """On val, after the last epoch."""
    last_loss: float
    train_s: float
    megapixels: float
    """Computed, padding included."""
    curve: list[tuple[float, float, float]]
    """After each epoch: training seconds, computed megapixels, accuracy on val."""


@dataclass(frozen=True)
class Run:
    """A row of a table for one seed."""

    table: str
    row: str
    arm: str
    settings: dict[str, Any]
    seed: int


class Study:
    """Runs of one set of pictures, kept in a work folder."""

    def __init__(self, name: str, data: Path, work: Path, shared: dict[str, Any]) -> None:
        self.name, self.data, self.work, self.shared = name, data, work, shared
        self.pictures = pictures_of(name, data, work)
        self.arms = arms_of(mean_side(self.pictures))

    def source(self, name: str) -> Path:
        """The pictures of an arm, made if need be."""
        return squared(self.arms[name], self.pictures, self.work)

    def tuning_source(self, name: str) -> Path:
        """The training pictures of an arm, a quarter of them held out; made if need be."""
        source = self.source(name)
        return tuning_index(source, groups_of(self.pictures), self.work / f"{source.name}-tuning.parquet")

    def run(self, run: Run) -> Outcome:
        """Train once, or read what an earlier call trained."""
        arm = self.arms[run.arm]
        source = self.source(run.arm)
        found = {**self.shared, **arm.settings, **run.settings, "seed": run.seed}
        folder = self._train(source, found, arm.components)
        return Outcome(run.table, self.name, run.row, run.arm, run.seed, settings=found, **outcome_of(folder))

    def tuning_loss(self, name: str, rate: float) -> float:
        """The loss on a quarter of the training pictures after an arm was trained on the rest with a learning rate."""
        arm = self.arms[name]
        index = self.tuning_source(name)
        settings = {**self.shared, **arm.settings, "lr": rate, "epochs": TUNING_EPOCHS}
        return float(outcome_of(self._train(index, settings, arm.components))["last_loss"])

    def _train(self, source: Path, settings: dict[str, Any], components: Components = DEFAULT) -> Path:
        words = "-".join(f"{key}={value}" for key, value in sorted(settings.items()))
        name = f"{source.stem}-{components_name(components)}-{words}".replace("/", "_").replace(" ", "")
        folder = self.work / "runs" / name
        rows = RunFolder(folder).read_metrics().rows if folder.is_dir() else []
        if not rows or rows[-1].to_dict()["kind"] != "final":
            print(f"{time.strftime('%H:%M:%S')} {name}", flush=True)
            folder.parent.mkdir(parents=True, exist_ok=True)
            train(source, folder, with_settings(TrainConfig(), settings), quiet=True, components=components)
        return folder


def components_name(components: Components) -> str:
    """A name for the replaced parts of training."""
    return f"{components.classifier.__name__}-{components.plan.__name__}"


def outcome_of(folder: Path) -> dict[str, Any]:
    """The figures of a finished run."""
    rows = [row.to_dict() for row in RunFolder(folder).read_metrics().rows]
    seconds = pixels = 0.0
    curve: list[tuple[float, float, float]] = []
    losses = []
    for row in rows:
        if row["kind"] == "step":
            seconds += row["step_s"]
            pixels += row["computed_pixels"] / 1e6
        elif row["kind"] == "eval":
            curve.append((round(seconds, 1), round(pixels, 1), row["accuracy"]))
            losses.append(row["loss"])
    return {
        "epochs": len(curve),
        "accuracy": rows[-1]["accuracy"],
        "last_accuracy": curve[-1][2],
        "last_loss": losses[-1],
        "train_s": curve[-1][0],
        "megapixels": curve[-1][1],
        "curve": curve,
    }


class Jobs:
    """Does the work of a study, several runs at once if asked."""

    def __init__(self, study: Study, number: int) -> None:
        self.study = study
        threads = max(1, torch.get_num_threads() // number)
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(number, spawn, torch.set_num_threads, (threads,)) if number > 1 else None

    def runs(self, runs: list[Run]) -> list[Outcome]:
        """The outcomes of all runs, in order."""
        for name in dict.fromkeys(run.arm for run in runs):
            self.study.source(name)  # made once, before the processes look for it
        return self._map(_run, runs)

    def best_rates(self, names: list[str]) -> dict[str, float]:
        """Of each arm the learning rate with the lowest loss."""
        for name in names:
            self.study.tuning_source(name)
        asked = [(name, rate) for name in names for rate in RATES]
        losses = dict(zip(asked, self._map(_tuning_loss, asked)))
        return {name: min(RATES, key=lambda rate: losses[name, rate]) for name in names}

    def _map(self, function: Callable[..., Any], values: list[Any]) -> list[Any]:
        study = self.study
        call = partial(function, (study.name, study.data, study.work, study.shared))
        return list(map(call, values) if self._pool is None else self._pool.map(call, values))


StudyParts = tuple[str, Path, Path, dict[str, Any]]
"""What a study is made of, for another process."""


def _run(study: StudyParts, run: Run) -> Outcome:
    return Study(*study).run(run)


def _tuning_loss(study: StudyParts, asked: tuple[str, float]) -> float:
    return Study(*study).tuning_loss(*asked)


def arms_table(jobs: Jobs, names: list[str], seeds: int) -> Iterator[Outcome]:
    """Every arm at equal epochs, then those of squares at equal training time."""
    ours = jobs.runs([Run("arms", "ours", "ours", {}, seed) for seed in range(seeds)])
    yield from ours
    epochs = ours[0].epochs
    time_s = sum(each.train_s for each in ours) / seeds
    rates = jobs.best_rates(names)
    equal = jobs.runs(
        [
            Run("arms", name, name, {"lr": rates[name], "epochs": epochs}, seed)
            for name in names
            for seed in range(seeds)
        ]
    )
    yield from equal
    longer = {each.arm: max(1, round(time_s / (each.train_s / epochs))) for each in equal if each.seed == 0}
    yield from jobs.runs(
        [
            Run("arms, equal time", name, name, {"lr": rates[name], "epochs": longer[name]}, seed)
            for name in names
            if jobs.study.arms[name].square is not None
            for seed in range(seeds)
        ]
    )


def settings_table(jobs: Jobs, table: str, seeds: int) -> list[Outcome]:
    """A run for each row of a table and each seed."""
    runs = []
    for row, settings in TABLES[table].items():
        differing = {name: value for name, value in settings.items() if name != "arm"}
        runs += [Run(table, row, settings.get("arm", "ours"), differing, seed) for seed in range(seeds)]
    return jobs.runs(runs)


def summary(outcomes: list[Outcome]) -> str:
    """A Markdown table: mean and 95 % interval over the seeds, by the t distribution."""
    lines = ["| row | epochs | best | last epoch | loss | training | computed |", "|---|---|---|---|---|---|---|"]
    for table, name in dict.fromkeys((each.table, each.row) for each in outcomes):
        rows = [each for each in outcomes if (each.table, each.row) == (table, name)]
        label = f"{name} ({table.partition(', ')[2]})" if ", " in table else name
        accuracy, last = ([getattr(each, part) for each in rows] for part in ("accuracy", "last_accuracy"))
        loss, seconds, pixels = (
            sum(getattr(each, part) for each in rows) / len(rows) for part in ("last_loss", "train_s", "megapixels")
        )
        lines.append(
            f"| {label} | {rows[0].epochs} | {interval(accuracy)} | {interval(last)} | {loss:.3f} | {seconds:.0f} s | "
            f"{pixels:.0f} MP |"
        )
    return "\n".join(lines)


_T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}


def interval(values: list[float]) -> str:
    """Mean and half of its 95 % interval."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return f"{mean:.3f} ± {_T95.get(len(values), 2.0) * deviation / math.sqrt(len(values)):.3f}"


def main() -> None:
    """Run a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["arms", *TABLES])
    parser.add_argument("--set", choices=SETS, default="clothing-large")
    parser.add_argument("--arms", nargs="*", default=["native", "squash-224", "squash-320", "letterbox-224", "random"])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("learning"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--shared", type=json.loads, default={}, help="settings of every run, as JSON")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path, help="SVG of accuracy over training time")
    given = parser.parse_args()
    jobs = Jobs(Study(given.set, given.data, given.work, given.shared), given.jobs)
    if given.table == "arms":
        outcomes = list(arms_table(jobs, given.arms, given.seeds))
    else:
        outcomes = settings_table(jobs, given.table, given.seeds)
    print(summary(outcomes))
    if given.out is not None:
        machine = {"machine": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
        about = {"date": time.strftime("%Y-%m-%d"), "torch": torch.__version__, **machine, "shared": given.shared}
        given.out.write_text(json.dumps({**about, "outcomes": [asdict(each) for each in outcomes]}, indent=1))
    if given.figure is not None:
        draw([asdict(each) for each in outcomes], given.figure)


if __name__ == "__main__":
    main()
