"""Files that earlier releases wrote are read in the words of this one."""

import json

import pytest

from unsquare.errors import ConfigError, RunError
from unsquare.execution.strategy import PLAIN, Segment, Strategy
from unsquare.memory.model import MemoryModel, TimeModel
from unsquare.runs import upgrades
from unsquare.runs.memory_profile import Probe, ProbeRange, RunLimits
from unsquare.runs.reading import decode_row, read_json
from unsquare.runs.rows import StepRow
from unsquare.runs.schemas import PlanFile
from unsquare.training.config import TrainConfig, from_toml

WAY = {
    "segments": [
        {"start": 0, "stop": 2, "how": "stream", "piece_side": 64},
        {"start": 2, "stop": 5, "how": "recompute", "piece_side": 0},
        {"start": 5, "stop": 6, "how": "keep", "piece_side": 0},
    ],
    "offload": False,
    "bf16": True,
}
RUNG = {
    "memory": {"version": 2, "fixed_bytes": 5e8, "bytes_per_pixel": 260.0, "bytes_per_image": 3.0},
    "time": {"version": 2, "fixed_s": 0.01, "s_per_pixel": 1e-7},
    "probes": [{"images": 1, "height": 256, "width": 128, "peak_bytes": 520_000_000, "seconds": 0.1}],
}
PLAIN_RUNG = RUNG | {"name": "plain", "way": {"segments": [], "offload": False, "bf16": False}}
NEED = {"largest_image": 9, "usual_pixels": 9, "smallest_image": 1, "most_images": None}
MEASURED = {
    "budget_bytes": 1 << 30,
    "reserved_bytes": 7,
    "usable_bytes": 1_000_000,
    "heap": "keep",
    "map_elements": 16.0,
    "need": NEED,
    "evaluation_need": NEED | {"most_images": 4},
    "rungs": [PLAIN_RUNG, RUNG | {"name": "stream", "way": WAY}],
    "evaluation_rungs": [PLAIN_RUNG],
    "held_pixels": {"plain": 9},
    "launch_pixels": 16_384,
}


def test_measured_limits_are_the_same(tmp_path):
    """What version 2 of models.json says is what this release counts on."""
    path = tmp_path / "models.json"
    path.write_text(json.dumps({"version": 2, "world_size": 2, "auto_precision": True, "measured": MEASURED}))
    limits = RunLimits.from_dict(read_json(path, RunLimits))
    assert (limits.world_size, limits.auto_precision) == (2, True)
    plain, tile = limits.training.measured
    assert (plain.name, plain.strategy) == ("plain", PLAIN)
    segments = (Segment(0, 2, "tile", 64), Segment(2, 5, "checkpoint"), Segment(5, 6, "keep"))
    assert (tile.name, tile.strategy) == ("tile", Strategy(segments, bf16=True))
    assert tile.memory == MemoryModel(5e8, 260.0, 3.0)
    assert tile.time == TimeModel(0.01, 1e-7)
    assert tile.probes == (Probe(1, 256, 128, 520_000_000, 0.1),)
    assert limits.evaluation.probe_range == ProbeRange(9, 9, 1, 4)
    assert limits.evaluation.heap == "keep"


def test_pinned_limits_are_the_same(tmp_path):
    """As they were given."""
    path = tmp_path / "models.json"
    pinned = {"budget_pixels": 5, "launch_pixels": 2, "way": WAY}
    path.write_text(json.dumps({"version": 2, "world_size": 1, "auto_precision": False, "pinned": pinned}))
    limits = RunLimits.from_dict(read_json(path, RunLimits))
    assert (limits.budget_pixels, limits.launch_pixels, limits.strategy.bf16) == (5, 2, True)


@pytest.mark.parametrize("content", [{"version": 2}, {"version": 2, "measured": {"rungs": 3}}, {"version": 1}])
def test_what_cannot_be_read_is_one_sentence(tmp_path, content):
    """Half a file, and versions before."""
    path = tmp_path / "models.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"models.json cannot be read \(it .*\); start"):
        read_json(path, RunLimits)


