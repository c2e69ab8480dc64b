"""Mixup and cutmix stay within the region that two pictures share, and weigh labels by what is seen."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from unsquare.capacity.guard import halves
from unsquare.data import mixing
from unsquare.data.augment import AugmentConfig, image_rng, streams
from unsquare.data.loader import BatchLoader
from unsquare.errors import ConfigError
from unsquare.index.scan import scan_source
from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.planner import plan_epoch
from unsquare.shapes import Geometry, Shape

from torchvision.transforms import v2  # isort: skip  # after unsquare, which lets one built for another torch be imported

SHAPES = st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), min_size=2, max_size=7)
ALPHAS = st.sampled_from([0.2, 1.0, 5.0])


def padded(shapes: list[tuple[int, int]], *, plain: bool) -> np.ndarray:
    """Pictures at the top left of one canvas: each of one value, its place plus 1, or noise above 0."""
    canvas = np.zeros((len(shapes), *np.max(shapes, axis=0), 3), np.uint8)
    rng = np.random.default_rng(0)
    for slot, (height, width) in enumerate(shapes):
        noise = rng.integers(1, 256, (height, width, 3))
        canvas[slot, :height, :width] = slot + 1 if plain else noise
    return canvas


def mix(canvas: np.ndarray, shapes: list[tuple[int, int]], seed: int, **strengths: float) -> mixing.Mixed:
    """The pictures mixed in place, as rows 0, 1, 2 and so on of an index."""
    draws = [streams(image_rng(seed, 0, row)).mixing for row in range(len(shapes))]
    return mixing.mix(canvas, [Shape(*shape) for shape in shapes], draws, AugmentConfig(**strengths))


def shared(shapes: list[tuple[int, int]], slot: int, partner: int) -> tuple[slice, slice]:
    """The region that two pictures share."""
    return slice(min(shapes[slot][0], shapes[partner][0])), slice(min(shapes[slot][1], shapes[partner][1]))


@given(SHAPES, ALPHAS, st.integers(0, 99))
def test_cutmix_weighs_by_the_pixels_that_are_seen(shapes, alpha, seed) -> None:
    """Counted pixel by pixel, a picture shows its own value and its partner's alone, in the parts that weights say."""
    canvas = padded(shapes, plain=True)
    found = mix(canvas, shapes, seed, cutmix=alpha)
    for slot, (height, width) in enumerate(shapes):
        image, partner = canvas[slot, :height, :width, 0], int(found.partners[slot])
        own, others = (image == slot + 1).sum(), image == partner + 1
        assert own + others.sum() == height * width
        assert own / (height * width) == pytest.approx(found.weights[slot], abs=1e-6)
        assert others.sum() == others[shared(shapes, slot, partner)].sum()
        rows, columns = (np.flatnonzero(others.any(axis=axis)) for axis in (1, 0))
        assert others.sum() == len(rows) * len(columns)  # one rectangle
        assert not canvas[slot, height:].any()
        assert not canvas[slot, :, width:].any()


@given(SHAPES, ALPHAS, st.integers(0, 99))
def test_mixup_is_the_weighted_mean_where_both_are(shapes, alpha, seed) -> None:
    """Each value of the shared region is the mean that the weight says, to rounding; all else stays as it was."""
    canvas = padded(shapes, plain=False)
    before = canvas.astype(float)
    found = mix(canvas, shapes, seed, mixup=alpha)
    for slot, (height, width) in enumerate(shapes):
        partner = int(found.partners[slot])
        region = shared(shapes, slot, partner)
        part = region[0].stop * region[1].stop / (height * width)
        own = 1 - (1 - found.weights[slot]) / part
        assert -1e-5 <= own <= 1 + 1e-5
        wanted = own * before[slot][region] + (1 - own) * before[partner][region]
        assert np.abs(canvas[slot][region] - wanted).max() <= 0.51
        canvas[slot][region] = before[slot][region]
        np.testing.assert_array_equal(canvas[slot], before[slot])


@given(st.integers(2, 12), st.integers(0, 99))
def test_the_pictures_form_a_ring(num_images, seed) -> None:
    """Each is the partner of exactly one, none of itself, and all are connected."""
    partners = mix(padded([(3, 4)] * num_images, plain=True), [(3, 4)] * num_images, seed, mixup=1).partners
    visited, slot = [], 0
    for _ in range(num_images):
        visited.append(slot)
        slot = int(partners[slot])
    assert slot == 0
    assert sorted(visited) == list(range(num_images))


@given(st.integers(2, 40), st.integers(2, 40), st.floats(0, 1), st.floats(0, 0.999), st.floats(0, 0.999))
def test_a_box_is_torchvisions(height, width, own, down, across) -> None:
    """On pictures of one shape and the same draws, cutmix pastes the window that torchvision's CutMix does."""
    transform = v2.CutMix(num_classes=2)
    transform._dist = SimpleNamespace(sample=lambda shape: own)
    middles = iter([int(across * width), int(down * height)])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randint", lambda *_, **__: torch.tensor([next(middles)]))
        left, top, right, bottom = transform.make_params([torch.zeros(2, 3, height, width)])["box"]
    drawn = mixing._Draws(place=0, cuts=True, own=own, center=(down, across))
    assert mixing._box(Shape(height, width), drawn) == (slice(top, bottom), slice(left, right))


def test_both_get_half_of_the_pictures() -> None:
    """Where mixup and cutmix are on, each picture gets one of the two, about as often."""
    cut = []
    for seed in range(100):
        shapes = [(16, 16)] * 4
        canvas = padded(shapes, plain=True) * 50
        mix(canvas, shapes, seed, mixup=5, cutmix=5)
        cut += [len(np.unique(image)) == 2 and set(np.unique(image)) <= {50, 100, 150, 200} for image in canvas]
    assert 140 < sum(cut) < 260


