"""Our plans against the rules by which other projects form batches, on real lists of shapes; no pixels, no device.

For every list, limit on pixels and memory budget: padding overhead, micro-batches, batches over budget, fill, class
skew against chance, and the epoch's time predicted by one stated model, (computed pixels + 1 MP a batch) / 100 MP per
second. `unsquare.plan.baselines.peers` has each policy's rule and where it is described. For timm and lhotse the
installed packages themselves run, lhotse in an interpreter of its own.

    python benchmarks/plan_policies.py --lhotse /path/to/python-with-lhotse
    python benchmarks/plan_policies.py --quick --out /tmp/policies.json
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import datetime
import gzip
import io
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unsquare.plan import Limits, PlanConfig, plan_epoch
from unsquare.plan.analysis.policies import PolicyFigures, figures_of
from unsquare.plan.analysis.table import PlanTable
from unsquare.plan.baselines.peers import PEERS, Peer
from unsquare.plan.baselines.rules import two_level_cells
from unsquare.shapes import Geometry, Sizes
from unsquare.version import __version__

BUDGETS = (8_000_000, 16_000_000, 64_000_000, 256_000_000)
CAPS = (None, 16_000_000, 4_000_000, 1_000_000)
LISTS = ("mame", "bl_flickr", "clothing", "coco_val2017", "food_web_photos", "usda_pomological_thumbs")
QUICK = {"mame": (4_000_000,), "coco_val2017": (None,)}
LHOTSE_IMAGES = 50_000
"""Longer lists are not given to lhotse's sampler, which checks every waiting picture for each batch."""
OURS = {
    "mixed": PlanConfig(steps="mixed"),
    "b2b": PlanConfig(steps="b2b"),
    "b2b, 64 buckets": PlanConfig(steps="b2b", buckets=64),
}
SEED = 0
PATCH = 16
NAFLEX_QUANTILES = (0.1, 0.3, 0.5, 0.7, 0.9)
TIMM = "timm, NaFlexMapDatasetWrapper, timm/data/naflex_dataset.py, https://github.com/huggingface/pytorch-image-models"
LHOTSE = (
    "lhotse, lhotse/dataset/sampling/dynamic_bucketing.py, https://github.com/lhotse-speech/lhotse; NVIDIA NeMo, 2D "
    "bucketing, https://github.com/NVIDIA/NeMo"
)


@dataclass(frozen=True)
class ShapeList:
    """Shapes (N, 2) and labels (N,), -1 where unknown."""

    sizes: Sizes
    labels: np.ndarray


@dataclass(frozen=True)
class Row:
    """A policy's figures, and their limits."""

    figures: PolicyFigures
    keeps_pixels: bool
    uniform: bool
    plan_s: float

    def to_dict(self) -> dict[str, Any]:
        said = {"keeps_pixels": self.keeps_pixels, "uniform": self.uniform, "plan_s": round(self.plan_s, 3)}
        return {**asdict(self.figures), **said}


