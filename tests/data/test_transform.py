"""A function of the user's own: what it is given, that its name is recorded, and that it keeps the shape."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest
import torch

from unsquare.data.augment import AugmentConfig
from unsquare.data.loader import BatchLoader
from unsquare.errors import ConfigError
from unsquare.index.scan import scan_source
from unsquare.plan.config import Limits, PlanConfig
from unsquare.plan.planner import plan_epoch
from unsquare.shapes import Geometry
from unsquare.training.config import TrainConfig, from_toml, to_toml

MODULE = """
import numpy as np

def spotted(image, rng):
    row, column = rng.integers(image.shape[0]), rng.integers(image.shape[1])
    image[row, column] = rng.integers(256, size=3)
    return image

def failing(image, rng):
    raise ValueError("no\\nspots")

class Spotted:
    pass

number = 3
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module of one's own in the current folder."""
    (tmp_path / "own_transforms.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    return "own_transforms"


def load(folder: Path, augment: AugmentConfig, *, epoch: int = 0, workers: int = 2) -> dict[int, torch.Tensor]:
    """The pixels of each image, without padding."""
    index = scan_source(folder)
    plan = plan_epoch(index.sizes, PlanConfig(step_images=5), Limits(budget_pixels=20_000), epoch)
    loader = BatchLoader(index, Geometry(), augment, workers)
    try:
        return {
            int(image): pixels[:, : size[0], : size[1]]
            for batch in loader.load(plan, plan.micro_batches)
            for image, pixels, size in zip(batch.images, batch.pixels, batch.sizes.tolist())
        }
    finally:
        loader.close()


def test_a_function_by_name_draws_from_the_pictures_own_generator(make_folder, own) -> None:
    """The same pictures whatever the threads, others in another epoch, and the same by the function itself."""
    folder, config = make_folder(), AugmentConfig(flip_horizontal=False, transform=f"{own}:spotted")
    plain = load(folder, AugmentConfig(flip_horizontal=False))
    one, three = load(folder, config, workers=1), load(folder, config, workers=3)
    import own_transforms

    itself = load(folder, AugmentConfig(flip_horizontal=False, transform=own_transforms.spotted))
    later = load(folder, config, epoch=1)
    for image, pixels in one.items():
        assert torch.equal(pixels, three[image])
        assert torch.equal(pixels, itself[image])
        assert (pixels != plain[image]).any(dim=0).sum() <= 1
    assert any(not torch.equal(pixels, later[image]) for image, pixels in one.items())


def test_the_name_is_recorded(own) -> None:
    """The settings of a run have the name, which reads back, for a function, a lambda and an object alike."""
    for transform, name in (
        (f"{own}:spotted", f"{own}:spotted"),
        (np.flip, "numpy:flip"),
        (lambda image, rng: image, f"{__name__}:test_the_name_is_recorded.<locals>.<lambda>"),
        (functools.partial(np.flip, axis=0), "functools:partial"),
        (None, None),
    ):
        text = to_toml(TrainConfig(augment=AugmentConfig(transform=transform)))
        assert from_toml(text, "config.toml").augment.transform == name


@pytest.mark.parametrize(
    ("transform", "said"),
    [
        (
            lambda image, rng: image[1:],
            r"here \(\d+, \d+, 3\) of uint8, but .*<lambda> returned \(\d+, \d+, 3\) of uint8 for '.*'; change sizes",
        ),
        (
            lambda image, rng: image.astype(np.float32),
            r"returned \(\d+, \d+, 3\) of float32 for '.*\.jpg'; have it convert",
        ),
        (lambda image, rng: image[..., :1], r"returned \(\d+, \d+, 1\) of uint8 for '.*\.jpg'; have it convert what"),
        (lambda image, rng: None, r"returned None for '.*\.jpg'; have it convert what it returns\.$"),
        (lambda image, rng: torch.from_numpy(image), "returned of type Tensor for"),
        (
            lambda image: image,
            r"<lambda> fails for '.*\.jpg': TypeError: .*2 were given; correct it, or leave it out\.$",
        ),
        (
            "failing",
            r"work for every picture, but own_transforms:failing fails for '.*\.jpg': ValueError: no spots \(own_",
        ),
        ("nothing", r"but own_transforms:nothing cannot be imported \(AttributeError: .*\); correct the name, or call"),
        ("number", "but own_transforms:number is 3; correct the name"),
        (
            "Spotted",
            "own_transforms:Spotted is the class Spotted itself; correct the name, or call unsquare.train again",
        ),
    ],
)
def test_what_it_may_not_do(make_folder, own, transform, said) -> None:
    """One sentence with the function and the picture, and the user's own error kept as its cause."""
    transform = f"{own}:{transform}" if isinstance(transform, str) else transform
    with pytest.raises(ConfigError, match=said) as caught:
        load(make_folder(num_images=2), AugmentConfig(transform=transform))
    assert (caught.value.__cause__ is not None) == ("fails" in said or "imported" in said)


@pytest.mark.parametrize("name", ["spotted", "own:", ":spotted", 3])
def test_a_name_has_two_parts(name) -> None:
    """A text that cannot name a function is refused with the settings."""
    with pytest.raises(ConfigError, match="transform must be a function"):
        AugmentConfig(transform=name)


def test_running_out_of_memory_is_no_fault_of_the_function(make_folder) -> None:
    """It passes through, so that the loader tries again when the micro-batch is asked for."""
    short = [True]

    def transform(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        if short and short.pop():
            raise MemoryError
        return image

    assert len(load(make_folder(num_images=2), AugmentConfig(transform=transform))) == 4
