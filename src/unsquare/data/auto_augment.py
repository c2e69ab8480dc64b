"""RandAugment and TrivialAugment: which operations a picture gets, drawn from its own generator.

The operations, their ranges and their signs are those of torchvision's `RandAugment` and `TrivialAugmentWide`
(torchvision.transforms.v2, `_AUGMENTATION_SPACE`), but its classes draw from torch's one global generator, so that
threads would take each other's numbers, and a picture's would depend on all that came before. Here drawing is one
function and applying another (`operations`).

Sources: Cubuk et al., RandAugment (arXiv 1909.13719); Mueller and Hutter, TrivialAugment (arXiv 2103.10158).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unsquare.data.augment import MOST_MAGNITUDE, AugmentConfig
from unsquare.shapes import Shape

_RANDAUGMENT_OPERATIONS = 2
"""Operations of RandAugment on a picture (torchvision's default)."""


@dataclass(frozen=True)
class Operation:
    """An operation on a picture."""

    name: str
    """Its name in torchvision."""
    magnitude: float = 0.0
    """Its strength as torchvision takes it."""


@dataclass(frozen=True)
class _Space:
    """The range of an operation's magnitudes."""

    start: float
    end: float
    signed: bool = True
    """Whether half of the draws are negative."""

    def at(self, level: int) -> float:
        return self.start + (self.end - self.start) * level / MOST_MAGNITUDE


_COLORS = ("Brightness", "Color", "Contrast", "Sharpness")


def _spaces(kind: str, shape: Shape) -> dict[str, _Space | None]:
    """Each operation of a policy with its magnitudes, in torchvision's order; None where there is none to choose."""
    wide = kind == "trivialaugment"
    shear, rotation, color, bits = (0.99, 135.0, 0.99, 2) if wide else (0.3, 30.0, 0.9, 4)
    across, down = (32.0, 32.0) if wide else (150 / 331 * shape.width, 150 / 331 * shape.height)
    return {
        "Identity": None,
        "ShearX": _Space(0, shear),
        "ShearY": _Space(0, shear),
        "TranslateX": _Space(0, across),
        "TranslateY": _Space(0, down),
        "Rotate": _Space(0, rotation),
        **{name: _Space(0, color) for name in _COLORS},
        "Posterize": _Space(8, bits, signed=False),
        "Solarize": _Space(1, 0, signed=False),
        "AutoContrast": None,
        "Equalize": None,
    }


def draw_operations(config: AugmentConfig, shape: Shape, rng: np.random.Generator) -> list[Operation]:
    """The operations that a picture of this shape gets, in order; oriented pictures are never rotated."""
    if config.auto_augment in ("auto", "none"):
        return []
    spaces = _spaces(config.auto_augment, shape)
    if config.oriented:
        del spaces["Rotate"]
    trivial = config.auto_augment == "trivialaugment"
    drawn = []
    for _ in range(1 if trivial else _RANDAUGMENT_OPERATIONS):
        name = list(spaces)[int(rng.integers(len(spaces)))]
        level = int(rng.integers(MOST_MAGNITUDE + 1)) if trivial else config.auto_augment_magnitude
        drawn.append(Operation(name, _magnitude(name, spaces[name], level, negative=bool(rng.random() < 0.5))))
    return drawn


def _magnitude(name: str, space: _Space | None, level: int, *, negative: bool) -> float:
    if space is None:
        return 0.0
    magnitude = space.at(level)
    if name == "Posterize":
        return round(magnitude)
    return -magnitude if space.signed and negative else magnitude
