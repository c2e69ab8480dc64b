"""The embedded dataset: photographs of objects of six materials, told apart by their fine texture alone.

The task cannot be solved in other ways, by construction. A scene (silhouette, colors, light, strength of the texture)
is drawn once and photographed in every material; sizes come from the same strata for every material. So nothing coarse
depends on the class, in any sample however small, and no scene of one split occurs in another. What tells the classes
apart is 2 to 6 pixels wide, and is lost when the picture is squashed to a small square.

Each picture depends only on (seed, split, number, material), so that the files are the same in any order and with any
number of workers.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from unsquare.demo.scene import draw_scene, render
from unsquare.demo.sizes import draw_shape
from unsquare.demo.textures import MATERIALS, make_texture
from unsquare.errors import SourceError
from unsquare.settings import PixelCount, Range, Seed, check_settings
from unsquare.shapes import Shape

MANIFEST = "materials.json"
"""Name of the file that records what a folder of materials was made from."""

_VERSION = 1
"""Raise this when the same settings give other pictures."""

_PNG_EVERY = 12
"""One scene in this many is stored as PNG, so that more than one decoder is used."""

_JPEG_QUALITY = 92
_GOLDEN = 0.6180339887498949
"""Steps of the golden ratio spread any number of points evenly over [0, 1)."""

NumPictures = Annotated[int, Range(len(MATERIALS), 6_000_000)]
"""At least one picture of each material."""


@dataclass(frozen=True, kw_only=True)
class MaterialsConfig:
    """How many pictures of which size. The defaults train in minutes on two processor cores."""

    num_train: NumPictures = 240
    """Pictures to train on, over all materials; rounded down to the same number for each."""
    num_val: NumPictures = 60
    """Pictures to choose settings with, over all materials."""
    num_test: NumPictures = 180
    """Pictures to evaluate on, over all materials."""
    mean_pixels: Annotated[PixelCount, Range(1024, 16_000_000)] = 100_000
    """Mean pixel count; museum photographs have 10 million on average, with the same spread."""
    seed: Seed = 0
    """Other seeds give other pictures."""

    def __post_init__(self) -> None:
        check_settings(self)

    def num_scenes(self, split: str) -> int:
        """Number of scenes of a split; each is photographed once in every material."""
        return {"train": self.num_train, "val": self.num_val, "test": self.num_test}[split] // len(MATERIALS)


class Picture(NamedTuple):
    """One picture to make."""

    split: str
    material: str
    number: int

    @property
    def key(self) -> str:
        """Path of the file in the folder."""
        suffix = "png" if self.number % _PNG_EVERY == _PNG_EVERY - 1 else "jpg"
        return f"{self.split}/{self.material}/{self.number:04d}.{suffix}"


def list_pictures(config: MaterialsConfig) -> Iterator[Picture]:
    """Every picture of the dataset."""
    for split in ("train", "val", "test"):
        for number in range(config.num_scenes(split)):
            yield from (Picture(split, material, number) for material in MATERIALS)


def make_materials(
    folder: Path,
    config: MaterialsConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    workers: int | None = None,
) -> Path:
    """Writes the dataset into `folder` as `split/material/number.jpg`, unless it is there already.

    A folder appears complete or not at all; one that was made with the same settings is left as it is.

    Args:
        folder: folder of the dataset.
        config: how many pictures of which size; None for the defaults.
        progress: called with the number of pictures done and in all.
        workers: number of threads; None for one per processor core.

    Returns:
        The folder.

    Raises:
        SourceError: the folder holds something else, or the dataset with other settings.
    """
    config = config or MaterialsConfig()
    folder = Path(folder)
    pictures = list(list_pictures(config))
    if _is_made(folder, config, len(pictures)):
        return folder
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        partial.mkdir(parents=True)
        _write_pictures(partial, config, pictures, progress, workers)
        _write_manifest(partial, config, len(pictures))
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise SourceError(f"The dataset cannot be written to {folder} ({error}); give another folder.") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def draw_picture(picture: Picture, config: MaterialsConfig) -> npt.NDArray[np.uint8]:
    """The pixels of one picture, (H, W, 3) uint8."""
    split = ("train", "val", "test").index(picture.split)
    own = np.random.default_rng((config.seed, split, picture.number, zlib.crc32(picture.material.encode())))
    shape = _stratified_shape(own, picture, config)
    texture = make_texture(own, picture.material, shape)
    return render(draw_scene((config.seed, split, picture.number)), texture, own)


def _stratified_shape(own: np.random.Generator, picture: Picture, config: MaterialsConfig) -> Shape:
    """A shape from the stratum of this scene: the same strata for every material, with a new draw in each."""
    num_scenes = config.num_scenes(picture.split)
    pixel_rank = (picture.number + own.uniform()) / num_scenes
    aspect_rank = (0.5 + _GOLDEN * picture.number + own.uniform() / num_scenes) % 1
    return draw_shape(pixel_rank, aspect_rank, config.mean_pixels)


def _write_pictures(
    folder: Path,
    config: MaterialsConfig,
    pictures: list[Picture],
    progress: Callable[[int, int], None] | None,
    workers: int | None,
) -> None:
    for parent in {(folder / picture.key).parent for picture in pictures}:
        parent.mkdir(parents=True)
    with ThreadPoolExecutor(workers or os.cpu_count() or 1) as pool:
        written = pool.map(lambda picture: _write_picture(folder, config, picture), pictures)
        try:
            for done, _ in enumerate(written, start=1):
                if progress is not None:
                    progress(done, len(pictures))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _write_picture(folder: Path, config: MaterialsConfig, picture: Picture) -> None:
    image = Image.fromarray(draw_picture(picture, config))
    path = folder / picture.key
    if path.suffix == ".png":
        image.save(path, compress_level=6)
    else:
        image.save(path, quality=_JPEG_QUALITY)


def _write_manifest(folder: Path, config: MaterialsConfig, num_pictures: int) -> None:
    manifest = {"version": _VERSION, "config": asdict(config), "num_pictures": num_pictures}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _is_made(folder: Path, config: MaterialsConfig, num_pictures: int) -> bool:
    """Whether the folder holds this dataset; raises where it holds something else."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return False
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        version, made_with = manifest["version"], manifest["config"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(
            f"{folder} holds something other than this dataset; give a folder that is new or empty."
        ) from error
    if (version, made_with) != (_VERSION, asdict(config)):
        raise SourceError(
            f"{folder} holds this dataset made with other settings ({made_with}, version {version}); "
            "delete it or give another folder."
        )
    found = sum(1 for picture in list_pictures(config) if (folder / picture.key).is_file())
    if found != num_pictures:
        raise SourceError(
            f"{folder} holds only {found} of its {num_pictures} pictures; delete the folder to make them again."
        )
    return True
