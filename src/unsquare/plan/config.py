"""What the user asks of a plan, and what the machine allows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt

from unsquare.errors import ConfigError
from unsquare.settings import PixelCount, Range, Seed, check_settings

StepForm = Literal["mixed", "b2b"]
Boundaries = Literal["tree", "iterative", "exact"]
Sampling = Literal["once", "balanced"]

MOST_STEP_IMAGES = 256
LEAST_STEPS = 16
"""Steps of an epoch below which a small dataset would hardly be trained in a usual number of epochs."""

MOST_BUCKETS = 1 << 16
"""Buckets are numbered in 16 bits."""
MOST_BUDGET_PIXELS, MOST_LAUNCH_PIXELS = 1 << 60, 1 << 40
"""Products in 64 bits: a budget is only compared, a launch is multiplied by the number of micro-batches."""
MOST_PRICE = 1024
"""Prices multiply pixels in 64 bits."""
MOST_RANKS = 1 << 14
"""Each micro-batch takes a loop over ranks."""
MOST_STEP = 1 << 40
"""Images of a step, steps of a run, pixels of a second: more than any machine has, far below the limit of 64 bits."""
MOST_MULTIPLE = 1 << 16
"""Pixels of a canvas whose sides are one multiple fit in 64 bits."""
MOST_CANVASES = 1024
"""Every image is compared with every canvas; more canvases than this would bound hardly anything."""
ENOUGH_IMAGES = 4
"""Images per rank that are enough for a step in `b2b`, however many more the memory would hold."""

EpochNumber = Annotated[int, Range(0, (1 << 63) - 1)]
"""From 0, in 64 bits."""

Counts = npt.NDArray[np.int64]
"""Whole numbers of pixels, images or micro-batches."""
Cost = Callable[[Counts, Counts], Counts]
"""(canvas pixels, images) -> cost, elementwise: `Limits.cost` or `Limits.step_cost`."""


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """How an epoch is batched.

    Example:
        >>> unsquare.PlanConfig(steps="b2b", buckets=16).needs_buckets
        True
        >>> unsquare.PlanConfig().most_images(num_images=1600)
        100
    """

    steps: StepForm = "mixed"
    """What a step is drawn from: all images (mixed) or one bucket (b2b). In `mixed` a step is a uniform sample, as in
    an ordinary shuffle."""
    step_images: Annotated[int, Range(1, MOST_STEP)] | None = None
    """Images of an optimizer step in mixed, at most (default: 256, fewer for a small dataset). This is the effective
    batch size, over all ranks; steps are near-equal. None takes 256, or fewer where that gives an epoch less than 16
    steps."""
    min_images: Annotated[int, Range(1, MOST_STEP)] | None = None
    """Fewest images of a micro-batch in mixed, where memory allows (default: recipe's). Batch norms learn from
    the images of one micro-batch, and from few of like shape they learn badly. Exact padding costs time alone."""
    buckets: Annotated[int, Range(1, MOST_BUCKETS)] | None = None
    """Number of buckets in b2b, at most (default: from the data). More pad less but mix classes less.
    None takes as many as have pictures for four steps on average. On MAMe at 16 MP that pads 1.4 %, and 64 pad 8.5
    %."""
    boundaries: Boundaries = "tree"
    """How b2b forms buckets: tree, iterative or exact. `tree` splits where it saves most; superbuckets by pixels and
    buckets by aspect ratio have boundaries found by local search (`iterative`) or by dynamic programming (`exact`)."""
    canvases: Annotated[int, Range(1, MOST_CANVASES)] | None = None
    """Number of distinct canvases in an epoch, at most (default: no limit). For caches and compiled graphs that hold
    something for each. 64 pad 10 % on MAMe at 16 MP, 256 about 5 %."""
    multiple: Annotated[int, Range(1, MOST_MULTIPLE)] = 32
    """Sides of canvases are multiples of this where `canvases` bounds their number. Most backbones reduce by 32."""
    min_scale: Annotated[float, Range(above=0, most=1)] | None = None
    """Smallest random scale of a picture's sides in training (default: recipe's). 1 keeps their size. The plan draws
    the scale of each picture from here to 1, anew in each epoch (multi-scale training); no side falls below 64
    pixels."""
    sampling: Sampling = "once"
    """How often an epoch has each image: once, or so that classes are balanced."""
    seed: Seed = 0
    """Random seed. Decides, with the epoch, every draw."""

    def __post_init__(self) -> None:
        check_settings(self)
        if (self.min_images or 1) > 1 and self.needs_buckets:
            raise ConfigError(
                f"min_images works in mixed steps on free canvases, but is {self.min_images} with steps {self.steps} "
                f"and canvases {self.canvases}; leave it out."
            )

    @property
    def least_images(self) -> int:
        """The fewest images of a micro-batch where memory allows more."""
        return self.min_images or 1

    @property
    def least_scale(self) -> float:
        """The smallest scale that is drawn; 1 where sizes are kept."""
        return 1.0 if self.min_scale is None else self.min_scale

    @property
    def needs_buckets(self) -> bool:
        """Whether plans need `form_buckets`."""
        return self.steps == "b2b" or self.canvases is not None

    def most_images(self, num_images: int) -> int:
        """The most images of a step in `mixed`, in an epoch of `num_images`."""
        return self.step_images or min(MOST_STEP_IMAGES, -(-num_images // LEAST_STEPS))


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """A way to run an image that does not fit the memory as it is, at a price in time.

    Example:
        >>> tile = unsquare.Fallback(name="tile", most_pixels=64_000_000, price=1.5)
        >>> unsquare.Limits(budget_pixels=16_000_000, fallbacks=(tile,)).largest_pixels
        64000000
    """

    name: str
    most_pixels: Annotated[int, Range(1, MOST_BUDGET_PIXELS)]
    """The largest image that fits this way, alone."""
    price: Annotated[float, Range(above=0, most=MOST_PRICE)]
    """Time of a pixel this way over its usual time."""

    def __post_init__(self) -> None:
        check_settings(self)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the machine allows: bounds and prices as pixels, so that a plan knows no bytes and no seconds.

    Example:
        >>> limits = unsquare.Limits(budget_pixels=16_000_000, launch_pixels=500_000)
        >>> limits.largest_pixels
        16000000
    """

    budget_pixels: Annotated[PixelCount, Range(1, MOST_BUDGET_PIXELS)] = 64_000_000
    """The most computed pixels of one micro-batch, a hard bound; a memory model gives it from bytes."""
    launch_pixels: Annotated[PixelCount, Range(0, MOST_LAUNCH_PIXELS)] = 1_000_000
    """What one more micro-batch costs, as computed pixels; a time model measures it.

    The default is that of an accelerator: some 10 ms of launches at 100 MP per second. On MAMe at 16 MP it pads
    2.4 %; half of it 1.1 % with a third more micro-batches, twice 4.1 % with a quarter fewer.
    """
    pixels_per_s: Annotated[PixelCount, Range(1, MOST_STEP)] = 100_000_000
    """Pixels that a rank computes in a second: makes seconds of costs in the ledger, and changes no plan."""
    world_size: Annotated[int, Range(1, MOST_RANKS)] = 1
    """Number of ranks (processes) that share each step."""
    fallbacks: tuple[Fallback, ...] = ()
    """Ways for images above the budget, which then go alone, by what they hold; none refuses such images."""

    def __post_init__(self) -> None:
        check_settings(self)
        held = [self.budget_pixels, *(each.most_pixels for each in self.fallbacks)]
        if held != sorted(set(held)):
            raise ConfigError(f"Each fallback must hold more pixels than the one before it, but they hold {held}.")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Limits:
        """The limits of a `plan.json`."""
        return cls(**{**values, "fallbacks": tuple(Fallback(**each) for each in values["fallbacks"])})

    @property
    def largest_pixels(self) -> int:
        """The most pixels of an image that fits in any way, alone."""
        return self.fallbacks[-1].most_pixels if self.fallbacks else self.budget_pixels

    def fallback_of(self, pixels: Counts) -> Counts:
        """The fallback that each micro-batch needs, elementwise: 0 for none, i for the i-th."""
        held = np.array([self.budget_pixels, *(each.most_pixels for each in self.fallbacks)])
        return np.minimum(np.searchsorted(held, pixels), len(self.fallbacks))

    def priced(self, pixels: Counts) -> Counts:
        """Pixels of micro-batches at their price: as many as take the same time in the usual way, elementwise."""
        if not self.fallbacks:
            return pixels
        prices = np.array([1.0, *(each.price for each in self.fallbacks)])[self.fallback_of(pixels)]
        return np.where(prices == 1, pixels, (pixels * prices).astype(np.int64))

    def fill(self, pixels: Counts) -> npt.NDArray[np.float64]:
        """Pixels of micro-batches over the most that their strategy holds, elementwise."""
        held = np.array([self.budget_pixels, *(each.most_pixels for each in self.fallbacks)])
        return pixels / held[self.fallback_of(pixels)]

    def cost(self, canvas_pixels: Counts, count: Counts) -> Counts:
        """The cost as pixels of `count` images on canvases of `canvas_pixels`, elementwise.

        Computed pixels plus one launch for each micro-batch that the budget requires: predicted time, in units of the
        time of one pixel. It decides between more padding and more launches.
        """
        return self.priced(canvas_pixels) * count + self.launch_pixels * -(-count // self.capacity(canvas_pixels))

    def capacity(self, canvas_pixels: Counts) -> Counts:
        """The most images of a micro-batch on canvases of `canvas_pixels`, elementwise, at least 1."""
        return np.maximum(self.budget_pixels // canvas_pixels, 1)

    def enough(self, canvas_pixels: Counts) -> Counts:
        """Enough images for a step on these canvases: as many as every rank holds, or `ENOUGH_IMAGES` per rank."""
        return self.world_size * np.minimum(self.capacity(canvas_pixels), ENOUGH_IMAGES)

    def step_cost(self, canvas_pixels: Counts, count: Counts) -> Counts:
        """As `cost`, but every step launches on every rank."""
        launches = self.world_size * -(-count // (self.world_size * self.capacity(canvas_pixels)))
        return self.priced(canvas_pixels) * count + self.launch_pixels * launches


def below(limits: Limits, ceiling: int) -> Limits:
    """The limits where several images share at most `ceiling` pixels, which is below the budget."""
    usual = Fallback(name="alone", most_pixels=limits.budget_pixels, price=1.0)
    return replace(limits, budget_pixels=ceiling, fallbacks=(usual, *limits.fallbacks))
