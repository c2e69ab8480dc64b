"""Partition into micro-batches, beside the best there is."""

import numpy as np
import pytest

from unsquare.plan.config import Limits
from unsquare.plan.partition.moves import PartCosts, refine
from unsquare.plan.partition.tight import BLOCK_IMAGES, partition


def all_partitions(items):
    """Every way to divide a list into parts."""
    if not items:
        yield []
        return
    first, *rest = items
    for parts in all_partitions(rest):
        yield [[first], *parts]
        for i, part in enumerate(parts):
            yield [*parts[:i], [first, *part], *parts[i + 1 :]]


def price(sizes, parts, limits):
    """Computed pixels and launches, from first principles."""
    canvases = [sizes[part].max(axis=0).prod() * len(part) for part in parts]
    return sum(canvases) + limits.launch_pixels * len(parts)


def within_budget(sizes, parts, limits):
    """Whether each part is within the budget."""
    return all(sizes[part].max(axis=0).prod() * len(part) <= limits.budget_pixels for part in parts)


def random_cases(count):
    """Up to 6 random shapes each, with budgets and launches from binding to generous."""
    rng = np.random.default_rng(7)
    for _ in range(count):
        sizes = rng.integers(1, 40, (int(rng.integers(2, 7)), 2))
        largest = int(sizes.prod(axis=1).max())
        budget = int(largest * rng.choice([1, 1.5, 2.5, 4, 10]))
        yield (
            sizes,
            Limits(budget_pixels=budget, launch_pixels=int(largest * rng.choice([0, 0.03, 0.1, 0.3, 1]))),
        )


def test_partition_is_near_the_best_of_all():
    """Of all partitions of up to 6 images the best, or within 5 % of its limits, and 0.2 % on average.

    A greedy tree does not cut where only two cuts together pay, and moves of single images do not undo that;
    3 % is the worst that was seen in 300 cases, so 5 % is the bound that a change must not cross.
    """
    ratios = []
    for sizes, limits in random_cases(120):
        parts = partition(sizes, np.arange(len(sizes)), limits)
        allowed = (p for p in all_partitions(list(range(len(sizes)))) if within_budget(sizes, p, limits))
        ratios.append(price(sizes, parts, limits) / min(price(sizes, p, limits) for p in allowed))
    assert min(ratios) >= 1
    assert max(ratios) <= 1.05
    assert np.mean(ratios) <= 1.002


def test_equal_shapes_fill_the_budget():
    """Where all shapes are equal, micro-batches are as few as the budget allows, without padding."""
    sizes = np.full((256, 2), 10)
    parts = partition(sizes, np.arange(256), Limits(budget_pixels=350, launch_pixels=7))
    assert len(parts) == 86
    assert price(sizes, parts, Limits(budget_pixels=350, launch_pixels=7)) == 25_600 + 86 * 7


def test_free_launches_pad_nothing():
    """Where a launch costs nothing, only images of one shape share a canvas, if any."""
    sizes = np.random.default_rng(1).integers(1, 30, (300, 2))
    assert (
        price(
            sizes,
            partition(sizes, np.arange(300), Limits(budget_pixels=10**6, launch_pixels=0)),
            Limits(budget_pixels=10**6, launch_pixels=0),
        )
        == sizes.prod(axis=1).sum()
    )


def test_dear_launches_merge_all():
    """Where a launch costs more than any padding, the budget alone decides."""
    sizes = np.random.default_rng(1).integers(1, 30, (300, 2))
    assert len(partition(sizes, np.arange(300), Limits(budget_pixels=10**9, launch_pixels=10**9))) == 1


@pytest.mark.parametrize("launch", [0, 50, 2000])
def test_refining_only_ever_saves(launch, random_sizes):
    """Moving single images keeps the set of images, the budget, and never costs more."""
    limits = Limits(budget_pixels=30_000, launch_pixels=launch)
    parts = np.array_split(np.random.default_rng(3).permutation(200), 40)
    refined = refine(parts, PartCosts(random_sizes, limits))
    assert price(random_sizes, refined, limits) < price(random_sizes, parts, limits)
    assert within_budget(random_sizes, refined, limits)
    assert sorted(np.concatenate(refined).tolist()) == list(range(200))


def missing(parts, least):
    """Images that parts have fewer than enough."""
    return sum(max(0, least - len(part)) for part in parts)


