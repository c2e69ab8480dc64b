"""The page on two plans: true to both, safe, and never without an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from unsquare.report import write_comparison_page
from unsquare.runs.schemas import PlanComparison

HOSTILE = "<script>alert(1)</script>$\\frac"


def words_of(comparison: dict[str, Any], folder: Path) -> str:
    """The page, each space a plain one."""
    found = msgspec.convert(comparison, PlanComparison)
    page = write_comparison_page(found, folder / "comparison.html").read_text(encoding="utf-8")
    assert "http://" not in page
    assert "https://" not in page
    assert "<script" not in page
    return page.replace("\u00a0", " ")


def test_headlines_stand_beside_each_other(comparison: dict[str, Any], tmp_path: Path) -> None:
    """Padding, micro-batches, fill, peaks and time of both, with what the second is of the first."""
    words = words_of(comparison, tmp_path)
    for part in (
        "runs/before and runs/after",
        "28.0 % → 3.1 %",
        "0.11 times as much",
        "400 → 130",
        "0.33 times as many",
        "5.49 GiB → 5.49 GiB",
        "10 min 10 s → 6 min 42 s",
        "1.52 times as fast",
        "measured: ",
    ):
        assert part in words
    assert words.count("<figure>") == 2


def test_ledgers_stand_side_by_side(comparison: dict[str, Any], tmp_path: Path) -> None:
    """A row for what any of them has; what the other lacks is left empty."""
    comparison["plans"][1]["ledger"]["num_canvases"] = 77
    words = words_of(comparison, tmp_path)
    assert '<td>micro-batches</td><td class="number">400</td><td class="number">130</td>' in words
    assert '<td>different canvases</td><td class="number"></td><td class="number">77</td>' in words


def test_a_slower_plan_is_said_to_be_slower(comparison: dict[str, Any], tmp_path: Path) -> None:
    """The other way round."""
    comparison["plans"].reverse()
    assert "1.52 times as long" in words_of(comparison, tmp_path)


@pytest.mark.parametrize("pinned", [(0,), (1,), (0, 1)])
def test_pinned_plans_have_no_bytes(comparison: dict[str, Any], tmp_path: Path, pinned: tuple[int, ...]) -> None:
    """What is not known is said, and the other plan is drawn."""
    for number in pinned:
        comparison["plans"][number] |= {"budget_bytes": None, "predicted_bytes": None, "seconds": None}
    words = words_of(comparison, tmp_path)
    assert "unknown" in words
    assert ("Neither plan predicts memory" in words) == (len(pinned) == 2)
    assert ("No bytes are predicted" in words) == (len(pinned) == 1)


def test_empty_plans_have_notes(comparison: dict[str, Any], tmp_path: Path) -> None:
    """No micro-batches, no ledgers."""
    for plan in comparison["plans"]:
        plan |= {"fills": [], "predicted_bytes": [], "measured_bytes": [], "micro_batches": [], "ledger": {}}
    words = words_of(comparison, tmp_path)
    assert "Neither plan has a micro-batch." in words
    assert "Neither plan has a ledger." in words


def test_hostile_names_stay_names(comparison: dict[str, Any], tmp_path: Path) -> None:
    """Plans are named by folders."""
    comparison["plans"][0]["name"] = HOSTILE
    comparison["plans"][1]["name"] = 60 * "long"
    assert "&lt;script&gt;alert(1)&lt;/script&gt;$" in words_of(comparison, tmp_path)


def test_another_version_is_refused(comparison: dict[str, Any]) -> None:
    """By its schema."""
    with pytest.raises(msgspec.ValidationError, match=r"Invalid enum value 2 - at `\$\.version`"):
        msgspec.convert(comparison | {"version": 2}, PlanComparison)


def test_an_incomplete_comparison_is_refused(comparison: dict[str, Any]) -> None:
    """One plan is no comparison, and a plan has all its figures."""
    with pytest.raises(msgspec.ValidationError, match=r"length 2, got 1 - at `\$\.plans`"):
        msgspec.convert(comparison | {"plans": comparison["plans"][:1]}, PlanComparison)
    del comparison["plans"][0]["fills"]
    with pytest.raises(msgspec.ValidationError, match="missing required field `fills`"):
        msgspec.convert(comparison, PlanComparison)
