"""The pictures to predict: files, folders, Pillow images and arrays, one or many, in order."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from unsquare.data.opened import as_image, is_unread, shape_of
from unsquare.errors import ConfigError
from unsquare.index.ambiguous import require_one_page
from unsquare.index.choices import Choices
from unsquare.index.folder import list_folder
from unsquare.index.header import read_header
from unsquare.shapes import Shape

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | npt.NDArray[Any]
"""A file, a folder of files, a Pillow image, or an array of uint8, (height, width) or (height, width, channels)."""

_ACCEPTED = "give a path, a picture of PIL, an array, or several of them"


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One picture to predict."""

    name: str
    """The file's path as given, or "picture" and its number where it has no path."""
    image: Image.Image | None = None
    """The image; None where it is a file."""

    @property
    def key(self) -> Any:
        """Identity of the picture: equal for the same picture, which is then predicted once."""
        return self.name if self.image is None else id(self.image)

    def shape(self, choices: Choices) -> Shape:
        """Its shape as displayed; `choices` say how to read files that can be read in more than one way.

        Raises:
            ImageError: it cannot be read.
        """
        if self.image is not None:
            return shape_of(self.image, choices)
        header = read_header(Path(self.name))
        require_one_page(header, choices)
        return header.shape


def asked_pictures(pictures: Picture | Iterable[Picture]) -> list[Asked]:
    """Every picture to predict, in the order given; for a folder those below it, in the order of their names.

    Raises:
        ConfigError: something is neither a picture nor several.
        SourceError: an array is not a picture, or a folder holds none.
    """
    if _is_one(pictures):
        return _asked(pictures, 0)
    refused = isinstance(pictures, (bytes, bytearray, memoryview, io.IOBase, torch.Tensor, Mapping))
    if refused or not isinstance(pictures, Iterable):
        raise ConfigError(f"Pictures to predict are expected, but got {_described(pictures)}.")
    found: list[Asked] = []
    for each in pictures:
        if not _is_one(each):
            raise ConfigError(f"Pictures to predict are expected, but one of those given is {_described(each)}.")
        found += _asked(each, len(found))
    return found


def _is_one(picture: Any) -> bool:
    if isinstance(picture, np.ndarray):
        return picture.ndim <= 3 and picture.dtype.kind not in "OUST"  # others are names, or several pictures
    return isinstance(picture, (str, os.PathLike, Image.Image))


def _asked(picture: Any, number: int) -> list[Asked]:
    if isinstance(picture, np.ndarray):
        return [Asked(name=f"picture {number}", image=as_image(picture))]
    if isinstance(picture, Image.Image):
        file = os.fsdecode(getattr(picture, "filename", ""))
        if is_unread(picture) and os.path.isfile(file):
            return [Asked(name=file)]  # read by our own decoders, which refuse pictures that were cut short
        return [Asked(name=file or f"picture {number}", image=picture)]
    path = os.fsdecode(picture)
    if not path:
        raise ConfigError("A picture's path must not be empty; give a file or a folder.")
    if not os.path.isdir(path):
        return [Asked(name=path)]
    listing = list_folder(Path(path))
    return [Asked(name=os.path.join(path, key)) for key in listing.keys.tolist()]


def _described(given: Any) -> str:
    """What was given instead of a picture, and what to give."""
    if isinstance(given, (bytes, bytearray, memoryview)):
        return "bytes; open a file's content by PIL.Image.open(io.BytesIO(content))"
    if isinstance(given, io.IOBase):
        return "an open file; give its path, or PIL.Image.open(file)"
    if isinstance(given, torch.Tensor):
        return "a tensor; give an array of uint8 with channels last, as in tensor.permute(1, 2, 0).numpy()"
    return f"a value of type {type(given).__name__}; {_ACCEPTED}"
