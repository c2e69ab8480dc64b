"""Converts files of runs that earlier releases started to this release's format, so that they can be resumed and
shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_STRATEGIES = {"stream": "tile"}
_SETTINGS = {
    "augment": {"colour_jitter": "color_jitter"},
    "device": {"lowest_rung": "strategy", "highest_rung": "max_strategy"},
}
_SEGMENTS = {"stream": "tile", "recompute": "checkpoint"}


def strategy_name(name: str) -> str:
    """The present name of a strategy."""
    return _STRATEGIES.get(name, name)


def settings(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a `config.toml` with the present names."""
    found = dict(tables)
    for table, names in _SETTINGS.items():
        if not isinstance(found.get(table), Mapping):
            continue
        found[table] = {names.get(name, name): value for name, value in found[table].items()}
        if table == "device" and "lowest_rung" in tables[table]:
            least = strategy_name(found[table]["strategy"])
            found[table]["strategy"] = "auto" if least == "plain" else least
        if table == "device" and "highest_rung" in tables[table]:
            found[table]["max_strategy"] = strategy_name(found[table]["max_strategy"])
    return found


def limits(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a `models.json` of version 2 in the form of version 3."""
    found = {"version": 3, **{name: values[name] for name in ("world_size", "auto_precision") if name in values}}
    if pinned := values.get("pinned"):
        return {
            **found,
            "budget_pixels": pinned["budget_pixels"],
            "launch_pixels": pinned["launch_pixels"],
            "strategy": _strategy(pinned["way"]),
        }
    measured = values["measured"]
    shared = {name: measured[name] for name in ("budget_bytes", "reserved_bytes", "heap", "map_elements")}
    for kind, need, rungs in (("training", "need", "rungs"), ("evaluation", "evaluation_need", "evaluation_rungs")):
        profiles = [_profile(rung) for rung in measured[rungs]]
        found[kind] = {**shared, "probe_range": measured[need], "measured": profiles}
    return found


def plan(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a `plan.json` of version 1 in the form of version 2."""
    told = dict(values["limits"])
    told["fallbacks"] = [{**each, "name": strategy_name(each["name"])} for each in told.pop("ladder", ())]
    return {**values, "version": 2, "limits": told}


def profile(values: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a `profile.json` of version 1 in the form of version 2."""
    found = {**values, "version": 2}
    for part in ("sweep", "attribution"):
        if found.get(part):
            found[part] = {**found[part], "strategy": strategy_name(found[part]["rung"])}
    return found


def _profile(rung: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": strategy_name(rung["name"]),
        "strategy": _strategy(rung["way"]),
        **{name: rung[name] for name in ("memory", "time", "probes")},
    }


def _strategy(way: Mapping[str, Any]) -> dict[str, Any]:
    segments = [
        {
            "start": each["start"],
            "stop": each["stop"],
            "how": _SEGMENTS.get(each["how"], each["how"]),
            "tile_side": each["piece_side"],
        }
        for each in way["segments"]
    ]
    return {**way, "segments": segments}
