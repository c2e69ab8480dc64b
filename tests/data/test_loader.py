"""The loader delivers what the plan says, ahead of time, within its bytes."""

import os
import shutil
import threading
import time

import numpy as np
import pytest
import torch

from unsquare.data import loader as loader_module
from unsquare.data.augment import AugmentConfig
from unsquare.data.decode import decode, decode_peak_bytes
from unsquare.data.gate import ByteGate
from unsquare.data.loader import BatchLoader
from unsquare.errors import PlanError, SourceError
from unsquare.index.scan import scan_source
from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.planner import plan_epoch
from unsquare.shapes import Geometry, Shape

NATIVE = Geometry()
CONFIG, LIMITS = PlanConfig(step_images=5), Limits(budget_pixels=20_000, launch_pixels=500)


def _load(index, geometry=NATIVE, augment=None, epoch=0, turns=False, workers=2):
    sizes = geometry.crop(geometry.resize(index.sizes))
    plan = plan_epoch(sizes, CONFIG, LIMITS, epoch, turns=turns)
    loader = BatchLoader(index, geometry, augment, workers)
    try:
        return plan, list(loader.load(plan, list(plan.micro_batches)))
    finally:
        loader.close()


def test_each_picture_stands_at_the_top_left_with_zeros_around(make_folder):
    """Inside its size a picture is as decoded; outside everything is zero; labels and order are the plan's."""
    index = scan_source(make_folder(num_images=6))
    plan, batches = _load(index)
    assert [batch.images.tolist() for batch in batches] == [each.images.tolist() for each in plan.micro_batches]
    for batch in batches:
        assert batch.pixels.dtype == torch.uint8
        assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
        for slot, image in enumerate(batch.images):
            height, width = index.sizes[image]
            pixels = batch.pixels[slot].permute(1, 2, 0).numpy()
            assert np.array_equal(pixels[:height, :width], decode(index.path(image)))
            assert not pixels[height:].any()
            assert not pixels[:, width:].any()
            assert batch.sizes[slot].tolist() == [height, width]
            assert batch.labels[slot] == index.labels[image]


@pytest.mark.parametrize("becomes", ["gone", "below a file", "another", "damaged"])
def test_the_advice_fits_what_became_of_a_picture(make_folder, becomes):
    """A missing picture is put back or scanned for; one that was replaced needs a new scan, since the index is old."""
    index = scan_source(make_folder(num_images=2))
    path = index.path(1)
    content, times = path.read_bytes(), path.stat()
    if becomes == "below a file":
        shutil.rmtree(path.parent)
        path.parent.write_bytes(b"")
    elif becomes == "gone":
        path.unlink()
    elif becomes == "another":
        path.write_bytes(content + b" ")
    else:
        path.write_bytes(content[:-400] + bytes(400))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    advice = (
        "replace or remove it, or list all such"
        if becomes == "damaged"
        else r"put it back, or scan the source again\.$"
    )
    with pytest.raises(SourceError, match=rf"must decode, but '.*' [^;]+; {advice}"):
        _load(index)