@pytest.mark.parametrize(
    ("old", "least", "most"),
    [("plain", "auto", "tile"), ("checkpoint", "checkpoint", "tile"), ("stream", "tile", "tile")],
)
def test_settings_have_their_new_names(old, least, most):
    """A config.toml with rungs and British spelling gives the same settings; one without them its own."""
    text = f'[augment]\ncolour_jitter = 0.2\n[device]\nlowest_rung = "{old}"\nhighest_rung = "stream"\n'
    config = from_toml(text, "config.toml")
    assert (config.device.strategy, config.device.max_strategy, config.augment.color_jitter) == (least, most, 0.2)
    assert from_toml("[device]\nworkers = 2\n", "config.toml").device.strategy == TrainConfig().device.strategy
    assert upgrades.settings({"device": 3}) == {"device": 3}


def test_plans_and_rows_have_their_new_names(tmp_path):
    """The fallbacks of a plan, and the strategy of each micro-batch in the metrics."""
    rung = {"name": "stream", "most_pixels": 90, "price": 1.5}
    limits = {"budget_pixels": 9, "launch_pixels": 1, "pixels_per_s": 5, "world_size": 1, "ladder": [rung]}
    plan = {"version": 1, "config": {}, "limits": limits, "ledger": {"padding_overhead": 0.1}}
    (tmp_path / "plan.json").write_text(json.dumps(plan | {"micro_batches": [[1, 2, 3]]}))
    read = read_json(tmp_path / "plan.json", PlanFile)
    assert read["limits"]["fallbacks"] == [rung | {"name": "tile"}]
    numbers = {
        "step": 1,
        "epoch": 1.0,
        "time_s": 1.0,
        "loss": 1.0,
        "accuracy": 1.0,
        "learning_rate": 1.0,
        "num_images": 1,
    }
    row = decode_row(json.dumps({"kind": "step", "measured": [[1, 2, 3, 4.0, "stream"]], **numbers}).encode())
    assert isinstance(row, StepRow)
    assert row.measured == [(1, 2, 3, 4.0, "tile")]


@pytest.mark.parametrize(
    ("place", "value"), [(("memory", "version"), 3), (("memory", "bytes_per_image"), None), (("way", "offload"), None)]
)
def test_half_a_profile_is_refused(tmp_path, place, value):
    """A model of another version, and what is missing, are no defaults."""
    part, name = place
    rung = json.loads(json.dumps(PLAIN_RUNG))
    if value is None:
        del rung[part][name]
    else:
        rung[part][name] = value
    (tmp_path / "models.json").write_text(json.dumps({"version": 2, "measured": MEASURED | {"rungs": [rung]}}))
    with pytest.raises(RunError, match=r"models.json cannot be read \("):
        read_json(tmp_path / "models.json", RunLimits)


@pytest.mark.parametrize("limits", ["x", [[1]], 3, None])
def test_a_plan_of_no_structure_is_refused(tmp_path, limits):
    """Whatever stands in its place."""
    (tmp_path / "plan.json").write_text(json.dumps({"version": 1, "limits": limits}))
    with pytest.raises(RunError, match=r"plan.json cannot be read \("):
        read_json(tmp_path / "plan.json", PlanFile)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('lowest_rung = "plain"\nstrategy = "tile"', "no setting 'lowest_rung'"),
        ("lowest_rung = [1]", "strategy must be one of"),
        ("highest_rung = {a = 1}", "max_strategy must be one of"),
    ],
)
def test_settings_that_cannot_be_renamed_are_refused(text, words):
    """An old name beside its new one would be lost, and a value of another type is named."""
    with pytest.raises(ConfigError, match=words):
        from_toml(f"[device]\n{text}\n", "config.toml")
