"""A function of the user's own that changes pictures in training.

It is given pixels and a generator, never torch's or NumPy's global random state, so that what it draws depends on the
picture alone. What it returns is checked at each call: the plan knows all shapes before the first pixel is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from unsquare.data.augment import PictureTransform
from unsquare.data.pixels import Pixels
from unsquare.errors import ConfigError
from unsquare.named import name_of, named_object, words_of_failure
from unsquare.settings import received


@dataclass(frozen=True)
class OwnTransform:
    """A function of the user's own, with the name that errors give it."""

    name: str
    function: PictureTransform

    def apply(self, image: Pixels, key: str, rng: np.random.Generator) -> Pixels:
        """A picture as the function changes it; it may write into what it is given.

        Args:
            image: (H, W, 3) uint8.
            key: the picture's name.
            rng: the picture's own generator.

        Raises:
            ConfigError: the function fails, or returns something else than a picture of the same shape.
        """
        given = image if image.flags.writeable else image.copy()
        try:
            out = self.function(given, rng)
        except MemoryError:  # the loader tries again while nothing else is computed
            raise
        except Exception as error:  # of any kind, since it is the user's code that runs
            raise ConfigError(
                f"A transform must work for every picture, but {self.name} fails for '{key}': "
                f"{words_of_failure(error)}; correct it, or leave it out."
            ) from error
        if not isinstance(out, np.ndarray) or out.shape != image.shape or out.dtype != np.uint8:
            resized = isinstance(out, np.ndarray) and out.shape[:2] != image.shape[:2]
            remedy = "change sizes by --max-pixels or --crop-fraction, so that they can be planned"
            raise ConfigError(
                f"A transform must return pixels as it was given them, here {_words(image)}, but {self.name} returned "
                f"{_words(out)} for '{key}'; {remedy if resized else 'have it convert what it returns'}."
            )
        return out


def own_transform(transform: PictureTransform | str | None) -> OwnTransform | None:
    """The function that a setting has or names; None where there is none.

    Raises:
        ConfigError: there is no such function.
    """
    if transform is None:
        return None
    if not isinstance(transform, str):
        return OwnTransform(name_of(transform), transform)
    try:
        found = named_object(transform)
    except Exception as error:  # of any kind, since it is the user's code that runs
        raise _refusal(transform, f"cannot be imported ({words_of_failure(error)})") from error
    if not callable(found) or isinstance(found, type):
        raise _refusal(transform, f"is {received(found)}")
    return OwnTransform(transform, found)


def _refusal(name: str, wrong: str) -> ConfigError:
    return ConfigError(
        "A transform is a function that can be imported by its name, as package.module:function, but "
        f"{name} {wrong}; correct the name, or call unsquare.train again with the function itself."
    )


def _words(value: Any) -> str:
    """What a function was given or returned."""
    return f"{value.shape} of {value.dtype}" if isinstance(value, np.ndarray) else received(value)
