"""Measurements are found again under their key, and a damaged file only leads to a new measurement."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unsquare.memory import cache
from unsquare.memory.cache import MeasurementCache, cache_folder, last_limits, remember_limits

KEY = {"backbone": "resnet18", "options": {"stride": (1, 2), "path": Path("weights")}, "threads": 2}
VALUE = [{"bytes": 5e9, "way": None}, [1, 2.5]]

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture
def filled(tmp_path):
    """A cache with one value in a folder that was not there, and its file."""
    found = MeasurementCache(tmp_path / "new" / "probes")
    found.put(KEY, VALUE)
    (path,) = (tmp_path / "new" / "probes").iterdir()
    return found, path


def test_a_value_is_found_under_its_key(filled):
    """By another cache of the same folder, whatever the order of the key's entries."""
    _, path = filled
    again = MeasurementCache(path.parent)
    assert again.get(KEY) == VALUE
    assert again.get(dict(reversed(KEY.items()))) == VALUE


@given(key=st.dictionaries(st.text(), plain, max_size=3), value=plain, other=st.dictionaries(st.text(), plain))
def test_any_plain_value_survives(tmp_path_factory, key, value, other):
    """What is put under a key is found under it, and under no other."""
    found = MeasurementCache(tmp_path_factory.mktemp("probes"))
    found.put(key, value)
    assert found.get(key) == value
    if json.dumps(key, sort_keys=True) != json.dumps(other, sort_keys=True):
        assert found.get(other) is None


def test_another_key_finds_nothing(filled):
    """Any difference counts, at any depth; and each key keeps its own value."""
    found, _ = filled
    others = [{}, KEY | {"threads": 3}, KEY | {"options": {"stride": (1, 2)}}, KEY | {"more": None}]
    assert [found.get(other) for other in others] == [None] * 4
    found.put(others[1], "other")
    assert (found.get(KEY), found.get(others[1])) == (VALUE, "other")


def test_the_last_value_counts(filled):
    """A value put again takes the place of the first, in one file and no other beside it."""
    found, path = filled
    found.put(KEY, "later")
    assert found.get(KEY) == "later"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "content", [b"", b"{", b"null", b"[1]", b'"text"', b"{}", b'{"version": 1}', b"\xff\xfe\x00", b'{"value": 3}']
)
def test_a_damaged_file_is_no_value(filled, content):
    """Nothing is found in it, and the next value replaces it."""
    found, path = filled
    path.write_bytes(content)
    assert found.get(KEY) is None
    found.put(KEY, VALUE)
    assert found.get(KEY) == VALUE


def test_another_versions_file_is_no_value(filled, monkeypatch):
    """A value of another version, or of a key that has the same digest, is not taken."""
    found, path = filled
    content = json.loads(path.read_text())
    for change in ({"version": cache.VERSION + 1}, {"key": {}}):
        path.write_text(json.dumps(content | change))
        assert found.get(KEY) is None
    path.write_text(json.dumps(content))
    assert found.get(KEY) == VALUE
    monkeypatch.setattr(cache, "VERSION", cache.VERSION + 1)
    assert found.get(KEY) is None


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path):
    """A file in the folder's place stops neither writing nor reading, and stays."""
    (tmp_path / "taken").write_text("here")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "probes"):
        found = MeasurementCache(folder)
        found.put(KEY, VALUE)
        assert found.get(KEY) is None
    assert (tmp_path / "taken").read_text() == "here"


def test_a_failed_write_leaves_the_old_value(filled, monkeypatch):
    """Where the disk is full in between, what was kept before is still there, and nothing beside it."""
    found, path = filled

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    found.put(KEY, "new")
    assert found.get(KEY) == VALUE
    assert list(path.parent.iterdir()) == [path]


def test_values_of_before_can_be_replaced_unread(filled):
    """As with --no-reuse-probes: nothing is found, and what is put counts from then on."""
    _, path = filled
    anew = MeasurementCache(path.parent, reads=False)
    assert anew.get(KEY) is None
    anew.put(KEY, "new")
    assert anew.get(KEY) is None
    assert anew.num_put == 1
    assert MeasurementCache(path.parent).get(KEY) == "new"


def test_without_a_folder_nothing_is_kept(tmp_path, monkeypatch):
    """Neither an error nor a file."""
    monkeypatch.chdir(tmp_path)
    found = MeasurementCache(None)
    found.put(KEY, VALUE)
    assert found.get(KEY) is None
    assert not list(tmp_path.iterdir())


def test_the_last_limits_are_found(tmp_path, monkeypatch):
    """One for each network and device, the newest counts; damaged files beside them do not."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert last_limits() is None
    times = iter([10.0, 30.0, 20.0])
    monkeypatch.setattr("time.time", lambda: next(times))
    for backbone in ("resnet18", "resnet50", "resnet18"):
        remember_limits(backbone, "32-true", "cpu: A", {"launch_pixels": len(backbone)})
    kept = tmp_path / "unsquare" / "limits"
    assert len(list(kept.iterdir())) == 2
    (kept / "b.json").write_text("{")
    (kept / "c.json").write_text(json.dumps({"version": cache.VERSION, "key": 1, "value": {"time_s": "late"}}))
    found = last_limits()
    assert (found["backbone"], found["device"], found["limits"]) == ("resnet50", "cpu: A", {"launch_pixels": 8})


def test_where_measurements_are_kept(tmp_path, monkeypatch):
    """Below XDG_CACHE_HOME; where that is unset or empty, below the home's .cache (on Linux)."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert cache_folder() == tmp_path / "cache" / "unsquare" / "probes"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in (lambda: monkeypatch.setenv("XDG_CACHE_HOME", ""), lambda: monkeypatch.delenv("XDG_CACHE_HOME")):
        unset()
        assert cache_folder() == tmp_path / ".cache" / "unsquare" / "probes"