def test_what_is_drawn_hangs_on_the_image_alone() -> None:
    """The order within a micro-batch changes neither partners nor pixels."""
    shapes, order = [(12, 9), (10, 14), (11, 11), (13, 8)], [2, 0, 3, 1]
    one, two = padded(shapes, plain=False), padded(shapes, plain=False)[order]
    config = AugmentConfig(mixup=1, cutmix=1)
    first = mix(one, shapes, 5, mixup=1, cutmix=1)
    draws = [streams(image_rng(5, 0, row)).mixing for row in order]
    second = mixing.mix(two, [Shape(*shapes[row]) for row in order], draws, config)
    np.testing.assert_array_equal(two, one[order])
    np.testing.assert_array_equal(second.weights, first.weights[order])
    assert [order[slot] for slot in second.partners] == first.partners[order].tolist()


def _load(index, config: AugmentConfig, *, workers: int = 2, epoch: int = 0, start: int = 0, budget: int = 20_000):
    plan = plan_epoch(index.sizes, PlanConfig(step_images=6), Limits(budget_pixels=budget, launch_pixels=500), epoch)
    loader = BatchLoader(index, Geometry(), config, workers)
    try:
        return list(loader.load(plan, list(plan.micro_batches)[start:]))
    finally:
        loader.close()


ALL = AugmentConfig(
    color_jitter=0.2, auto_augment="trivialaugment", blur=0.5, erasing=0.5, mixup=0.8, cutmix=1.0, flip_vertical=True
)


def test_batches_are_the_same_whatever_the_threads_and_after_a_resume(make_folder) -> None:
    """With all augmentation on, one thread or three, from the start or from the middle; another epoch differs."""
    index = scan_source(make_folder(num_images=9))
    whole = _load(index, ALL, workers=1)
    assert any(batch.other_labels is not None for batch in whole)
    for start in (0, 2):
        for one, two in zip(whole[start:], _load(index, ALL, workers=3, start=start), strict=True):
            assert torch.equal(one.pixels, two.pixels)
            assert (one.other_labels is None) == (two.other_labels is None) == (len(one.images) == 1)
            if one.other_labels is not None:
                assert torch.equal(one.other_labels, two.other_labels)
                assert torch.equal(one.label_weights, two.label_weights)
    later = _load(index, ALL, epoch=1)
    seen = [
        {int(i): p.sum() for each in batches for i, p in zip(each.images, each.pixels)} for batches in (whole, later)
    ]
    assert seen[0] != seen[1]


def test_the_planned_shapes_are_kept_and_padding_stays_zero(make_folder) -> None:
    """Whatever is on, nothing is written outside a picture's region."""
    for batch in _load(scan_source(make_folder(num_images=9)), ALL):
        for pixels, (height, width) in zip(batch.pixels, batch.sizes.tolist()):
            assert not pixels[:, height:].any()
            assert not pixels[:, :, width:].any()
            assert pixels[:, :height, :width].any()


def _changed_window(pixels: torch.Tensor, before: torch.Tensor) -> tuple[slice, slice] | None:
    """The smallest window that holds all pixels that differ; None where none does."""
    different = (pixels != before).any(dim=0)
    places = [np.flatnonzero(different.any(dim=dim)) for dim in (1, 0)]
    return (slice(places[0][0], places[0][-1] + 1), slice(places[1][0], places[1][-1] + 1)) if len(places[0]) else None


def test_other_labels_are_those_of_the_pictures_pasted(make_folder) -> None:
    """What is pasted into a picture is in another of its micro-batch, at the same place, whose label is the other."""
    index = scan_source(make_folder(("a", "b", "c", "d", "e"), num_images=5))
    still = AugmentConfig(flip_horizontal=False)
    plain = [dict(zip(batch.images.tolist(), batch.pixels)) for batch in _load(index, still)]
    pasted = 0
    for batch, before in zip(_load(index, replace(still, cutmix=1.0)), plain, strict=True):
        for slot, image in enumerate(batch.images.tolist()):
            if (window := _changed_window(batch.pixels[slot], before[image])) is None:
                continue
            content = batch.pixels[slot, :, window[0], window[1]]
            sources = [row for row, pixels in before.items() if torch.equal(pixels[:, window[0], window[1]], content)]
            assert int(batch.other_labels[slot]) in index.labels[sources]
            pasted += 1
    assert pasted > 10


def test_parts_keep_their_pairs(make_folder) -> None:
    """Chosen images and halves have the pixels, both labels and the weight of the whole micro-batch."""
    for batch in _load(scan_source(make_folder(num_images=9)), ALL):
        if len(batch.images) == 1:
            continue
        whole = dict(
            zip(batch.images.tolist(), zip(batch.pixels, batch.labels, batch.other_labels, batch.label_weights))
        )
        for part in (*halves(batch), batch.of(np.arange(len(batch.images)) % 2 == 0)):
            found = zip(part.pixels, part.labels, part.other_labels, part.label_weights)
            for image, (pixels, *labels) in zip(part.images.tolist(), found):
                assert torch.equal(pixels, whole[image][0][:, : pixels.shape[1], : pixels.shape[2]])
                assert labels == list(whole[image][1:])


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_strength_has_a_range(name: str) -> None:
    """Below 0, and not a number, are refused."""
    for value in (-0.1, float("nan")):
        with pytest.raises(ConfigError, match=f"{name} must be"):
            AugmentConfig(**{name: value})
