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


def strategy_name(name: Any) -> Any:
    """The present name of a strategy; any other value as it is, for whoever checks it."""
    return _STRATEGIES.get(name, name) if isinstance(name, str) else name


def settings(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a `config.toml` with the present names; an old name beside its new one stays, and is refused."""
    found = dict(tables)
    for table, names in _SETTINGS.items():
        old = found.get(table)
        if isinstance(old, Mapping):
            new = {name: present for name, present in names.items() if present not in old}
            found[table] = {new.get(name, name): _value(name, value) for name, value in old.items()}
    return _with_recipe(found)


def _with_recipe(tables: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run from before there were recipes, with what it did; an incomplete file stays as it is."""
    model, optimizer, rate = (tables.get(name) for name in ("model", "optimizer", "learning_rate"))
    if isinstance(model, Mapping) and "pyramid" in model and "pool" not in model:  # from before there were other pools
        model = {**model, "pool": "spp"}
        tables = {**tables, "model": model}
    if not (isinstance(model, Mapping) and isinstance(model.get("pretrained"), bool)):
        return tables
    found = {**tables, "model": {**model, "pretrained": "hub" if model["pretrained"] else "none"}}
    if not (isinstance(optimizer, Mapping) and isinstance(rate, Mapping)):
        return found
    if "recipe" in optimizer or "epochs" not in optimizer or "lr" not in rate or "norm" not in model:
        return found
    recipe = "finetune" if model["pretrained"] or model.get("weights") else "scratch"
    then = {"recipe": recipe, "freeze": "none", "head_lr_factor": 1.0, "layer_decay": 1.0}
    return {**found, "optimizer": {**optimizer, **then}, "resolution": {"progressive": "off"}}


def _value(name: str, value: Any) -> Any:
    """The present value of a setting of an old name."""
    if name not in ("lowest_rung", "highest_rung"):
        return value
    return "auto" if name == "lowest_rung" and value == "plain" else strategy_name(value)


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
        "memory": _model(rung["memory"], "fixed_bytes", "bytes_per_pixel", "bytes_per_image"),
        "time": _model(rung["time"], "fixed_s", "s_per_pixel"),
        "probes": rung["probes"],
    }


def _model(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    if values["version"] != 2:
        raise ValueError(f"a model has version {values['version']}, but only version 2 can be converted")
    return {name: values[name] for name in names}


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
    return {"segments": segments, "offload": way["offload"], "bf16": way["bf16"]}