@pytest.mark.parametrize("least", [2, 5, 40, 150, 500])
@pytest.mark.parametrize("budget", [4_000, 30_000, 10**9])
def test_parts_have_enough_images_where_the_budget_allows(least, budget, random_sizes):
    """A part of fewer images could join no other; images stay, and the budget holds."""
    limits = Limits(budget_pixels=budget, launch_pixels=10)
    parts = partition(random_sizes, np.arange(200), limits, least)
    assert within_budget(random_sizes, parts, limits)
    assert sorted(np.concatenate(parts).tolist()) == list(range(200))
    for number, part in enumerate(parts):
        others = parts[:number] + parts[number + 1 :]
        assert len(part) >= least or not any(
            within_budget(random_sizes, [np.concatenate([part, other])], limits) for other in others
        )
    if budget == 10**9:
        assert missing(parts, least) == max(0, least - 200)


@pytest.mark.parametrize("least", [2, 4, 8, 300])
@pytest.mark.parametrize("count", [256, 257, 258, 259, 512, 768, 1100])
@pytest.mark.parametrize("budget", [10**7, 64 * 10**6])
def test_large_steps_have_each_image_once(count, least, budget):
    """More images than are cut anew together: each is in one part, and small parts could join no other."""
    rng = np.random.default_rng(count)
    pixels, aspect = np.exp(rng.normal(14, 0.9, count)), np.exp(rng.normal(0, 0.4, count))
    sizes = np.minimum(3000, np.sqrt(np.stack([pixels / aspect, pixels * aspect], axis=1)).astype(int) + 1)
    limits = Limits(budget_pixels=budget)
    parts = partition(sizes, np.arange(count), limits, least)
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert within_budget(sizes, parts, limits)
    canvas, images = np.array([sizes[part].max(axis=0) for part in parts]), np.array([len(part) for part in parts])
    for number in np.flatnonzero(images < least):
        together = np.maximum(canvas, canvas[number]).prod(axis=1) * (images + images[number])
        assert (np.delete(together, number) > budget).all()


@pytest.mark.parametrize("least", [2, 3])
def test_parts_with_enough_images_are_the_best_of_all(least):
    """Of all partitions of up to 6 images the one that lacks the fewest images, and among those the cheapest.

    Where the budget binds, that is bin packing: one case in 300 lacks more than it must.
    """
    lacking = 0
    for sizes, limits in random_cases(60):
        parts = partition(sizes, np.arange(len(sizes)), limits, least)
        allowed = [p for p in all_partitions(list(range(len(sizes)))) if within_budget(sizes, p, limits)]
        fewest = min(missing(p, least) for p in allowed)
        assert missing(parts, least) >= fewest
        if missing(parts, least) > fewest:
            lacking += 1
            continue
        assert price(sizes, parts, limits) == min(
            price(sizes, p, limits) for p in allowed if missing(p, least) == fewest
        )
    assert lacking <= 1


def test_images_change_places_where_no_single_move_is_allowed():
    """Two micro-batches of just enough images each exchange what does not fit."""
    sizes = np.array([(10, 10), (10, 40), (10, 40), (10, 10)])
    limits = Limits(budget_pixels=10**6, launch_pixels=1)
    parts = refine([np.array([0, 1]), np.array([2, 3])], PartCosts(sizes, limits, least=2))
    assert sorted(sorted(part.tolist()) for part in parts) == [[0, 3], [1, 2]]


def test_a_misplaced_image_moves_to_its_like():
    """The one wide image among narrow ones joins the wide ones, since its leaving narrows the canvas."""
    sizes = np.array([(10, 10), (10, 11), (10, 30), (10, 30), (10, 31)])
    limits = Limits(budget_pixels=10**4, launch_pixels=50)
    parts = refine([np.array([0, 1, 2]), np.array([3, 4])], PartCosts(sizes, limits))
    assert [sorted(part.tolist()) for part in parts] == [[0, 1], [2, 3, 4]]


def test_large_sets_go_block_by_block():
    """More images than a block holds are still each in exactly one part."""
    count = BLOCK_IMAGES + 100
    sizes = np.random.default_rng(2).integers(1, 60, (count, 2))
    limits = Limits(budget_pixels=60_000, launch_pixels=500)
    for least in (1, 4):
        parts = partition(sizes, np.arange(count), limits, least)
        assert sorted(np.concatenate(parts).tolist()) == list(range(count))
        assert within_budget(sizes, parts, limits)
        assert missing(parts, least) == 0
