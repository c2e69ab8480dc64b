"""Runs a network in a process of its own, which micro-batches may kill.

`python -m unsquare.profiling.worker` reads one JSON object per line from standard input and answers each with one on
standard output: first what to build, then micro-batches to run. Running out of memory is an answer. If the process is
killed, `Subject` reports it to its caller.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch
from msgspec import to_builtins

from unsquare.capacity.fallbacks import Workload
from unsquare.capacity.limits import identity_of, measure_limits
from unsquare.capacity.probes import held_bytes, synthetic_batch
from unsquare.errors import RunError, UnsquareError
from unsquare.memory.budget import budget_bytes
from unsquare.memory.meter import PeakMeter, resident_bytes
from unsquare.memory.watch import Watch
from unsquare.network.classifier import Classifier
from unsquare.network.device import launch
from unsquare.network.engine import Engine, ShortageError
from unsquare.profiling.attribution import attribute
from unsquare.runs.memory_profile import ProbeRange, StrategyProfile
from unsquare.runs.tables import write_memory
from unsquare.shapes import Shape
from unsquare.training.config import TrainConfig, from_toml, to_toml

USUAL_PIXELS = 1 << 22
STEPS_EACH = 3
TRACE_INTERVAL_S = 0.02


class SubjectDied(Exception):
    """The process ended without an answer."""


class Subject:
    """The process, as seen from outside.

    Args:
        config: the network, its optimizer, the device and the budget.
        num_classes: of the head.
        canvas: the canvas of its micro-batches.
        trace: file to which its memory over time is written.
    """

    def __init__(self, config: TrainConfig, num_classes: int, canvas: Shape, trace: Path) -> None:
        defaults = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "5000", "THP_MEM_ALLOC_ENABLE": "1"}
        self._errors: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed with the process
        self._process = subprocess.Popen(
            [sys.executable, "-m", "unsquare.profiling.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**defaults, **os.environ},
        )
        settings = {"config": to_toml(config), "num_classes": num_classes, "canvas": canvas, "trace": str(trace)}
        self.facts: dict[str, Any] = {}
        """The device, the precision, the budget, and the strategy with its probes."""
        try:
            self.facts = self.ask(settings)
        except BaseException:
            self.close()
            raise

    def ask(self, question: dict[str, Any]) -> dict[str, Any]:
        """The answer to a question.

        Raises:
            SubjectDied: the process ended without answering; the message says how.
            UnsquareError: it could not do what was asked.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass
        while line := self._process.stdout.readline():
            if line.startswith("{"):  # libraries may print as well
                answer = json.loads(line)
                if "error" in answer:
                    raise RunError(answer["error"])
                return answer
        status = self._process.wait()
        if status < 0:
            raise SubjectDied(f"The process was killed by {signal.Signals(-status).name}")
        self._errors.seek(0)
        last = (self._errors.read().strip().splitlines() or ["it printed nothing"])[-1]
        raise SubjectDied(f"The process ended with status {status} ({last})")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):  # killed before it read what was written
            self._process.stdin.close()
        self._process.terminate()
        self._process.wait()
        self._process.stdout.close()
        self._errors.close()


class _Network:
    """The process, as seen from inside."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._config = from_toml(settings["config"], "the settings")
        self._canvas = Shape(*settings["canvas"])
        torch.manual_seed(0)
        fabric = launch(self._config.device)
        model = Classifier(self._config.model, settings["num_classes"], load=False)
        self._engine = Engine(fabric, model, self._config.optimizer)
        self._budget = budget_bytes(self._config.device.memory, self._engine.device)
        self._measured = self._measure(settings["num_classes"])
        self._trace = Path(settings["trace"])
        self._watch = Watch(self._engine.device, lambda: self._engine.phase, TRACE_INTERVAL_S)
        self._num_steps = 0
        self._steps(1)  # creates threads and their heaps before a limit counts them
        self._watch.start()

    def _measure(self, num_classes: int) -> StrategyProfile:
        config, pixels = self._config, self._canvas.pixels
        probe_range = ProbeRange(pixels, max(USUAL_PIXELS, pixels), pixels, None)
        least = config.device.least_strategy
        workload = Workload(
            training=probe_range, evaluation=probe_range, budget_bytes=self._budget, least=least, most=least
        )
        identity = identity_of(config.model, num_classes, config.optimizer)
        limits = measure_limits(self._engine, config.device, workload, identity)
        assert limits.training is not None
        return limits.training.base

    def _confine(self) -> None:
        """Have the operating system refuse memory above the budget, and kill this process first if it must kill one."""
        if self._engine.device.type == "cuda":
            total = torch.cuda.get_device_properties(self._engine.device).total_memory
            torch.cuda.set_per_process_memory_fraction(min(1.0, self._budget / total), self._engine.device)
            return
        try:
            Path("/proc/self/oom_score_adj").write_text("1000")
            data = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
        except OSError:
            return
        most = data + max(0, self._budget - resident_bytes())
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        if hard == resource.RLIM_INFINITY or most < hard:
            resource.setrlimit(resource.RLIMIT_DATA, (most, hard))

    @property
    def facts(self) -> dict[str, Any]:
        """The answer to the first line."""
        memory, pixels = self._measured.memory, self._canvas.pixels
        least, most = 0, max(1, int(2 * self._budget / (memory.bytes_per_pixel * pixels)))
        while least < most:  # the most images whose predicted peak is within the budget
            middle = (least + most + 1) // 2
            fits = memory.peak_bytes(middle * pixels, middle) <= self._budget
            least, most = (middle, most) if fits else (least, middle - 1)
        return {
            "device": self._engine.device.type,
            "precision": str(self._engine.fabric.strategy.precision.precision),
            "budget_bytes": self._budget,
            "strategy": {"name": self._measured.name, "memory": asdict(self._measured.memory)},
            "predicted_images": least,
        }

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """Run micro-batches of this many images, for a few steps or for attribution."""
        images = int(question["images"])
        held_bytes(self._engine)
        self._confine()
        try:
            if question["do"] == "attribute":
                found = attribute(self._engine, images, self._canvas, self._measured.strategy, self._measured.name)
                return dict(to_builtins(found))
            return self._steps(images)
        except ShortageError:
            return {"images": images, "failure": "Memory ran out"}
        finally:
            self._watch.mark(self._num_steps, 0, Shape(0, 0))
            write_memory(self._trace, self._watch.samples())

    def _steps(self, images: int) -> dict[str, Any]:
        meter, seconds, peaks = PeakMeter(self._engine.device), [], []
        for _ in range(STEPS_EACH):
            held_bytes(self._engine)
            meter.start()
            self._num_steps += 1
            self._watch.mark(self._num_steps, images, self._canvas)
            self._engine.phase = "data"
            batch = synthetic_batch(images, self._canvas)
            started = self._watch.now_s()
            self._engine.accumulate(batch, 1 / images, self._measured.strategy)
            self._engine.update(0.0)
            seconds.append(self._watch.now_s() - started)
            peaks.append(meter.stop())
        predicted = self._measured.memory.peak_bytes(images * self._canvas.pixels, images)
        row = {"images": images, "peak_bytes": max(peaks), "predicted_bytes": predicted}
        return row | {"seconds": statistics.median(seconds)}


def main() -> None:
    """Answer until there are no more questions."""
    network: _Network | None = None
    for line in sys.stdin:
        try:
            if network is None:
                network = _Network(json.loads(line))
                answer = network.facts
            else:
                answer = network.answer(json.loads(line))
        except UnsquareError as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
