"""How little padding a bounded set of canvases can have: what `choose_canvases` reaches, and a bound for any choice.

MAMe's train split at most 16 MP, every image padded to the cheapest canvas that holds it.

The bound is Lagrangian. Choosing at most K canvases, and for each image one that holds it, with the fewest computed
pixels is an integer linear program. Give each image i a price v_i and drop the rule that it has exactly one canvas,
paying v_i if it has none. Whatever the prices, the minimum of the relaxed problem,

    L(v) = sum_i v_i - (sum of the K largest S(h, w)),
    S(h, w) = sum of max(v_i - h w, 0) over the images that (h, w) holds,

is at most the cost of every choice of K canvases, because a choice that obeys the rule costs the same before and after.
S is `savings` at prices v. It is needed only at heights and widths of images, because a canvas shrunk to the images on
it costs no more. Subgradient steps raise L.

Sides may be rounded down to a few levels, for images and canvases alike: rounding is monotone, so a canvas still holds
the same images, and its area only falls. A bound for rounded sides is therefore a bound for the real ones. Steps begin
with few levels, where they take milliseconds, and pass their prices on to more; the last stage rounds nothing.

    python benchmarks/canvas_bound.py shared/data/mame/MAMe_dataset.csv --out benchmarks/results/canvas_bound-DATE.json
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np

from unsquare.plan.buckets.canvases import Prices, SideLengths, cheapest_canvas, choose_canvases, savings
from unsquare.plan.config import Counts, Limits
from unsquare.shapes import Geometry, Sizes

STAGES = ((256, 300), (512, 300), (1024, 200), (2048, 150), (0, 160))
"""Levels of each side, 0 for all, and steps."""
PATIENCE = 12
"""Steps without a better bound after which they become shorter."""


def lower_bound(
    shapes: Sizes,
    counts: Counts,
    most: int,
    heights: SideLengths,
    widths: SideLengths,
    prices: Prices,
    aim: float,
    steps: int,
) -> tuple[float, Prices]:
    """A lower bound on the pixels of any `most` canvases, and the prices that prove it.

    Args:
        shapes: distinct shapes whose sides are among the heights and widths, (U, 2).
        counts: images of each shape, (U,).
        most: the most canvases.
        heights: all heights that a canvas may have, ascending.
        widths: all widths that a canvas may have, ascending.
        prices: the prices to begin with, (U,).
        aim: the cost of a known choice, which sets the length of the steps.
        steps: subgradient steps.
    """
    pixels = shapes.prod(axis=1).astype(np.float64)
    best, best_prices = -np.inf, prices
    length, since = 1.0, 0
    direction = np.zeros(len(shapes))
    for _ in range(steps):
        table = savings(heights, widths, shapes, counts, prices).ravel()
        chosen = np.argpartition(table, -min(most, len(table)))[-most:]
        chosen = chosen[table[chosen] > 0]
        bound = float(counts @ prices - table[chosen].sum())
        since += 1
        if bound > best:
            best, best_prices, since = bound, prices, 0
        if since > PATIENCE:
            length, since, prices = 0.6 * length, 0, best_prices
            direction = np.zeros(len(shapes))
            continue
        canvases = np.stack([heights[chosen // len(widths)], widths[chosen % len(widths)]], axis=1)
        times = np.zeros(len(shapes))
        for height, width in canvases:
            times += (shapes[:, 0] <= height) & (shapes[:, 1] <= width) & (height * width < prices)
        direction = 0.7 * direction + 0.3 * (1 - times) if direction.any() else 1 - times
        if not direction.any():
            break
        # An image that pays less than its own pixels saves nowhere, so no price need be below them.
        prices = np.maximum(prices + length * max(aim - bound, 0) / (counts @ direction**2) * direction, pixels)
    return best, best_prices


def levels(sides: Counts, most: int) -> SideLengths:
    """At most `most` of the sides, the smallest among them, at like ratios; all where `most` is 0."""
    distinct = np.unique(sides)
    if not most:
        return distinct
    near = np.searchsorted(distinct, np.geomspace(distinct[0], distinct[-1], most))
    return np.unique(np.append(distinct[np.minimum(near, len(distinct) - 1)], distinct[0]))


def rounded_down(sides: Counts, levels: SideLengths) -> Counts:
    return levels[np.searchsorted(levels, sides, side="right") - 1]


def bound_in_stages(sizes: Sizes, canvases: Sizes, stages: tuple[tuple[int, int], ...]) -> list[dict[str, Any]]:
    """The bound of each stage, as overhead over the real pixels; sizes are of images, (N, 2)."""
    real = sizes.prod(axis=1)
    aim = float(canvases.prod(axis=1)[cheapest_canvas(sizes, canvases)].sum())
    ratio = canvases.prod(axis=1)[cheapest_canvas(sizes, canvases)] / real  # price over pixels of each image
    found = []
    for most, steps in stages:
        started = time.perf_counter()
        heights, widths = levels(sizes[:, 0], most), levels(sizes[:, 1], most)
        rounded = np.stack([rounded_down(sizes[:, 0], heights), rounded_down(sizes[:, 1], widths)], axis=1)
        shapes, number, counts = np.unique(rounded, axis=0, return_inverse=True, return_counts=True)
        number = number.ravel()
        prices = np.bincount(number, ratio) / counts * shapes.prod(axis=1)
        bound, prices = lower_bound(shapes, counts, len(canvases), heights, widths, prices, aim, steps)
        ratio = (prices / shapes.prod(axis=1))[number]
        found.append(
            {
                "levels": [len(heights), len(widths)],
                "shapes": len(shapes),
                "overhead": bound / float(real.sum()) - 1,
                "seconds": time.perf_counter() - started,
            }
        )
        print(
            f"  at {len(heights)} x {len(widths)} levels every choice is at least {found[-1]['overhead']:.4%}",
            flush=True,
        )
    return found


def mame_sizes(file: Path) -> Sizes:
    with open(file, newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["Subset"] == "train"]
    sizes = np.array([(float(row["Height"]), float(row["Width"])) for row in rows])
    return Geometry(max_pixels=16_000_000).resize(sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="MAMe_dataset.csv")
    parser.add_argument("--canvases", type=int, nargs="+", default=[64])
    parser.add_argument("--multiples", type=int, nargs="+", default=[1, 8, 16, 32])
    parser.add_argument("--stages", type=int, default=len(STAGES), help="stages of the bound; 0 for none")
    parser.add_argument("--out", type=Path, help="write the numbers here, as JSON")
    given = parser.parse_args()
    sizes = mame_sizes(given.file)
    shapes, counts = np.unique(sizes, axis=0, return_counts=True)
    real = int(sizes.prod(axis=1).sum())
    setting = {
        "machine": platform.machine(),
        "numpy": np.__version__,
        "images": len(sizes),
        "shapes": len(shapes),
        "real_pixels": real,
        "budget_pixels": Limits().budget_pixels,
    }
    print(*(f"{name}: {value}" for name, value in setting.items()), sep="\n")
    results: dict[str, Any] = {"setting": setting, "canvases": {}}
    for most in given.canvases:
        reached = {}
        for multiple in given.multiples:
            started = time.perf_counter()
            canvases = choose_canvases(shapes, counts, most, Limits(), multiple)
            seconds = time.perf_counter() - started
            padded = canvases.prod(axis=1)[cheapest_canvas(sizes, canvases)].sum()
            reached[str(multiple)] = {"overhead": float(padded / real - 1), "seconds": seconds}
            print(f"{most} canvases, multiple {multiple}: {padded / real - 1:.4%} in {seconds:.1f} s", flush=True)
        start = choose_canvases(shapes, counts, most, Limits())
        bounds = bound_in_stages(sizes, start, STAGES[: given.stages])
        results["canvases"][str(most)] = {"reached": reached, "bounds": bounds}
    if given.out is not None:
        given.out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
