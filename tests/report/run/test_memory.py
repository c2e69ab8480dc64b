"""The section on memory: what was predicted beside what was measured, true and never without an answer."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from unsquare.execution.strategy import How, Segment, Strategy
from unsquare.memory.model import KEPT_FACTOR
from unsquare.report import write_report
from unsquare.report.kit.content import Page, Section
from unsquare.report.kit.page import render
from unsquare.report.kit.trace import MemoryTrace, close_up
from unsquare.report.run import memory_figures
from unsquare.report.run.memory import memory_content, pinned_strategy_words
from unsquare.report.run.memory_facts import MicroBatches, predicted_bytes
from unsquare.report.run.record import Record, read_record
from unsquare.runs.memory_profile import MemoryProfile, RunLimits

GIB = 2**30


def change_models(run: Path, **changes: Any) -> dict[str, Any]:
    """Other measurements in models.json; returns all of them."""
    models = json.loads((run / "models.json").read_text())
    models["training"] |= changes
    (run / "models.json").write_text(json.dumps(models))
    measured: dict[str, Any] = models["training"]
    return measured


def profile_of(values: dict[str, Any]) -> MemoryProfile:
    """The memory profile of training, from its content in models.json."""
    return msgspec.convert(values, MemoryProfile)


def change_steps(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Apply a change to every row of kind step."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["kind"] == "step":
            change(row)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def words_of(run: Path) -> str:
    """The section, each space a plain one."""
    return section_of(read_record(run))


def section_of(record: Record) -> str:
    """The section on memory as a page has it, each space a plain one."""
    section = Section("memory", "Memory", memory_content(record))
    return render(Page(title="", lead=(), sections=[section], footer="")).replace("\u00a0", " ")


def trace_of(used: list[float], phase: list[str], images: list[int], gap_s: float = 0.1) -> MemoryTrace:
    """Samples at even times, all on one canvas while at work."""
    count = np.array(images, dtype=np.int64)
    return MemoryTrace(
        time_s=gap_s * np.arange(len(used)),
        used_bytes=np.array(used, dtype=np.float64),
        allocated_bytes=np.full(len(used), np.nan),
        sizes=np.where(count[:, None] > 0, np.array([[40, 30]]), 0),
        phase=np.array(phase),
        images=count,
        on_device=False,
    )


def test_strategies_stand_in_a_table(run: Path) -> None:
    """Each with what it holds and costs, and how many micro-batches ran with it; the probes are folded below."""
    words = words_of(run)
    for cell in (
        "plain",
        "checkpoint: activation checkpointing",
        "5.32 MP",
        "19 MP",
        "900",
        "250",
        "1.29",
        "0.34 s",
    ):
        assert f">{cell}<" in words
    taken = [each[4] for row in read_record(run).steps for each in row.measured]
    assert f">{taken.count('plain')}<" in words
    assert f">{taken.count('checkpoint')}<" in words
    assert "8 probes of training" in words
    assert "4 probes of evaluation" in words


def test_a_strategy_that_holds_no_more_is_not_used(run: Path) -> None:
    """A fallback that was left out has no pixels to hold."""
    plain, frugal = change_models(run)["measured"]
    change_models(run, measured=[plain, frugal | {"memory": plain["memory"]}])
    assert ">not used<" in words_of(run)


def test_strategies_of_one_name_are_numbered(run: Path) -> None:
    """Several forms of tiling may be measured."""
    plain, frugal = change_models(run)["measured"]
    tile = frugal | {"name": "tile"}
    change_models(run, measured=[plain, tile, tile])
    words = words_of(run)
    assert ">tile: tiling<" in words
    assert ">tile: tiling (2)<" in words


def test_errors_are_those_of_the_lines(run: Path) -> None:
    """Peaks 10 % above their line are told as such, median and 95 % alike."""
    measured = profile_of(change_models(run))

    def ten_percent_above(row: dict[str, Any]) -> None:
        row["measured"] = [[2, 100, 100, 1.1 * float(measured.bound_bytes(measured.base, 2e4, 2.0)), "plain"]]

    change_steps(run, ten_percent_above)
    words = words_of(run)
    assert "Peaks differ from the prediction by 10.0 % (median), 95 % of them by at most 10.0 %" in words
    assert "12 of 12 exceeded the prediction, by up to 10.0 %" in words
    assert "None exceeded the budget of 6 GiB." in words


def test_a_budget_far_above_is_written_not_drawn(run: Path) -> None:
    """Beside hundreds of GiB no peak could be told from another."""
    change_models(run, budget_bytes=500 * GIB)
    assert "None exceeded the budget of 500 GiB." in words_of(run)


def test_images_count_in_what_is_predicted(run: Path) -> None:
    """A model with bytes for each image predicts more of as many pixels in more images."""
    values = change_models(run)
    values["measured"][0]["memory"] |= {"bytes_per_image": 1000.0}
    measured = profile_of(values)
    few, many = predicted_bytes(measured, MicroBatches.of_rows([[1, 40, 40, 1, "plain"], [4, 20, 20, 1, "plain"]]))
    assert many - few == pytest.approx(3000)


def test_a_micro_batch_has_the_first_strategy_of_its_name_that_holds_it(run: Path) -> None:
    """Where two have one name, the second counts for what the first does not hold; unknown names have none."""
    values = change_models(run)
    cheap = values["measured"][1] | {"name": "plain"}
    measured = profile_of(values | {"measured": [values["measured"][0], cheap]})
    rows = [[1, 1000, 1000, 1, "plain"], [1, 4000, 4000, 1, "plain"], [1, 10, 10, 1, "offload"]]
    small, large, unknown = predicted_bytes(measured, MicroBatches.of_rows(rows))
    assert small == pytest.approx(1.1 * GIB + 900e6)
    assert large == pytest.approx(1.1 * GIB + 250 * 16e6)
    assert np.isnan(unknown)


def test_kept_heaps_have_bounds(run: Path) -> None:
    """Twice the slope, as the planner counts, and no error: a peak there is no measure."""
    values = change_models(run, heap="keep")
    measured = profile_of(values)
    bound = measured.base.memory.fixed_bytes + KEPT_FACTOR * 900e6 + measured.reserved_bytes
    assert measured.bound_bytes(measured.base, 1e6, 1.0) == pytest.approx(bound)
    words = words_of(run)
    assert "twice the slope" in words
    assert "below the bound of the largest" in words
    assert "from the prediction" not in words


def test_new_peaks_are_those_above_all_before() -> None:
    """Where freed memory is kept, a peak that is no higher than one before tells nothing; nor do creeping ones."""
    rows = [[1, 10, 10, peak, "plain"] for peak in (100, 90, 100.5, 120, 120, 130)]
    assert MicroBatches.of_rows(rows).new_peaks.tolist() == [True, False, False, True, False, True]


def test_shortages_are_told(run: Path) -> None:
    """How often, and where first; without any, not a word."""
    assert "ran short" not in words_of(run)

    def short(row: dict[str, Any]) -> None:
        row["shortages"] = {4: 2, 9: 1}.get(row["step"], 0)

    change_steps(run, short)
    assert "Memory ran short 3 times (in 2 steps, first in 4)" in words_of(run)


def test_pinned_limits_say_that_nothing_was_measured(run: Path) -> None:
    """The limits in words, the dots without lines, no table of strategies."""
    pinned = RunLimits(budget_pixels=4_000_000, strategy=Strategy(bf16=True))
    (run / "models.json").write_text(json.dumps(pinned.to_dict()))
    words = words_of(run)
    assert "Memory was not measured before training" in words
    assert "up to 4 MP computed in a micro-batch, with plain execution in bfloat16" in words
    assert "Nothing was predicted" in words
    assert "probes" not in words


@pytest.mark.parametrize(
    ("how", "offload", "words"),
    [
        ("checkpoint", False, "activation checkpointing"),
        ("checkpoint", True, "activation offloading"),
        ("tile", True, "tiling"),
    ],
)
def test_strategies_have_words(how: How, offload: bool, words: str) -> None:
    """By what they do that takes least memory."""
    segments = (Segment(0, 3, "keep"), Segment(3, 5, how, tile_side=64 if how == "tile" else 0))
    assert pinned_strategy_words(Strategy(segments, offload=offload)) == words


def test_other_ranks_are_not_shown(run: Path) -> None:
    """Only the first writes what it measured, which is said where there are more."""
    models = json.loads((run / "models.json").read_text())
    (run / "models.json").write_text(json.dumps(models | {"world_size": 4}))
    assert "72 micro-batches of the first of 4 ranks" in words_of(run)


def test_rows_without_measurements_are_a_note(run: Path) -> None:
    """The lines and probes are shown all the same."""
    change_steps(run, lambda row: row.pop("measured"))
    words = words_of(run)
    assert "No micro-batch of the run was measured" in words
    assert "against its computed pixels" in words
    assert ">unknown<" in words


@pytest.mark.usefixtures("unrendered")
def test_another_version_of_the_limits_is_named(run: Path) -> None:
    """With both versions and what to do."""
    (run / "models.json").write_text(json.dumps({"version": 1, "budget_bytes": GIB}))
    with pytest.warns(
        UserWarning, match=r"models\.json .*\(it has version 1, but this release reads version 3\); .*move it away"
    ):
        write_report(run)


@pytest.mark.parametrize(
    ("part", "content", "why"),
    [
        ("memory", {}, "Object missing required field `fixed_bytes` - at `$.training.measured[0].memory`"),
        ("time", {"fixed_s": -1.0, "s_per_pixel": 1.0}, "Expected `float` >= 0.0 - at"),
    ],
)
def test_incomplete_measurements_are_named(run: Path, part: str, content: dict[str, Any], why: str) -> None:
    """By what is missing, or out of range."""
    models = json.loads((run / "models.json").read_text())
    models["training"]["measured"][0][part] = content
    (run / "models.json").write_text(json.dumps(models))
    assert read_record(run).damaged["models.json"].startswith(why)


def test_hostile_strategies_stay_names(run: Path) -> None:
    """Names of strategies come from a file."""

    def rename(row: dict[str, Any]) -> None:
        row["measured"] = [[*each[:4], "<script>$x"] for each in row["measured"]]

    change_steps(run, rename)
    assert "<script>" not in words_of(run)


def test_sizes_far_apart_can_be_drawn(run: Path) -> None:
    """Thumbnails beside a picture of hundreds of megapixels; names that are not known have a colour too."""
    values = change_models(run)
    rows = [[8, 32, 32, GIB, "plain"]] * 20 + [[1, 20_000, 18_000, 5 * GIB, "tile"]]
    figure = memory_figures.predicted_and_measured(MicroBatches.of_rows(rows), profile_of(values), {})
    assert all(address.startswith("data:image/svg+xml;base64,") for address in figure)


def test_the_close_up_is_around_the_peak(run: Path) -> None:
    """A few steps, the highest sample among them; what was done then is what the trace says."""
    record = read_record(run)
    near = close_up(record.memory, record.steps)
    assert near is not None
    at = int(record.memory.used_bytes.argmax())
    assert near.used_bytes[near.time_s == 0].tolist() == [record.memory.used_bytes.max()]
    assert len(near.time_s) < len(record.memory.time_s)
    assert near.peak.phase == record.memory.phase[at]
    assert near.peak.images == record.memory.images[at]


def test_phases_and_micro_batches_are_stretches() -> None:
    """Two micro-batches alike, one after the other, are two; what is between steps is no phase."""
    phase = ["data", "forward", "backward", "forward", "backward", "update", ""]
    near = close_up(trace_of([1, 2, 5, 3, 4, 2, 1], phase, [0, 4, 4, 4, 4, 0, 0]), [])
    assert near is not None
    assert [one.phase for one in near.phases] == phase[:-1]
    assert [(one.images, one.canvas) for one in near.micro_batches] == [(4, (40, 30)), (4, (40, 30))]
    first, second = near.micro_batches
    assert first.end_s == second.start_s
    assert (near.phases[0].start_s, near.phases[0].end_s) == pytest.approx((-0.3, -0.15))


def test_a_band_does_not_fill_a_gap() -> None:
    """Where samples are missing, nothing is known of what was done."""
    trace = trace_of([1, 2, 3, 2], ["forward", "backward", "data", "data"], [1, 1, 0, 0])
    gap = replace(trace, time_s=np.array([0.0, 0.1, 5.0, 5.1]))
    near = close_up(gap, [])
    assert near is not None
    assert near.phases[1].end_s - near.phases[1].start_s == pytest.approx(0.15)


def test_a_seldom_sampled_trace_has_enough_to_show() -> None:
    """Samples ten seconds apart: more than twenty seconds are shown."""
    near = close_up(trace_of([1.0] * 50 + [2.0] + [1.0] * 50, ["forward"] * 101, [1] * 101, gap_s=10.0), [])
    assert near is not None
    assert len(near.time_s) == 41


def test_two_samples_have_no_close_up() -> None:
    """There is nothing to look at closely."""
    assert close_up(trace_of([1, 2], ["", ""], [0, 0]), []) is None


def test_a_flat_trace_can_be_drawn(run: Path) -> None:
    """Memory that never changes, and no phase at all."""
    record = read_record(run)
    flat = trace_of([GIB] * 5, [""] * 5, [0] * 5)
    fields = {name: getattr(record, name) for name in Record.__dataclass_fields__}
    section = section_of(Record(**(fields | {"memory": flat, "steps": [], "limits": None})))
    assert "was taken between steps" in section
    assert "There is no memory profile (models.json)" in section
