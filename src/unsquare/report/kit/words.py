"""Terms that several pages share: the entries of a ledger, execution strategies, and phases of a step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from unsquare.report.kit import units

PHASES = {
    "data": "while waiting for images",
    "forward": "in the forward pass",
    "backward": "in the backward pass",
    "update": "in the optimizer's update",
}

STRATEGIES = {
    "plain": "plain execution",
    "bf16": "bfloat16",
    "checkpoint": "activation checkpointing",
    "offload": "activation offloading",
    "tile": "tiling",
    "pinned": "as pinned",
}


def strategy_words(name: str) -> str:
    """An execution strategy, from its name."""
    return STRATEGIES.get(name, f"strategy {name}")


def whole(value: float) -> str:
    """A count."""
    return f"{value:,.0f}"


def _thousandths(value: float) -> str:
    return f"{value:.3f}"


ENTRIES: tuple[tuple[str, str, Callable[[float], str]], ...] = (
    ("num_images", "images in an epoch", whole),
    ("num_steps", "optimizer steps", whole),
    ("num_micro_batches", "micro-batches", whole),
    ("num_canvases", "different canvases", whole),
    ("real_pixels", "real pixels", units.pixels),
    ("computed_pixels", "computed pixels", units.pixels),
    ("padding_overhead", "padding overhead", lambda value: units.percent(value, 2)),
    ("max_micro_batch_pixels", "pixels of the largest micro-batch", units.pixels),
    ("mean_fill", "mean fill of the budget", units.percent),
    ("median_fill", "median fill of the budget", units.percent),
    ("rank_imbalance", "busiest rank over the mean rank", _thousandths),
    ("predicted_s", "predicted time of an epoch", units.duration),
    ("step_class_skew", "class skew of a step (0: as in the dataset, 1: none in common)", _thousandths),
    ("chance_class_skew", "class skew by chance", _thousandths),
)
"""Name in the ledger, words, and how its value is written."""


def ledger_rows(*ledgers: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """A row for each entry that any of the ledgers has: its words, then its value in each."""
    rows = []
    for name, words, form in ENTRIES:
        values = [ledger.get(name) for ledger in ledgers]
        if any(value is not None for value in values):
            rows.append((words, *("" if value is None else form(value) for value in values)))
    return rows