@pytest.mark.parametrize("num_bad", [1, 5, 12])
def test_batches_are_loaded_without_what_does_not_decode(make_folder, num_bad):
    """`failed` is called once for each such picture, and the others are loaded; without it, the first is an error."""
    index = scan_source(make_folder(num_images=6))
    bad = np.random.default_rng(num_bad).permutation(len(index))[:num_bad].tolist()
    _, whole = _load(index)
    expected = {int(image): pixels for batch in whole for image, pixels in zip(batch.images, batch.pixels)}
    for row in bad:
        content = index.path(row).read_bytes()
        index.path(row).write_bytes(content[: len(content) * 3 // 4] + b"\xff\xd9")
    with pytest.raises(SourceError, match="must decode"):
        _load(index)
    plan = plan_epoch(index.sizes, CONFIG, LIMITS, 0)
    loader, failed = BatchLoader(index, NATIVE, workers=2), []
    batches = list(loader.load(plan, list(plan.micro_batches), failed.append))
    loader.close()
    assert sorted(error.row for error in failed) == sorted(bad)
    assert {index.keys[error.row] for error in failed} == {error.key for error in failed}
    shown = {int(image): pixels for batch in batches for image, pixels in zip(batch.images, batch.pixels)}
    assert sorted([*shown, *bad]) == list(range(len(index)))
    for batch in batches:
        assert len(batch.images) == len(batch.sizes) == len(batch.labels) == len(batch.pixels) > 0
        assert batch.pixels.is_contiguous(memory_format=torch.channels_last)
        assert batch.labels.tolist() == index.labels[batch.images].tolist()
    for image, pixels in shown.items():
        assert torch.equal(pixels, expected[image])


def test_a_giant_is_decoded_when_it_is_asked_for(make_folder, monkeypatch):
    """A picture that needs more than all decoders may take is not decoded while others are computed; all else is."""
    index = scan_source(make_folder(num_images=6))
    needs = [decode_peak_bytes(Shape(*size), Shape(*size)) for size in index.sizes.tolist()]
    monkeypatch.setattr(loader_module, "DECODE_BYTES", sorted(needs)[len(needs) // 2])
    monkeypatch.setattr(loader_module, "decode_need", lambda path, shape, size: decode_peak_bytes(shape, size))
    asked = []
    pool_decode = loader_module.decode_row
    main = threading.get_ident()
    monkeypatch.setattr(
        loader_module,
        "decode_row",
        lambda *given, **settings: asked.append(threading.get_ident() == main) or pool_decode(*given, **settings),
    )
    _, batches = _load(index)
    assert sum(asked) == sum(need > loader_module.DECODE_BYTES for need in needs) > 0
    for batch in batches:
        for slot, image in enumerate(batch.images):
            height, width = index.sizes[image]
            pixels = batch.pixels[slot].permute(1, 2, 0).numpy()[:height, :width]
            assert np.array_equal(pixels, decode(index.path(image)))


def test_a_decoder_without_memory_tries_again_when_nothing_else_runs(make_folder, monkeypatch):
    """Ahead of time there was none; when the batch is asked for there is."""
    index = scan_source(make_folder(num_images=3))
    place, failed = BatchLoader._place, set()

    def short(self, slot, plan, image, target):
        if image not in failed:
            failed.add(image)
            raise MemoryError
        return place(self, slot, plan, image, target)

    monkeypatch.setattr(BatchLoader, "_place", short)
    _, batches = _load(index)
    assert sum(len(batch.images) for batch in batches) == len(index) == len(failed)
    assert all(batch.pixels.any() for batch in batches)


@pytest.mark.parametrize("turns", [False, True])
def test_augmented_pictures_have_the_planned_shapes_whatever_the_workers(make_folder, turns):
    """Crops and turns fit the plan exactly, and one thread gives the same pixels as three."""
    index = scan_source(make_folder(num_images=5))
    geometry = Geometry(max_pixels=900, crop_fraction=0.8)
    augment = AugmentConfig(turns=turns, color_jitter=0.3)
    plan, one = _load(index, geometry, augment, turns=turns, workers=1)
    _, three = _load(index, geometry, augment, turns=turns, workers=3)
    for a, b in zip(one, three):
        assert torch.equal(a.pixels, b.pixels)
        assert np.array_equal(a.sizes.numpy(), plan.sizes[a.images])
    _, later = _load(index, geometry, augment, epoch=1, turns=turns)
    first = {int(i): pixels for batch in one for i, pixels in zip(batch.images, batch.pixels)}
    again = {int(i): pixels for batch in later for i, pixels in zip(batch.images, batch.pixels)}
    assert any(first[i].shape != again[i].shape or not torch.equal(first[i], again[i]) for i in first)


@pytest.mark.parametrize("turns", [False, True])
def test_scaled_pictures_have_the_planned_shapes(make_folder, monkeypatch, turns):
    """The scale is the plan's: each picture is decoded at its own, cropped and turned; another epoch has others."""
    monkeypatch.setattr("unsquare.plan.draw.LEAST_SIDE", 8)
    index, geometry = scan_source(make_folder(num_images=6)), Geometry(crop_fraction=0.9)
    config = PlanConfig(step_images=5, min_scale=0.5)
    loader = BatchLoader(index, geometry, AugmentConfig(turns=turns), 2)
    plans = [plan_epoch(geometry.crop(geometry.resize(index.sizes)), config, LIMITS, e, turns=turns) for e in (0, 1)]
    for plan in plans:
        for batch in loader.load(plan, list(plan.micro_batches)):
            assert (batch.sizes.numpy() == plan.sizes[batch.images]).all()
            for pixels, (height, width) in zip(batch.pixels, batch.sizes.tolist()):
                assert pixels[:, height - 1, width - 1].any()
                assert not pixels[:, height:].any()
    assert (plans[0].scales != plans[1].scales).any()
    assert 0.5 <= plans[0].scales.min() < plans[0].scales.max() <= 1
    loader.close()


def test_a_picture_that_breaks_is_named(make_folder):
    """A file that was cut short after the scan stops the loader with its name and what to do."""
    folder = make_folder(num_images=3)
    index = scan_source(folder)
    broken = folder / "cat" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:-300])
    with pytest.raises(SourceError, match=r"cat/1\.jpg.*scan the source again"):
        _load(index)


@pytest.mark.parametrize("geometry", [Geometry(max_pixels=300), Geometry(scale=2.0)])
def test_a_plan_of_other_shapes_is_refused(make_folder, geometry):
    """Planned at native size and loaded at another, padding would count as picture: the first such file is named."""
    index = scan_source(make_folder(num_images=2))
    plan = plan_epoch(index.sizes, CONFIG, LIMITS, 0)
    loader = BatchLoader(index, geometry)
    with pytest.raises(PlanError, match=r"\.jpg is planned as .* but will be .*; plan geometry\.resize"):
        next(loader.load(plan, plan.micro_batches))
    loader.close()


def test_leaving_early_stops_reading_ahead(make_folder):
    """A consumer that stops after one batch can close the loader at once."""
    index = scan_source(make_folder(num_images=8))
    plan = plan_epoch(index.sizes, CONFIG, LIMITS, 0)
    loader = BatchLoader(index, Geometry(), workers=2)
    batches = loader.load(plan, list(plan.micro_batches))
    next(batches)
    batches.close()
    loader.close()


def test_the_gate_never_holds_more_than_its_limit():
    """Many threads together never hold more than the limit, except one that is too large, which is alone."""
    gate, held, most, alone = ByteGate(100), [0], [0], []
    lock = threading.Lock()

    def work(amount):
        with gate.hold(amount):
            with lock:
                held[0] += amount
                if amount > 100:
                    alone.append(held[0] == amount)
                else:
                    most[0] = max(most[0], held[0])
            time.sleep(0.002)
            with lock:
                held[0] -= amount

    threads = [threading.Thread(target=work, args=(amount,)) for amount in [30, 60, 250, 45] * 8]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 60 < most[0] <= 100
    assert len(alone) == 8
    assert all(alone)


def test_verify_finds_what_headers_hide(make_folder):
    """A picture whose pixels are damaged behind a good header becomes a problem; the others stay."""
    from unsquare.data.verify import verify

    folder = make_folder(num_images=3)
    broken = folder / "dog" / "2.jpg"
    content = broken.read_bytes()
    broken.write_bytes(content[:-60] + content[-2:])
    index = scan_source(folder)
    assert len(index) == 6
    checked = verify(index)
    assert len(checked) == 5
    assert [problem.key for problem in checked.problems] == ["dog/2.jpg"]
