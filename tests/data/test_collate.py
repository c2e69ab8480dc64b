"""Padding pictures of several shapes into one tensor."""

import pytest
import torch

from unsquare import PadCollate
from unsquare.errors import ConfigError, PlanError

ITEMS = [(torch.ones(3, 20, 30), 4), (torch.full((3, 25, 10), 2.0), 5)]


def test_pictures_lie_at_the_top_left_of_the_tight_canvas():
    """Zeros elsewhere, the pictures' own type, channels last, and labels as PyTorch collates them."""
    pixels, sizes, labels = PadCollate()(ITEMS)
    assert pixels.shape == (2, 3, 25, 30)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert sizes.tolist() == [[20, 30], [25, 10]]
    assert labels.tolist() == [4, 5]
    assert (pixels[0, :, :20, :30] == 1).all()
    assert (pixels[1, :, :25, :10] == 2).all()
    assert pixels.sum() == 3 * (600 + 500)


@pytest.mark.parametrize(
    ("options", "canvas"),
    [
        ({"multiple": 32}, (32, 32)),
        ({"canvases": [(64, 64), (40, 40), (100, 24)]}, (40, 40)),
        ({"multiple": 16, "canvases": [(30, 30), (48, 32)]}, (48, 32)),
    ],
)
def test_canvases_can_be_few(options, canvas):
    """Sides are rounded up to a multiple; of allowed canvases the smallest that holds all is taken."""
    pixels, sizes, _ = PadCollate(**options)(ITEMS)
    assert pixels.shape[2:] == canvas
    assert sizes.tolist() == [[20, 30], [25, 10]]


def test_bytes_stay_bytes_and_labels_may_be_anything():
    """Decoded bytes are not made four times as large, and labels may be dictionaries."""
    pixels, _, labels = PadCollate()([(torch.ones(1, 4, 5, dtype=torch.uint8), {"a": 1.0})])
    assert pixels.dtype == torch.uint8
    assert labels["a"].tolist() == [1]


def test_what_cannot_be_is_refused():
    """A micro-batch that no allowed canvas holds, and a multiple below 1."""
    with pytest.raises(PlanError, match=r"25 x 30 fits none of the allowed canvases, 60 x 20, 20 x 90; allow a larger"):
        PadCollate(canvases=[(20, 90), (60, 20)])(ITEMS)
    with pytest.raises(ConfigError, match="multiple must be at least 1, but is 0"):
        PadCollate(multiple=0)
