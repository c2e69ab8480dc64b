"""Run folders made up for the tests: the files of a run that learned, drawn from seeded random numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.figure import Figure

from unsquare.execution.strategy import PLAIN, Segment, Strategy
from unsquare.index.table import Problem, ShapeIndex
from unsquare.index.text import strings
from unsquare.memory.model import MemoryModel, TimeModel
from unsquare.plan import Limits
from unsquare.report import write_report
from unsquare.report.kit import figures
from unsquare.runs.memory_profile import MemoryProfile, Probe, ProbeRange, RunLimits, StrategyProfile

GIB = 2**30
PLAIN_PIXELS = 5_300_000
"""What the first strategy holds."""


@pytest.fixture(scope="session")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a complete run."""
    return write_report(_write_run(tmp_path_factory.mktemp("runs") / "first")).read_text(encoding="utf-8")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A small complete run folder."""
    return _write_run(tmp_path / "run", num_images=480, num_steps=12)


@pytest.fixture
def unrendered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are drawn, but not written as SVG, which takes most of a page's time: for tests of what pages say."""

    def address(paint: Callable[[Figure], None], width: float, height: float) -> str:
        paint(Figure(figsize=(width, height)))
        return "data:image/svg+xml;base64,PHN2Zy8+"

    monkeypatch.setattr(figures, "_address", address)


@pytest.fixture
def write_run() -> Callable[..., Path]:
    """Writes a run folder to order."""
    return _write_run


