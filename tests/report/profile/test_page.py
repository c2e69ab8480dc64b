"""What `unsquare profile` found, on a run's page and on its own: true, safe, and never without an answer."""

from __future__ import annotations

import copy
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unsquare.errors import RunError
from unsquare.report import write_profile_page, write_report
from unsquare.report.profile.facts import MOST_LAYERS, largest_layers, layer_bytes
from unsquare.report.profile.figures import shortened
from unsquare.runs.schemas import NetworkProfile

HOSTILE = "<script>alert(1)</script>$\\frac"


def page_on(profile: dict[str, Any], out: Path) -> Path:
    """The page on a profile with this content."""
    return write_profile_page(msgspec.convert(profile, NetworkProfile), out)


def words_of(page: Path) -> str:
    """The page as it is written, each space a plain one; checks that it nests and needs nothing from outside."""

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.open: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag not in ("script", "link", "iframe", "object")
            for name, value in attrs:
                if name in ("src", "srcset", "href"):
                    assert (value or "").startswith(("#", "data:image/svg+xml;base64,"))
            if tag not in ("meta", "img", "source"):
                self.open.append(tag)

        def handle_endtag(self, tag: str) -> None:
            assert self.open.pop() == tag

    text = page.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert "url(" not in text
    return text.replace("\u00a0", " ")


def test_the_page_tells_what_fits(profile: dict[str, Any], tmp_path: Path) -> None:
    """The largest batch, what was predicted, what failed and why, and where memory is highest."""
    words = words_of(page_on(profile, tmp_path / "new" / "profile.html"))
    for part in (
        "Memory of runs/museum",
        "resnet18 on cpu in bf16-mixed, within a budget of 8 GiB",
        "The largest batch that fits has 41; 43 were predicted",
        "42 images failed. The process was stopped at 8.6 GiB.",
        "Memory is highest in the backward pass, at the layer backbone.layer1.0.conv1: 2.24 GiB for 8 images",
        "8 batches",
        "19 layers as a table",
    ):
        assert part in words
    assert words.count("<figure>") == 3


def test_a_run_has_its_profile(run: Path, profile: dict[str, Any]) -> None:
    """Two more sections, in the navigation too; a run without a profile has neither."""
    without = words_of(write_report(run))
    (run / "profile.json").write_text(json.dumps(profile))
    page = words_of(write_report(run))
    for anchor in ("sweep", "attribution"):
        assert f'<section id="{anchor}">' in page
        assert f'href="#{anchor}"' in page
        assert f'id="{anchor}"' not in without


def test_the_same_profile_gives_the_same_page(profile: dict[str, Any], tmp_path: Path) -> None:
    """No clock and no random number reaches the page."""
    out = tmp_path / "profile.html"
    first = page_on(profile, out).read_bytes()
    assert page_on(profile, out).read_bytes() == first


@pytest.mark.parametrize("missing", ["sweep", "attribution"])
def test_a_missing_part_is_a_note(profile: dict[str, Any], tmp_path: Path, missing: str) -> None:
    """What was not asked for is said not to be there."""
    words = words_of(page_on(profile | {missing: None}, tmp_path / "profile.html"))
    assert f"this profile has no {missing}" in words


def test_a_sweep_that_never_failed_can_be_drawn(profile: dict[str, Any], tmp_path: Path) -> None:
    """One batch, no limit, no failure."""
    sweep = profile["sweep"] | {"failed_images": None, "failure": None, "limit_bytes": None, "largest_images": 1}
    sweep["rows"] = sweep["rows"][:1]
    words = words_of(page_on(profile | {"sweep": sweep}, tmp_path / "profile.html"))
    assert "The largest batch that fits has 1 image" in words
    assert "failed" not in words


@pytest.mark.usefixtures("unrendered")
def test_a_sweep_without_a_batch_is_refused(run: Path, profile: dict[str, Any]) -> None:
    """Where not even one image fits, `unsquare profile` ends with an error and writes nothing."""
    profile["sweep"]["rows"] = []
    (run / "profile.json").write_text(json.dumps(profile))
    with pytest.warns(UserWarning, match=r"`array` of length >= 1 - at `\$\.sweep\.rows`"):
        write_report(run)


def test_an_attribution_without_layers_has_a_note(profile: dict[str, Any], tmp_path: Path) -> None:
    """Nothing watched, nothing drawn."""
    empty = profile["attribution"] | {"layers": [], "kinds": [], "at": "", "phase": ""}
    words = words_of(page_on(profile | {"attribution": empty}, tmp_path / "profile.html"))
    assert "No layer was traced." in words
    assert "Memory is highest between steps: 2.24 GiB" in words


def test_others_are_the_sum_of_the_rest(profile: dict[str, Any]) -> None:
    """Nothing is lost between the bars and the table."""
    found = msgspec.convert(profile, NetworkProfile).attribution
    assert found is not None
    shown = largest_layers(found.layers)
    assert len(shown) == MOST_LAYERS + 1
    assert shown[-1].name == "4 others"
    assert sum(map(layer_bytes, shown)) == pytest.approx(sum(map(layer_bytes, found.layers)))
    assert layer_bytes(shown[0]) == max(map(layer_bytes, found.layers))


def test_hostile_names_stay_names(profile: dict[str, Any], tmp_path: Path) -> None:
    """Whatever a file says is text."""
    hostile = copy.deepcopy(profile) | {"subject": HOSTILE, "backbone": HOSTILE, "device": HOSTILE}
    hostile["sweep"] |= {"strategy": HOSTILE, "failure": HOSTILE}
    hostile["attribution"] |= {"phase": HOSTILE, "at": HOSTILE, "kinds": [[HOSTILE, 5e9]]}
    hostile["attribution"]["layers"][0] |= {"name": HOSTILE, "type": HOSTILE}
    words = words_of(page_on(hostile, tmp_path / "profile.html"))
    assert "<script>" not in words
    assert "&lt;script&gt;alert(1)&lt;/script&gt;$" in words


@pytest.mark.usefixtures("unrendered")
def test_another_version_is_refused(run: Path, profile: dict[str, Any]) -> None:
    """With both versions and what to do; the page is written without it."""
    (run / "profile.json").write_text(json.dumps(profile | {"version": 3}))
    with pytest.warns(UserWarning, match=r"profile\.json of run cannot be read \(it has version 3, but this release"):
        page = words_of(write_report(run))
    assert 'id="sweep"' not in page


def test_an_incomplete_profile_is_refused(run: Path, profile: dict[str, Any]) -> None:
    """By what is missing."""
    del profile["sweep"]["canvas"]
    (run / "profile.json").write_text(json.dumps(profile))
    missing = r"profile\.json of run cannot be read \(Object missing required field `canvas` - at `\$\.sweep`\)"
    with pytest.warns(UserWarning, match=missing):
        write_report(run)


def test_a_page_that_cannot_be_written_is_refused(profile: dict[str, Any], tmp_path: Path) -> None:
    """A file stands where the folder would be."""
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"profile\.html cannot be written"):
        page_on(profile, tmp_path / "file" / "profile.html")


def test_long_names_keep_both_ends() -> None:
    """Layers differ in their ends, and belong together by their beginnings."""
    name = "backbone." + "x" * 60 + ".conv2"
    assert len(shortened(name)) < 45
    assert shortened(name).startswith("backbone.")
    assert shortened(name).endswith(".conv2")
    assert shortened("conv1") == "conv1"
