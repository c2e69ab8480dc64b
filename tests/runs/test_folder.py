"""A run folder belongs to one run and one process; what the dead left in it is cleared, what others put there stays."""

import json
import os
import subprocess
import sys

import pytest

from unsquare.errors import RunError
from unsquare.files import replacing, require_regular
from unsquare.runs.folder import RunFolder
from unsquare.runs.reading import DamagedFileError
from unsquare.runs.schemas import PLAN_VERSION, PlanFile


@pytest.fixture
def run(tmp_path):
    """A folder that is claimed."""
    folder = RunFolder(tmp_path / "run")
    folder.claim()
    yield folder
    folder.unlock()


def dead_process():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_partial_files_of_dead_processes_are_cleared(tmp_path):
    """A folder that holds nothing else can be claimed, whatever file a process was writing when it was killed."""
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("plan.json", "index.parquet", "config.toml", "report.html"):
        (folder / f".{name}.{dead_process()}.partial").write_text("{")
    run = RunFolder(folder)
    run.claim()
    assert [path.name for path in folder.iterdir()] == ["run.lock"]
    run.unlock()


def test_a_partial_file_of_a_live_process_stays(tmp_path):
    """Another process that writes a report at the moment is not disturbed, and does not hinder."""
    run = RunFolder(tmp_path)
    with replacing(run.report) as partial:
        partial.write_text("half")
        run.claim()
        partial.write_text("whole")
    assert run.report.read_text() == "whole"
    run.unlock()


@pytest.mark.parametrize("name", ["notes.txt", ".notes.txt.1.partial", "step-3"])
def test_others_files_are_refused_and_stay(tmp_path, name):
    """A folder that holds anything else is named with it, and nothing is deleted."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=f"must be empty, but .* holds '{name}'"):
        RunFolder(tmp_path).claim()
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["config.toml", "index.parquet", "report.html"])
def test_files_of_a_runs_names_are_others_where_no_run_has_been(tmp_path, name):
    """Settings or an index that somebody wrote to start a run from are not taken for those of a run that ended."""
    (tmp_path / name).write_text("mine")
    with pytest.raises(RunError, match=f"must be empty, but .* holds '{name}'"):
        RunFolder(tmp_path).claim()
    assert os.listdir(tmp_path) == [name]


def test_a_second_process_is_refused_until_the_first_has_ended(run):
    """The lock is the process's, and says how several share a run."""
    with pytest.raises(RunError, match=r"Another process is training .*torchrun"):
        RunFolder(run.path).claim()
    run.unlock()
    other = RunFolder(run.path)
    other.claim()
    other.unlock()


@pytest.mark.parametrize("name", ["run.lock", "metrics.jsonl"])
def test_a_pipe_does_not_make_anyone_wait(tmp_path, name):
    """A pipe in a file's place is an error, or does no harm; nobody waits for its other end."""
    (tmp_path / "checkpoints").mkdir()
    os.mkfifo(tmp_path / name)
    run = RunFolder(tmp_path)
    run.claim()
    if name == "metrics.jsonl":
        with pytest.raises(RunError, match=r"metrics\.jsonl cannot be written"):
            run.append_metrics({"kind": "step"})
        with pytest.raises(RunError, match="not a regular file"):
            run.read_metrics()
    run.unlock()


def test_a_folder_that_is_removed_under_a_run_is_named(run):
    """Neither a row nor anything else is written into a folder that took the place of the run's."""
    run.append_metrics({"kind": "start", "step": 0, "time_s": 0.0, "seconds": 1.0})
    os.rename(run.path, run.path.with_name("elsewhere"))
    with pytest.raises(RunError, match="cannot be written"):
        run.append_metrics({"kind": "start", "step": 0, "time_s": 0.0, "seconds": 1.0})
    os.rename(run.path.with_name("elsewhere"), run.path)
    (run.path / "run.lock").unlink()
    with pytest.raises(RunError, match=r"run was removed or replaced"):
        run.append_metrics({"kind": "start", "step": 0, "time_s": 0.0, "seconds": 1.0})


def test_what_is_taken_back_is_the_runs_own(run):
    """A run that never began leaves a folder as it was, the files of others included."""
    run.write_config("")
    (run.path / "notes.txt").write_text("mine")
    run.discard()
    assert [path.name for path in run.path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "content", [b"[]", b"null", b"7", b"{}", b"\xff", b"", b"[" * 99_999, b'{"version": 1}', b'{"x": "\xff"}']
)
def test_a_json_file_of_another_structure_is_named(run, content):
    """One sentence names the file, whatever it holds."""
    run.plan.write_bytes(content)
    with pytest.raises(RunError, match=r"plan\.json (cannot be read \(.+\)|has version None, .+); start a new run\."):
        run.read_json(run.plan, PlanFile)


def test_a_digit_that_changed_in_a_json_file_is_found(run):
    """Valid JSON within its ranges is not enough; a file of an earlier release, without a checksum, is read."""
    values = {
        "version": PLAN_VERSION,
        "config": {"seed": 10},
        "limits": {"budget_pixels": 900, "launch_pixels": 20},
        "ledger": {"padding_overhead": 0.25},
        "micro_batches": [[3, 17, 12], [1, 17, 14]],
    }
    run.write_json(run.plan, values)
    assert run.read_json(run.plan, PlanFile) == values
    content = run.plan.read_bytes()
    for digit in (at for at, byte in enumerate(content) if chr(byte).isdecimal() and at < content.index(b"crc32")):
        run.plan.write_bytes(content[:digit] + b"7" + content[digit + 1 :])
        if run.plan.read_bytes() != content:
            with pytest.raises(DamagedFileError, match=r"plan\.json cannot be read \(it has changed since it was"):
                run.read_json(run.plan, PlanFile)
    run.plan.write_text(json.dumps(values))
    assert run.read_json(run.plan, PlanFile) == values


def test_a_folder_in_place_of_a_file_is_named(run):
    """What is not a regular file cannot be read, and is not waited for."""
    run.plan.mkdir()
    with pytest.raises(DamagedFileError, match="not a regular file"):
        run.read_json(run.plan, PlanFile)
    with pytest.raises(OSError, match="not a regular file"):
        require_regular(run.plan)
    with pytest.raises(RunError, match=r"plan\.json cannot be written"):
        run.write_json(run.plan, {})
