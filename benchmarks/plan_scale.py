"""Planning ten thousand to a hundred million images: seconds and memory to the first micro-batch, and per further step.

Shapes are drawn from MAMe's (at most 16 MP) with up to 2 % of each side changed at random, so that hardly two are the
same. They are in a memory-mapped file, as an index of that length would be. Every kind of step and every length runs in
a process of its own. `first` is the time from the mapped file to the first micro-batch, `buckets` that to the
boundaries of b2b, `step` the median of further steps, `ledger` a whole epoch with all its figures. `peak` is the peak
resident memory of the process, pages of the mapped file included.

    python benchmarks/plan_scale.py --out benchmarks/results/plan_scale-DATE.json --plot docs/plan-scale.svg
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from unsquare.plan import Limits, PlanConfig, form_buckets, ledger, plan_epoch
from unsquare.shapes import Geometry

ROWS = (10**4, 10**5, 10**6, 10**7, 10**8)
FURTHER_STEPS = 40
MOST_LEDGER_ROWS = 10**6
CHUNK = 1 << 22


def mame(data: Path) -> np.ndarray:
    """Training shapes of MAMe's train split, at most 16 MP, (20300, 2)."""
    with open(data / "mame" / "MAMe_dataset.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["Subset"] == "train"]
    sizes = np.array([(float(row["Height"]), float(row["Width"])) for row in rows])
    return Geometry(max_pixels=16_000_000).resize(sizes)


def write_shapes(path: Path, num_rows: int, data: Path) -> None:
    """A file of (N, 2) int32 shapes."""
    known, rng = mame(data), np.random.default_rng(0)
    shapes = np.lib.format.open_memmap(path, mode="w+", dtype=np.int32, shape=(num_rows, 2))
    for start in range(0, num_rows, CHUNK):
        part = shapes[start : start + CHUNK]
        part[:] = known[rng.integers(0, len(known), len(part))] * rng.uniform(0.98, 1.0, part.shape)


def measure(path: Path, form: str, whole: bool) -> dict[str, Any]:
    """Times of one form on one file, in this process."""
    before = peak_bytes()
    config, limits = PlanConfig(steps=form), Limits()
    figures: dict[str, Any] = {"form": form}
    started = time.perf_counter()
    sizes = np.load(path, mmap_mode="r")
    buckets = None
    if form == "b2b":
        buckets = form_buckets(sizes, config, limits)
        figures |= {"buckets_s": time.perf_counter() - started, "num_buckets": len(buckets)}
    plan = plan_epoch(sizes, config, limits, 0, buckets=buckets)
    _ = plan.steps[0].micro_batches[0]
    figures["first_s"] = time.perf_counter() - started
    wanted = range(1, min(1 + FURTHER_STEPS, len(plan.steps)))
    seconds = []
    for number in wanted:
        started = time.perf_counter()
        _ = plan.steps[number]
        seconds.append(time.perf_counter() - started)
    figures |= {"rows": len(sizes), "num_steps": len(plan.steps)}
    figures |= {"step_s": float(np.median(seconds)), "slowest_step_s": max(seconds)}
    figures |= {"images_per_step": float(plan.images_per_step.mean())}
    figures |= {"peak_bytes": peak_bytes(), "peak_before_bytes": before}
    if whole:
        started = time.perf_counter()
        found = ledger(plan_epoch(sizes, config, limits, 0, buckets=buckets), config, limits)
        figures |= {"ledger_s": time.perf_counter() - started, "padding_overhead": found.padding_overhead}
        figures |= {"time_over_least": found.time_over_least, "ledger_peak_bytes": peak_bytes()}
    return figures


def peak_bytes() -> int:
    """The peak resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """Seconds and memory against rows, both axes logarithmic."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    matplotlib.rcParams["svg.hashsalt"] = "unsquare"
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    lines = [
        ("mixed", "first_s", "mixed: first micro-batch", "tab:blue", "-"),
        ("mixed", "step_s", "mixed: further step of 256", "tab:blue", "--"),
        ("mixed", "ledger_s", "mixed: whole epoch and ledger", "tab:blue", ":"),
        ("b2b", "buckets_s", "b2b: boundaries", "tab:orange", "-."),
        ("b2b", "first_s", "b2b: first micro-batch", "tab:orange", "-"),
        ("b2b", "step_s", "b2b: further step", "tab:orange", "--"),
        ("b2b", "ledger_s", "b2b: whole epoch and ledger", "tab:orange", ":"),
    ]
    for form, key, label, color, style in lines:
        rows = [row for row in results if row["form"] == form and key in row]
        left.loglog([r["rows"] for r in rows], [r[key] for r in rows], style, color=color, marker="o", label=label)
    for form, color in (("mixed", "tab:blue"), ("b2b", "tab:orange")):
        rows = [row for row in results if row["form"] == form]
        gigabytes = [row["peak_bytes"] / 2**30 for row in rows]
        right.loglog([row["rows"] for row in rows], gigabytes, color=color, marker="o", label=form)
    left.set(xlabel="images", ylabel="seconds")
    right.set(xlabel="images", ylabel="highest resident memory, GiB")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with mame/MAMe_dataset.csv")
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    parser.add_argument("--forms", nargs="+", default=("mixed", "b2b"))
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--draw-from", type=Path, help="draw an earlier result instead of measuring")
    parser.add_argument("--one", nargs=2, metavar=("FILE", "FORM"), help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measure(Path(given.one[0]), given.one[1], given.whole)))
        return
    if given.draw_from:
        draw(json.loads(given.draw_from.read_text())["results"], given.plot)
        return
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for num_rows in given.rows:
            path = Path(folder) / "shapes.npy"
            write_shapes(path, num_rows, given.data)
            for form in given.forms:
                command = [sys.executable, __file__, "--one", str(path), form]
                command += ["--whole"] * (num_rows <= MOST_LEDGER_ROWS)
                found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                results.append(found)
                print(
                    f"{form:6} {num_rows:>11,} rows  buckets {found.get('buckets_s', 0):7.2f} s  first "
                    f"{found['first_s']:7.2f} s  step {1e3 * found['step_s']:6.2f} ms  ledger "
                    f"{found.get('ledger_s', float('nan')):6.1f} s  peak {found['peak_bytes'] / 2**30:5.2f} GiB",
                    flush=True,
                )
    hardware = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
    content = {"hardware": hardware, "numpy": np.__version__, "python": platform.python_version(), "results": results}
    if given.out:
        given.out.write_text(json.dumps(content, indent=1) + "\n")
    if given.plot:
        draw(results, given.plot)


if __name__ == "__main__":
    main()
