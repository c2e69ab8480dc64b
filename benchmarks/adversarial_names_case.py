"""The parts of which the cases of `adversarial_names` are built."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

APPLE = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        " + bytes(60)
NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
TWO = {"cat": 2, "dog": 2}


@dataclass(frozen=True)
class Case:
    name: str
    kind: str
    build: Callable[[Path], Path | None]
    classes: dict[str, int] | None
    """Images by class; None where a refusal is right."""
    said: tuple[str, ...] = ()
    """Words that must occur in what is printed; alternatives by |."""
    num_images: int | None = None
    """With those that have no label."""


CASES: list[Case] = []


def case(kind: str, classes: dict[str, int] | None, *said: str, num_images: int | None = None):
    """Register the function that builds a source; it may return the path to scan; by default that is its folder."""

    def register(build: Callable[[Path], Path | None]) -> Callable[[Path], Path | None]:
        CASES.append(Case(build.__name__, kind, build, classes, said, num_images))
        return build

    return register


_number = 0


def picture(path: Path) -> Path:
    """A small picture, different from all others."""
    global _number
    _number += 1
    rng = np.random.default_rng(_number)
    path.parent.mkdir(parents=True, exist_ok=True)
    height, width = rng.integers(16, 48, 2)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(path, format="png")
    return path


def plain(root: Path, *folders: str, each: int = 2) -> None:
    """Pictures 0.png, 1.png, ... in each folder; cat and dog where none is named."""
    for folder in folders or ("cat", "dog"):
        for i in range(each):
            picture(root / folder / f"{i}.png")


def raw(root: Path, name: bytes) -> bytes:
    """A path below the root by bytes."""
    return os.fsencode(root) + b"/" + name


FOUR_PATHS = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
FOUR_LABELS = ["cat", "cat", "dog", "dog"]
FOUR = [f"{path},{label}" for path, label in zip(FOUR_PATHS, FOUR_LABELS)]


def manifest(root: Path, *rows: str, header: str = "path,label", name: str = "list.csv") -> Path:
    """A CSV file of these lines."""
    (root / name).write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")
    return root / name


def four(root: Path, name: str = "list.csv") -> Path:
    """Four rows."""
    return manifest(root, *FOUR, name=name)