def read_list(name: str, data: Path) -> ShapeList:
    if name == "mame":
        with open(data / "mame" / "MAMe_dataset.csv", newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["Subset"] == "train"]
        words = ("Height", "Width", "Medium")
    else:
        with gzip.open(data / "shapes" / f"{name}.csv.gz", "rt", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        words = ("height", "width", "label")
    height, width, label = words
    names = sorted({row[label] for row in rows} - {""})
    number = {name: i for i, name in enumerate(names)} if len(names) > 1 else {}
    return ShapeList(
        sizes=np.array([(int(float(row[height])), int(float(row[width]))) for row in rows]),
        labels=np.array([number.get(row[label], -1) for row in rows]),
    )


def naflex(sizes: Sizes, limits: Limits, seq_lens: tuple[int, ...], seed: int) -> PlanTable:
    """The batches of timm's NaFlex schedule, in tokens of 16 x 16 pixels, from the installed package."""
    from unsquare.torchvision_guard import import_timm

    import_timm()
    from timm.data.naflex_dataset import NaFlexMapDatasetWrapper

    with contextlib.redirect_stdout(io.StringIO()):
        wrapper = NaFlexMapDatasetWrapper(
            range(len(sizes)),
            patch_size=PATCH,
            seq_lens=seq_lens,
            max_tokens_per_batch=limits.budget_pixels // PATCH**2,
            seed=seed,
            batch_divisor=1,
        )
        epoch = wrapper._prepare_epoch_batches(0)
    canvases = np.array([(PATCH, PATCH * seq_len) for seq_len, _, _ in epoch])
    counts = np.array([len(images) for _, _, images in epoch])
    return PlanTable.of_runs(sizes, np.concatenate([images for _, _, images in epoch]), counts, canvases)


def lhotse_batches(sizes: Sizes, limits: Limits, rule: str, python: str) -> PlanTable:
    """The batches of lhotse's sampler, drawn by a process of its own."""
    columns = sizes
    if rule == "cells":
        columns = np.column_stack([sizes, two_level_cells(sizes, limits, SEED)])
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "sizes.npy", Path(folder) / "batches.npz"
        np.save(source, columns)
        script = Path(__file__).with_name("lhotse_batches.py")
        words = [python, str(script), str(source), str(limits.budget_pixels), rule, str(target)]
        subprocess.run(words, check=True)
        with np.load(target) as found:
            return PlanTable.of_runs(sizes, found["images"], found["counts"])


def package_peers(sizes: Sizes, lhotse: str | None) -> list[Peer]:
    """Policies whose batches are drawn by the installed packages themselves."""
    tokens = (-(-sizes // PATCH)).prod(axis=1)
    longest = (int(tokens.max()),)
    several = tuple(max(int(length), 1) for length in np.quantile(tokens, NAFLEX_QUANTILES))
    found = [
        Peer(
            name="timm NaFlex, one length",
            rule="a shuffle cut into batches of one size, each image padded to as many patches as the largest has: a "
            "sequence without height and width, which transformers can run and convolutions cannot.",
            source=TIMM,
            shuffled=True,
            uniform=True,
            batches=lambda sizes, limits, seed: naflex(sizes, limits, longest, seed),
        ),
        Peer(
            name="timm NaFlex, five lengths, resized",
            rule="a shuffle cut into batches, each resized to one of five numbers of patches (quantiles 0.1 to 0.9 of "
            "the images' own), as many images as the budget holds of it.",
            source=TIMM,
            shuffled=True,
            uniform=True,
            keeps_pixels=False,
            batches=lambda sizes, limits, seed: naflex(sizes, limits, several, seed),
        ),
    ]
    if lhotse is None or len(sizes) > LHOTSE_IMAGES:
        return found
    return [
        *found,
        Peer(
            name="lhotse, 30 buckets by pixels",
            rule="DynamicBucketingSampler with pixels for duration: 30 buckets of equal totals, count x most pixels "
            "within the budget, which the padded canvas may exceed.",
            source=LHOTSE,
            shuffled=True,
            batches=lambda sizes, limits, seed: lhotse_batches(sizes, limits, "pixels", lhotse),
        ),
        Peer(
            name="lhotse, two-level bins",
            rule="DynamicBucketingSampler with two-level bins and a batch size for each, as NeMo's 2D bucketing.",
            source=LHOTSE,
            shuffled=True,
            batches=lambda sizes, limits, seed: lhotse_batches(sizes, limits, "cells", lhotse),
        ),
    ]


def row_of(peer: Peer, shapes: ShapeList, limits: Limits) -> Row:
    started = time.perf_counter()
    table = peer.batches(shapes.sizes, limits, SEED)
    elapsed = time.perf_counter() - started
    found = figures_of(peer.name, peer.shuffled, table, limits, shapes.labels)
    return Row(found, peer.keeps_pixels, peer.uniform, elapsed)


def own_row(name: str, config: PlanConfig, shapes: ShapeList, limits: Limits) -> Row:
    started = time.perf_counter()
    table = PlanTable.of_plan(plan_epoch(shapes.sizes, config, limits, 0))
    elapsed = time.perf_counter() - started
    found = figures_of(name, True, table, limits, shapes.labels)
    return Row(found, True, config.steps == "mixed", elapsed)


def verdicts(own: list[Row], others: list[Row]) -> dict[str, Any]:
    """Each of ours against the others that train on the same pixels: the fastest, and all that are faster."""
    kept = [row for row in others if row.keeps_pixels]
    kinds = {
        "shuffled": [row.figures for row in kept if row.figures.shuffled],
        "uniform": [row.figures for row in kept if row.uniform],
        "not shuffled": [row.figures for row in kept if not row.figures.shuffled],
    }
    return {row.figures.name: {kind: _verdict(row.figures, rivals) for kind, rivals in kinds.items()} for row in own}


def _verdict(own: PolicyFigures, rivals: list[PolicyFigures]) -> dict[str, Any]:
    ordered = sorted(rivals, key=lambda rival: rival.predicted_s)
    within = [rival for rival in ordered if not rival.num_over_budget]
    return {
        "quickest": _against(own, ordered[0]),
        "quickest_within_budget": _against(own, within[0]) if within else None,
        "quicker_than_ours": [_against(own, rival) for rival in ordered if rival.predicted_s < own.predicted_s],
    }


def _against(own: PolicyFigures, other: PolicyFigures) -> dict[str, Any]:
    ratio = own.predicted_s / other.predicted_s
    return {"name": other.name, "ours_over_theirs": ratio, "num_over_budget": other.num_over_budget}


def caps_that_bind(sizes: Sizes, caps: tuple[int | None, ...]) -> list[int | None]:
    largest = int(sizes.prod(axis=1).max())
    return [cap for cap in caps if cap is None or cap < largest]


def line(cap: int | None, limits: Limits, own: list[Row], others: list[Row]) -> str:
    """One setting in the compact table."""
    setting = f"{_mp(cap) if cap else 'native':>7} {_mp(limits.budget_pixels):>7}"
    if not own:
        return f"{setting}  an image is over the budget: ours refuse; the others go over it in training"
    said = verdicts(own, others)
    cells = [f"{row.figures.padding_overhead:7.1%} {row.figures.predicted_s:8.1f} {_ratios(said, row)}" for row in own]
    return f"{setting}  {'  '.join(cells)}  {said['mixed']['shuffled']['quickest']['name']}"


def _ratios(said: dict[str, Any], row: Row) -> str:
    kinds = said[row.figures.name].values()
    return " ".join(f"{kind['quickest']['ours_over_theirs'] - 1:+7.1%}" for kind in kinds)


def _mp(pixels: int) -> str:
    return f"{pixels / 1e6:g} MP"


def heading() -> str:
    """Each of ours: its padding and seconds, and its seconds against the fastest shuffled, uniform and fixed other."""
    ours = "  ".join(f"{name:^40}" for name in OURS)
    below = "  ".join(f"{'padding':>7} {'s':>8} {'shuffl.':>7} {'uniform':>7} {'fixed':>7}" for _ in OURS)
    return f"{'':15}  {ours}\n{'cap':>7} {'budget':>7}  {below}  quickest of the shuffled others"


def setting_of(given: argparse.Namespace) -> dict[str, Any]:
    versions = {"unsquare": __version__, "python": platform.python_version(), "numpy": np.__version__}
    with contextlib.suppress(ImportError):
        from unsquare.torchvision_guard import import_timm

        versions["timm"] = import_timm().__version__
    if given.lhotse:
        words = [given.lhotse, "-c", "import lhotse; print(lhotse.__version__)"]
        versions["lhotse"] = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    return {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions,
        "time_model": {"pixels_per_s": Limits().pixels_per_s, "launch_pixels": Limits().launch_pixels},
        "seed": SEED,
        "ours": {name: asdict(config) for name, config in OURS.items()},
        "quick": given.quick,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lists", nargs="*", default=list(LISTS), help=f"of {', '.join(LISTS)}; all if none is given")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of mame/ and shapes/")
    parser.add_argument("--lhotse", metavar="PYTHON", help="an interpreter that has lhotse; skipped if not given")
    parser.add_argument("--quick", action="store_true", help="two lists, one limit each, two budgets")
    parser.add_argument("--out", type=Path, help="where the numbers go, as JSON")
    given = parser.parse_args()
    for name in set(given.lists) - set(LISTS):
        parser.error(f"there is no list {name}; the lists are {', '.join(LISTS)}")
    out = given.out or Path(__file__).parent / "results" / f"plan_policies-{datetime.date.today()}.json"
    setting = setting_of(given)
    print(*(f"{name}: {value}" for name, value in setting.items()), sep="\n")
    peers = [*PEERS, *package_peers(np.ones((1, 2), dtype=np.int64), given.lhotse)]
    sources = [{"name": peer.name, "rule": peer.rule, "source": peer.source} for peer in peers]
    results: dict[str, Any] = {"setting": setting, "peers": sources, "lists": []}
    started = time.perf_counter()
    for name in [name for name in given.lists if not given.quick or name in QUICK]:
        results["lists"] += measured(name, given)
    out.write_text(text_of(results))
    print(f"\n{time.perf_counter() - started:.0f} s; {out}", file=sys.stderr)


def text_of(results: dict[str, Any]) -> str:
    """JSON with a line for each setting, numbers to six digits after the point."""
    rounded = json.loads(json.dumps(results), parse_float=lambda digits: round(float(digits), 6))
    head = json.dumps({key: rounded[key] for key in ("setting", "peers")}, indent=1)
    lists = ",\n".join(json.dumps(one, separators=(",", ":")) for one in rounded["lists"])
    return f'{head[:-2]},\n "lists": [\n{lists}\n]}}\n'


def measured(name: str, given: argparse.Namespace) -> list[dict[str, Any]]:
    """All settings of a list, printed as they come."""
    native = read_list(name, given.data)
    print(f"\n{name}: {len(native.sizes):,} images, {native.sizes.prod(axis=1).sum() / 1e9:.2f} GP\n{heading()}")
    found = []
    for cap in caps_that_bind(native.sizes, QUICK[name] if given.quick else CAPS):
        shapes = ShapeList(Geometry(max_pixels=cap).resize(native.sizes), native.labels)
        peers = [*PEERS, *package_peers(shapes.sizes, given.lhotse)]
        for budget in BUDGETS[::2] if given.quick else BUDGETS:
            limits = Limits(budget_pixels=budget)
            others = [row_of(peer, shapes, limits) for peer in peers]
            fits = int(shapes.sizes.prod(axis=1).max()) <= budget
            own = [own_row(ours, config, shapes, limits) for ours, config in OURS.items()] if fits else []
            print(line(cap, limits, own, others), flush=True)
            found.append(
                {
                    "list": name,
                    "num_images": len(shapes.sizes),
                    "real_pixels": int(shapes.sizes.prod(axis=1).sum()),
                    "max_pixels": cap,
                    "budget_pixels": budget,
                    "image_over_budget": not fits,
                    "ours": [row.to_dict() for row in own],
                    "others": [row.to_dict() for row in others],
                    "verdicts": verdicts(own, others),
                }
            )
    return found


if __name__ == "__main__":
    main()
