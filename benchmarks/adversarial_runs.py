"""Runs that are killed, and run folders that are damaged: what the next command makes of them.

    python benchmarks/adversarial_runs.py --kills 100 --damage --json runs.json

Kills: a tiny run is killed (SIGKILL) at random moments from its first instant on, up to three times. Then the same
command is repeated until it ends. Its losses and weights must be those of an undisturbed run, bit for bit. If the same
command is refused, `--resume` is tried, and that is counted.

Damage: each file of a run is cut, flipped, removed, or replaced by other content, a folder or a pipe. Then the run is
resumed, evaluated, used for predictions, reported, and compared. Counted are tracebacks, hangs, results that changed
silently, refusals in one sentence, and commands that continued, with a warning or because no harm was done.

Commands run in forks of this process, which has loaded torch once, so a command takes less than a second. Only the
command line is used, so that any version can be measured.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

SETTINGS = (
    *("--backbone", "test_resnet", "--epochs", "3", "--step-images", "4", "--budget-pixels", "20000"),
    *("--precision", "32-true", "--min-side", "33", "--checkpoint-every-steps", "2", "--dropout", "0.1", "--turns"),
    *("--workers", "1"),
)
TIMEOUT_S = 60.0
TOP_FILES = (
    *("config.toml", "index.parquet", "models.json", "plan.json", "metrics.jsonl", "memory.parquet"),
    *("evaluation.parquet", "profile.json", "run.lock"),
)
CHECKPOINT_FILES = ("model.safetensors", "optimizer.safetensors", "state.json", "manifest.json")


class Done(NamedTuple):
    """The result of a command; status None if it hung."""

    status: int | None
    out: str
    err: str

    @property
    def has_traceback(self) -> bool:
        return "Traceback (most recent call last)" in self.err or (self.status or 0) < 0

    @property
    def is_refusal(self) -> bool:
        last = (self.err.strip().splitlines() or [""])[-1]
        return self.status == 1 and not self.has_traceback and last.startswith("unsquare: ")


def fork(arguments: list[str], folder: Path) -> int:
    """Start a command in a fork; its output goes to files in a folder."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        for number, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        from unsquare.cli import main

        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


def wait(child: int, seconds: float) -> int | None:
    """The exit status of a child, negative for a signal; None if it does not end in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def run(arguments: list[object], folder: Path, kill_after_s: float | None = None) -> Done:
    """Run a command to its end, or kill it after a time."""
    child = fork([str(each) for each in arguments], folder)
    status = wait(child, TIMEOUT_S if kill_after_s is None else kill_after_s)
    if status is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    return Done(status, *((folder / name).read_text(errors="replace") for name in ("out", "err")))


def make_pictures(folder: Path) -> Path:
    """Noise of two classes in many shapes."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("val", 3), ("test", 3)):
        for label in ("dark", "light"):
            for number in range(count):
                path = folder / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                height, width = rng.integers(36, 64, 2)
                low = 100 if label == "light" else 0
                Image.fromarray(rng.integers(low, low + 150, (height, width, 3), dtype=np.uint8)).save(path)
    return folder