def _write_run(
    folder: Path,
    *,
    num_images: int = 480,
    num_steps: int = 150,
    classes: Sequence[str] = ("bronze", "clay", "linen", "marble", "oak", "silver"),
    num_micro_batches: int = 6,
    seed: int = 3,
) -> Path:
    """A complete run folder."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    index = _index(rng, num_images, classes)
    batches = _micro_batches(index.of_split("train").sizes)
    _write_config(folder)
    index.write(folder / "index.parquet")
    _write_json(folder / "models.json", _limits())
    _write_json(folder / "plan.json", _plan(index.of_split("train").sizes, batches))
    rows = _metrics(rng, num_steps, num_micro_batches, batches)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _write_memory(folder / "memory.parquet", rng, rows)
    _write_evaluation(folder / "evaluation.parquet", rng, index.of_split("test"))
    return folder


def _index(rng: np.random.Generator, num_images: int, classes: Sequence[str]) -> ShapeIndex:
    pixels = np.exp(rng.normal(np.log(1.2e6), 1.0, num_images)).clip(2e4, 2e7)
    aspect = np.exp(rng.normal(0, 0.45, num_images)) * np.where(rng.random(num_images) < 0.3, 1.5, 0.8)
    sizes = np.stack([np.sqrt(pixels / aspect), np.sqrt(pixels * aspect)], axis=-1).round().astype(np.int64)
    labels = rng.integers(0, len(classes), num_images).astype(np.int32)
    splits = rng.choice(["train", "val", "test"], num_images, p=[0.6, 0.15, 0.25])
    names = [classes[label] for label in labels]
    keys = [f"{split}/{name}/{at:05d}.jpg" for at, (split, name) in enumerate(zip(splits, names))]
    return ShapeIndex(
        root="photographs",
        classes=tuple(sorted(classes)),
        keys=strings(keys),
        sizes=sizes,
        labels=labels,
        splits=strings([str(split) for split in splits]),
        num_bytes=(pixels * 0.4).astype(np.int64),
        modified_ns=np.zeros(num_images, dtype=np.int64),
        problems=(Problem(key="train/oak/broken.jpg", reason="is cut short after 1,024 bytes"),),
    )


def _micro_batches(sizes: npt.NDArray[np.int64]) -> list[list[int]]:
    """Images of like shape together, up to six that the first strategy holds, or one alone."""
    order = np.lexsort((sizes[:, 1] / sizes[:, 0], np.floor(np.log2(sizes.prod(axis=1)))))
    parts: list[list[int]] = []
    for height, width in sizes[order].tolist():
        if parts:
            count, tallest, widest = parts[-1]
            both = [count + 1, max(height, tallest), max(width, widest)]
            if count < 6 and np.prod(both) <= PLAIN_PIXELS:
                parts[-1] = both
                continue
        parts.append([1, height, width])
    return parts


def _write_config(folder: Path) -> None:
    (folder / "config.toml").write_text(
        "[geometry]\nscale = 1.0\nmin_side = 0\ncrop_fraction = 1.0\n\n"
        '[augment]\nflip = true\n\n[plan]\nsteps = "mixed"\nstep_images = 32\n\n'
        '[model]\nbackbone = "resnet18"\npretrained = false\nlevels = [1, 2, 4]\n\n'
        "[optimizer]\nepochs = 12\nweight_decay = 0.05\n\n[learning_rate]\nlr = 0.001\n"
    )


def _limits() -> dict[str, Any]:
    probes = tuple(Probe(n, 512, 640, GIB + n * 300_000_000, 0.04 + 0.11 * n) for n in (1, 2, 4, 8))
    plain = StrategyProfile(
        name="plain",
        strategy=PLAIN,
        memory=MemoryModel(1.1 * GIB, 900.0),
        time=TimeModel(0.04, 3.4e-7),
        probes=probes,
    )
    checkpoint = StrategyProfile(
        name="checkpoint",
        strategy=Strategy((Segment(0, 3, "checkpoint"), Segment(3, 9, "keep"))),
        memory=MemoryModel(1.1 * GIB, 250.0),
        time=TimeModel(0.05, 4.4e-7),
        probes=tuple(replace(probe, peak_bytes=GIB + probe.images * 100_000_000) for probe in probes),
    )
    training = MemoryProfile(
        budget_bytes=6 * GIB,
        reserved_bytes=GIB // 4,
        heap="return",
        map_elements=16.0,
        probe_range=ProbeRange(5_000_000, 4_000_000, 20_000, None),
        measured=(plain, checkpoint),
    )
    return RunLimits(training=training, evaluation=replace(training, measured=(plain,))).to_dict()


def _plan(sizes: npt.NDArray[np.int64], batches: list[list[int]]) -> dict[str, Any]:
    real, computed = int(sizes.prod(axis=1).sum()), sum(n * h * w for n, h, w in batches)
    row = {"superbucket": 0, "canvas": batches[0][1:], "num_images": 40, "num_micro_batches": 7}
    row |= {"smallest_batch": 3, "median_batch": 6.0, "largest_batch": 7}
    row |= {"padding_overhead": 0.04, "class_skew": 0.12}
    ledger = {
        "num_images": len(sizes),
        "num_steps": 9,
        "num_micro_batches": len(batches),
        "num_canvases": len({tuple(batch[1:]) for batch in batches}),
        "real_pixels": real,
        "computed_pixels": computed,
        "padding_overhead": 0.031,
        "max_micro_batch_pixels": max(n * h * w for n, h, w in batches),
        "mean_fill": 0.61,
        "median_fill": 0.66,
        "rank_imbalance": 1.0,
        "step_class_skew": 0.1,
        "chance_class_skew": 0.1,
        "buckets": [row],
    }
    limits = asdict(Limits(budget_pixels=PLAIN_PIXELS))
    return {"version": 2, "config": {}, "limits": limits, "ledger": ledger, "micro_batches": batches}


def _metrics(
    rng: np.random.Generator, num_steps: int, num_micro_batches: int, batches: list[list[int]]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    time_s = 2.0
    for step in range(1, num_steps + 1):
        progress = step / num_steps
        step_s = float(rng.uniform(0.8, 1.4))
        time_s += step_s
        chosen = [batches[number] for number in rng.integers(0, len(batches), num_micro_batches)]
        images, computed = sum(one[0] for one in chosen), sum(n * h * w for n, h, w in chosen)
        rows.append(
            {
                "kind": "step",
                "step": step,
                "epoch": 12 * progress,
                "time_s": time_s,
                "loss": float(0.35 + 1.5 * np.exp(-3 * progress) + rng.normal(0, 0.08)),
                "accuracy": float(np.clip(0.92 - 0.75 * np.exp(-3 * progress) + rng.normal(0, 0.07), 0, 1)),
                "learning_rate": 1e-3 * min(1, 10 * progress) * (1 + np.cos(np.pi * progress)) / 2,
                "num_images": images,
                "num_micro_batches": len(chosen),
                "real_pixels": int(computed * 0.97),
                "computed_pixels": computed,
                "data_wait_s": step_s * float(rng.uniform(0, 0.12)),
                "step_s": step_s,
                "gradient_norm": 1.0,
                "shortages": 0,
                "measured": [[*one, int(_peak_bytes(*one) * rng.uniform(0.95, 1)), _strategy(*one)] for one in chosen],
                "micro_batches": chosen,
            }
        )
        if step % max(1, num_steps // 12) == 0:
            rows.append(_evaluation_row("eval", "val", step, progress, time_s))
            time_s += 2.5
    rows.append(_evaluation_row("final", "test", num_steps, 1.0, time_s))
    return rows


def _evaluation_row(kind: str, split: str, step: int, progress: float, time_s: float) -> dict[str, Any]:
    accuracy = 0.84 - 0.66 * float(np.exp(-2.6 * progress))
    return {
        "kind": kind,
        "step": step,
        "epoch": 12 * progress,
        "time_s": time_s,
        "split": split,
        "loss": 0.6 + 1.2 * float(np.exp(-3 * progress)),
        "accuracy": accuracy,
        "mean_per_class_accuracy": accuracy - 0.012,
        "num_images": 120,
        "seconds": 2.2,
    }


def _write_memory(path: Path, rng: np.random.Generator, rows: list[dict[str, Any]]) -> None:
    samples: dict[str, list[Any]] = {
        name: []
        for name in ("time_s", "resident_bytes", "allocated_bytes", "step", "images", "height", "width", "phase")
    }
    samples["reserved_bytes"] = []
    for row in rows:
        if row["kind"] != "step":
            continue
        begin, parts = row["time_s"] - row["step_s"], row["micro_batches"]
        for number, each in enumerate(parts):
            for part, phase in (
                (0.1, "data"),
                (0.3, "forward"),
                (0.5, "forward"),
                (0.7, "backward"),
                (0.9, "backward"),
            ):
                images, height, width = each if phase != "data" else (0, 0, 0)
                grown = 0.0 if phase == "data" else 1 - abs(part - 0.6)
                used = 1.1 * GIB + (_peak_bytes(*each) - 1.1 * GIB) * grown * rng.uniform(0.93, 1)
                samples["time_s"].append(begin + row["step_s"] * (number + part) / len(parts))
                samples["resident_bytes"].append(int(used))
                samples["allocated_bytes"].append(int(used - 0.4 * GIB))
                samples["reserved_bytes"].append(None)
                samples["step"].append(row["step"])
                samples["images"].append(images)
                samples["height"].append(height)
                samples["width"].append(width)
                samples["phase"].append(phase)
    table = pa.table({**samples, "reserved_bytes": pa.array(samples["reserved_bytes"], pa.int64())})
    pq.write_table(table, path)


def _strategy(images: int, height: int, width: int) -> str:
    return "plain" if images * height * width <= PLAIN_PIXELS else "checkpoint"


def _peak_bytes(images: int, height: int, width: int) -> float:
    pixels = images * height * width
    return 1.1 * GIB + (900 if pixels <= PLAIN_PIXELS else 225) * pixels


@pytest.fixture
def profile() -> dict[str, Any]:
    """The content of a profile.json."""
    per_image, fixed = 384 * 512 * 900.0, 0.9 * GIB
    counts = (1, 2, 4, 8, 16, 32, 40, 41)
    rows = [
        {
            "images": images,
            "peak_bytes": int(fixed + per_image * images * (1.01 + 0.02 * (images % 3))),
            "predicted_bytes": int(fixed + per_image * images),
            "seconds": 0.02 + 0.06 * images,
        }
        for images in counts
    ]
    names = [f"backbone.layer{block}.{number}.conv{at}" for block in (1, 2, 3, 4) for number in (0, 1) for at in (1, 2)]
    layers = [
        {"name": name, "type": "ExactConv2d", "activations": 90e6 * 0.8**at, "weights": 4e4 * 1.6**at}
        for at, name in enumerate(["backbone.conv1", *names, "pyramid", "head.classifier"])
    ]
    kinds = {"process": 6.1e8, "weights": 4.5e7, "gradients": 4.5e7, "optimizer": 9e7, "activations": 1.4e9}
    return {
        "version": 2,
        "subject": "runs/museum",
        "backbone": "resnet18",
        "device": "cpu",
        "precision": "bf16-mixed",
        "budget_bytes": 8 * GIB,
        "sweep": {
            "canvas": [384, 512],
            "strategy": "plain",
            "steps_each": 3,
            "memory": asdict(MemoryModel(fixed, 900.0)),
            "limit_bytes": 8.6 * GIB,
            "rows": rows,
            "failed_images": 42,
            "failure": "The process was stopped at 8.6 GiB.",
            "largest_images": 41,
            "predicted_images": 43,
        },
        "attribution": {
            "images": 8,
            "canvas": [384, 512],
            "strategy": "plain",
            "peak_bytes": 2.4e9,
            "phase": "backward",
            "at": "backbone.layer1.0.conv1",
            "kinds": [*kinds.items(), ("workspace", 1.6e8), ("loader", 5e7)],
            "layers": layers,
        },
    }


@pytest.fixture
def comparison() -> dict[str, Any]:
    """Two plans of the same images, the second with a quarter of the micro-batches."""
    rng = np.random.default_rng(5)
    plans = []
    for name, count, overhead, seconds in (("runs/before", 400, 0.28, 610.0), ("runs/after", 130, 0.031, 402.0)):
        batches = [[int(n), 512, 640] for n in rng.integers(1, 17, count)]
        predicted = [1.1 * GIB + 900 * n * h * w for n, h, w in batches]
        ledger = {"num_images": 1200, "num_steps": 9, "num_micro_batches": count, "padding_overhead": overhead}
        plans.append(
            {
                "name": name,
                "budget_bytes": 6 * GIB,
                "ledger": ledger | {"computed_pixels": 2.2e9 * (1 + overhead), "buckets": []},
                "micro_batches": batches,
                "predicted_bytes": predicted,
                "measured_bytes": [[*batches[0], predicted[0], "plain"]],
                "fills": [min(n / 16, 1.0) for n, _, _ in batches],
                "seconds": seconds,
            }
        )
    return {"version": 1, "plans": plans}


def _write_evaluation(path: Path, rng: np.random.Generator, index: ShapeIndex) -> None:
    labels = [index.classes[label] for label in index.labels]
    wrong = rng.random(len(labels)) < 0.2
    other = [index.classes[(label + 1 + rng.integers(0, 2)) % len(index.classes)] for label in index.labels]
    table = {
        "key": list(index.keys),
        "label": labels,
        "predicted": [b if swap else a for a, b, swap in zip(labels, other, wrong)],
        "probability": np.where(wrong, rng.uniform(0.3, 0.98, len(labels)), rng.uniform(0.5, 1, len(labels))),
        "height": index.sizes[:, 0],
        "width": index.sizes[:, 1],
    }
    pq.write_table(pa.table(table), path)


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value))