def outcome_of(folder: Path) -> dict[str, object]:
    """Losses, evaluations and weights of a run that ended; rows that cannot be read are left out."""
    rows = []
    for line in (folder / "metrics.jsonl").read_bytes().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            rows.append({"kind": "damaged", "step": -1})
    last = max((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    files = [folder / "checkpoints" / "best" / "model.safetensors"]
    files += [last / name for name in ("model.safetensors", "optimizer.safetensors")]
    return {
        "losses": [(row["step"], row["loss"], row["accuracy"]) for row in rows if row.get("kind") == "step"],
        "scores": [(row["step"], row["loss"]) for row in rows if row.get("kind") in ("eval", "final")],
        "weights": [hashlib.sha256(file.read_bytes()).hexdigest() for file in files],
        "last": last.name,
    }


def kills(work: Path, pictures: Path, number: int, seed: int) -> dict[str, object]:
    """Kill runs at random moments, and repeat the same command until they end."""
    left_alone = work / "left-alone"
    started = time.monotonic()
    done = run(["train", pictures, "--out", left_alone, *SETTINGS], work)
    assert done.status == 0, done.err
    whole_s = time.monotonic() - started
    expected = outcome_of(left_alone)
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    for attempt in range(number):
        folder = work / f"killed-{attempt}"
        command: list[object] = ["train", pictures, "--out", folder, *SETTINGS]
        for _ in range(rng.choice((1, 1, 2, 3))):
            # A third of the kills in the first tenth, where the folder is made.
            moment = rng.uniform(0, 0.15 * whole_s) if rng.random() < 1 / 3 else rng.uniform(0, 1.1 * whole_s)
            killed = run(command, work, kill_after_s=moment)
            counts["kills" if killed.status is None else "ended before the kill"] += 1
        done = run(command, work)
        if done.status == 1:
            counts["same command refused"] += 1
            done = run(["train", "--resume", folder], work)
        if done.has_traceback:
            counts["traceback"] += 1
        if done.status is None:
            counts["hang"] += 1
        elif done.status != 0:
            counts["locked out"] += 1
            print(f"  {done.err.strip().splitlines()[-1]}", file=sys.stderr)
        elif outcome_of(folder) == expected:
            counts["bit for bit"] += 1
        else:
            counts["another outcome"] += 1
        shutil.rmtree(folder, ignore_errors=True)
    return {"runs": number, "whole_run_s": round(whole_s, 2), **counts}


def damages(path: Path, rng: random.Random) -> dict[str, bytes | str | None]:
    """The damages of a file: other content, or the name of what replaces it."""
    content = path.read_bytes()

    def flipped() -> bytes:
        if not content:
            return b"\x01"
        at = rng.randrange(len(content))
        return content[:at] + bytes([content[at] ^ (1 << rng.randrange(8))]) + content[at + 1 :]

    def another_digit() -> bytes:
        digits = [at for at, byte in enumerate(content) if chr(byte).isdecimal() and byte < 128]
        if not digits:
            return b"\x01"
        at = rng.choice(digits)
        other = rng.choice([digit for digit in b"0123456789" if digit != content[at]])
        return content[:at] + bytes([other]) + content[at + 1 :]

    middle = len(content) // 2
    return {
        "cut": content[:middle],
        **{f"flipped {number}": flipped() for number in range(3)},
        **{f"another digit {number}": another_digit() for number in range(3)},
        "not UTF-8": content[:middle] + b"\xff\xfe" + content[middle:],
        "a list": b"[]\n",
        "null": b"null\n",
        "an object": b"{}\n",
        "a number": b"7\n",
        "lists in lists": b"[" * 100_000,
        "empty": b"",
        "lines lost": b"".join(line for at, line in enumerate(content.splitlines(keepends=True)) if at not in (1, 2)),
        "missing": None,
        "a folder": "folder",
        "a pipe": "pipe",
    }


def put(path: Path, what: bytes | str | None) -> None:
    """Replace a file by other content, or by something else."""
    path.unlink()
    if isinstance(what, bytes):
        path.write_bytes(what)
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)


def damage(work: Path, pictures: Path, seed: int, part: float) -> dict[str, object]:
    """Damage each file of a run and give each command; counts of outcomes."""
    whole, stopped, other = work / "whole", work / "stopped", work / "other"
    for folder in (whole, other):
        done = run(["train", pictures, "--out", folder, *SETTINGS], work)
        assert done.status == 0, done.err
    _profile(whole)
    expected = outcome_of(whole)
    _stop_in_third_epoch(work, pictures, stopped)
    asked = pictures / "test" / "dark" / "0.png"
    # The damaged copy always has the same name, so that pages and messages are comparable.
    copy = work / "copy"
    pinned = ("--budget-pixels", "20000", "--workers", "1")
    commands: dict[str, tuple[Path, list[object]]] = {
        "same command": (stopped, ["train", pictures, "--out", copy, *SETTINGS]),
        "resume": (stopped, ["train", "--resume", copy]),
        "evaluate": (whole, ["evaluate", copy, pictures, "--json", *pinned]),
        "predict": (whole, ["predict", copy, asked, "--json", *pinned]),
        "report": (whole, ["report", copy]),
        "profile --against": (whole, ["profile", copy, "--against", other, "--json", "--out", work / "page.html"]),
    }
    usual = {}
    for name, (source, command) in commands.items():
        shutil.copytree(source, copy)
        done = run(command, work)
        if name == "same command" and done.is_refusal:  # a version that knows only `--resume`
            shutil.rmtree(copy)
            continue
        assert done.status == 0, (name, done.err)
        usual[name] = _result(name, copy, done)
        assert name not in ("same command", "resume") or usual[name] == expected, name
        shutil.rmtree(copy)
    rng = random.Random(seed)
    counts: dict[str, Counter[str]] = {name: Counter() for name in commands}
    notable: list[str] = []
    for name, (source, command) in commands.items():
        if name not in usual:
            continue
        files = [source / file for file in TOP_FILES]
        files += [each / file for each in sorted((source / "checkpoints").iterdir()) for file in CHECKPOINT_FILES]
        for file in filter(Path.exists, files):
            for kind, what in damages(file, rng).items():
                if rng.random() >= part:
                    continue
                shutil.copytree(source, copy)
                put(copy / file.relative_to(source), what)
                done = run(command, work)
                found = _judged(name, copy, done, usual[name])
                counts[name][found] += 1
                if found in ("traceback", "hang", "changed silently", "neither"):
                    last = (done.err.strip().splitlines() or [""])[-1]
                    notable.append(f"{found}: {name}, {file.relative_to(source)}, {kind}: {last[:200]}")
                    print(f"  {notable[-1]}", file=sys.stderr, flush=True)
                shutil.rmtree(copy)
    total: Counter[str] = sum(counts.values(), Counter())
    return {"commands": total.total(), "in all": total, "by command": counts, "notable": notable}


def _judged(name: str, copy: Path, done: Done, usual: object) -> str:
    if done.status is None:
        return "hang"
    if done.has_traceback:
        return "traceback"
    page = (copy / "report.html").read_text() if name == "report" and (copy / "report.html").is_file() else ""
    if done.status and not (done.is_refusal and page != usual and _page_says(page)):
        return "refused" if done.is_refusal else "neither"
    said = [line for line in done.err.splitlines() if line.startswith("unsquare: ") and "torchvision" not in line]
    result = _result(name, copy, done)
    if result == usual:
        return "continued, with a warning" if said else "continued, unharmed"
    if said or (name == "report" and _page_says(str(result))):
        return "continued differently, with a warning"
    return "changed silently"


def _result(name: str, copy: Path, done: Done) -> object:
    if name in ("same command", "resume"):
        return outcome_of(copy)
    if name == "report":
        return (copy / "report.html").read_text()
    values = json.loads(done.out)
    values.pop("seconds", None)
    return values


def _page_says(page: str) -> bool:
    return any(
        words in page
        for words in (
            *("There is no", "There are no", "not evaluated", "cannot be read", "No micro-batch"),
            *("is incomplete", "Changed since the last checkpoint", "this profile has no"),
            *("Not all of", "Not as the", "no profile"),  # of earlier versions
        )
    )


def _profile(folder: Path) -> None:
    """A profile.json as the command would write it, without the minute that it takes."""
    line = {"version": 2, "fixed_bytes": 4e8, "bytes_per_pixel": 900.0, "bytes_per_image": 0.0}
    row = {"images": 1, "peak_bytes": 5e8, "predicted_bytes": 5e8, "seconds": 0.1}
    sweep = {"canvas": [64, 64], "strategy": "plain", "steps_each": 3, "memory": line, "limit_bytes": 1e9}
    sweep |= {
        "rows": [row],
        "failed_images": 2,
        "failure": "Memory ran out",
        "largest_images": 1,
        "predicted_images": 1,
    }
    about = {"version": 2, "subject": "run", "backbone": "test_resnet", "device": "cpu", "precision": "32-true"}
    values = about | {"budget_bytes": 1e9, "sweep": sweep, "attribution": None, "watch": None, "run": None}
    from unsquare.runs.folder import RunFolder

    RunFolder(folder).write_json(folder / "profile.json", values)


def _stop_in_third_epoch(work: Path, pictures: Path, folder: Path) -> None:
    """A run that was killed when it had a best checkpoint and was in mid-epoch."""
    while True:
        shutil.rmtree(folder, ignore_errors=True)
        child = fork(["train", str(pictures), "--out", str(folder), *SETTINGS], work)
        metrics = folder / "metrics.jsonl"
        while not (metrics.exists() and b'"step", "step": 11,' in metrics.read_bytes()):
            time.sleep(0.001)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) < 0 and b'"kind": "final"' not in metrics.read_bytes():
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=0, help="runs to kill")
    parser.add_argument("--damage", action="store_true", help="damage each file")
    parser.add_argument("--part", type=float, default=1.0, help="the share of the damages that is tried")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where the counts go")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    import torch

    import unsquare.api  # loads what forks then share
    import unsquare.cli.train

    torch.set_num_threads(1)
    found: dict[str, object] = {"unsquare": unsquare.__version__}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(work / "cache")
        pictures = make_pictures(work / "pictures")
        if given.kills:
            found["kills"] = kills(work, pictures, given.kills, given.seed)
        if given.damage:
            found["damage"] = damage(work, pictures, given.seed, given.part)
    print(json.dumps(found, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
