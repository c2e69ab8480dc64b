"""Verifying measures what it says, and can fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unsquare.errors import ConfigError, ExactError
from unsquare.exact import make_exact
from unsquare.exact.ops import strips
from unsquare.exact.verify import reference
from unsquare.exact.verify.verification import ExactnessErrors, Verification, named_model, verify_exact
from unsquare.torchvision_guard import import_timm

timm = import_timm()

SIZES = [(64, 81), (96, 70)]


class Small(nn.Module):
    """A network of one's own, with functional calls and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8, momentum=None)
        self.two, self.drop, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = F.max_pool2d(self.norm(self.one(x)), 3, 2)
        return self.head(self.drop(F.relu(self.two(x)).mean((2, 3))))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_networks_by_name(name: str, dtype: str) -> None:
    """Exact errors are rounding, naive padding's are not, in evaluation and in training."""
    found = verify_exact(name, sizes=SIZES, dtype=dtype)
    assert found.status == "exact"
    for mode in (found.evaluation, found.training):
        assert mode is not None
        assert max(mode.outputs, mode.gradients) < {"float64": 1e-12, "float32": 1e-5}[dtype]
        assert mode.naive_outputs > 1e-4
        assert mode.naive_gradients > 1e-3


def test_a_network_of_ones_own_is_measured_and_left_alone() -> None:
    """An own module is verified with its weights, dropout off, and is the same afterwards."""
    torch.manual_seed(0)
    model = Small()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = verify_exact(model, sizes=SIZES)
    assert found.exact
    assert found.model == "Small"
    assert model.training
    assert model.drop.p == 0.5
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_feature_maps_are_compared_within_their_regions() -> None:
    """A network that returns a map is compared where each image's own map lies."""
    assert verify_exact(nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3)), sizes=SIZES).exact


def test_a_leak_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the zeroing outside the regions the verdict is inexact."""
    monkeypatch.setattr(strips, "fill", lambda x, regions, value: None)
    found = verify_exact(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)), sizes=SIZES)
    assert found.status == "inexact"
    assert found.evaluation is not None
    assert found.evaluation.outputs > 1e-3


def test_a_leak_of_gradients_alone_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the way back is wrong, outputs agree and the verdict is inexact."""
    monkeypatch.setattr(strips._Clean, "backward", staticmethod(lambda ctx, grad: (grad, None)))
    monkeypatch.setattr(strips._CleanCopy, "backward", staticmethod(lambda ctx, grad: (grad, None)))
    found = verify_exact("test_resnet", sizes=SIZES, training=False)
    assert found.status == "inexact"
    assert found.evaluation is not None
    assert found.evaluation.outputs < 1e-12
    assert found.evaluation.gradients > 1e-6


@pytest.mark.parametrize("errors", [(math.nan, 0.0), (0.0, math.nan)])
def test_what_is_not_a_number_is_not_exact(errors: tuple[float, float]) -> None:
    """Padding that reaches an output or a gradient shows as not-a-number, which no maximum may pass over."""
    found = Verification("net", ((8, 8),), "float64", 1e-10, ExactnessErrors(*errors, 0.0, 0.0, 0.0, 0.0), None)
    assert found.status == "inexact"
    assert None in found.to_dict()["evaluation"].values()
    assert math.isnan(reference.largest_error([0.0, math.nan, 1.0]))


class Chaotic(nn.Module):
    """Rounds of the logistic map, which double an error each: rounding becomes large in any computation."""

    def __init__(self, rounds: int = 30) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rounds = rounds
        self.body, self.more = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """One vector per image."""
        x = self.body(x).sigmoid()
        for _ in range(self.rounds):
            x = 3.99 * x * (1 - x)
        return self.more(x).mean((2, 3))


def test_rounding_is_told_from_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error no larger than the reference's own rounding is no leak; the same network with a leak is inexact."""
    found = verify_exact(Chaotic(), sizes=SIZES)
    assert found.evaluation is not None
    assert found.evaluation.gradients > found.tolerance
    assert found.exact
    monkeypatch.setattr(strips, "fill", lambda x, regions, value: None)
    assert verify_exact(Chaotic(), sizes=SIZES).status == "inexact"


def test_rounding_excuses_no_large_error() -> None:
    """A network that rounding alone moves as far as a leak would is called ill-conditioned, and is not exact."""
    found = verify_exact(Chaotic(rounds=45), sizes=SIZES, training=False)
    assert found.status == found.to_dict()["status"] == "ill-conditioned"
    assert not found.exact


@pytest.mark.parametrize(
    ("error", "own", "dtype", "status"),
    [
        (5e-7, 6e-7, "float64", "exact"),  # ConvMixer in training
        (2e-6, 6e-7, "float64", "ill-conditioned"),
        (2e-6, 1e-7, "float64", "inexact"),
        (5e-5, 1e-5, "float32", "exact"),
        (2e-3, 1e-3, "float32", "ill-conditioned"),
        (1e-12, 1.0, "float64", "exact"),
        (1e-3, math.nan, "float64", "inexact"),
    ],
)
def test_the_status_follows_error_and_rounding(error: float, own: float, dtype: str, status: str) -> None:
    """Errors above ten times the rounding are inexact; those below are excused up to a limit."""
    tolerance = {"float64": 1e-10, "float32": 1e-5}[dtype]
    errors = ExactnessErrors(0.0, error, 1.0, 1.0, 0.0, own)
    assert Verification("net", ((8, 8),), dtype, tolerance, errors, None).status == status
    worse = ExactnessErrors(0.5, error, 1.0, 1.0, 0.0, own)
    assert Verification("net", ((8, 8),), dtype, tolerance, errors, worse).status == "inexact"


class Noisy(Small):
    """Draws random numbers of its own in training."""

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = super().forward(x)
        return x * (1 + 0.5 * torch.randn_like(x)) if self.training else x


def test_a_network_that_draws_random_numbers_is_not_compared() -> None:
    """Noise would excuse any error, so a network that gives the same pixels two outputs is named, with the mode."""
    with pytest.raises(ExactError, match=r"in training two runs of the stock Noisy differ by .*draws random numbers"):
        verify_exact(Noisy(), sizes=SIZES)
    assert verify_exact(Noisy(), sizes=SIZES, training=False).exact


@pytest.mark.parametrize("normed", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_state_that_moves_with_each_forward_starts_anew(normed: Callable[[nn.Module], nn.Module]) -> None:
    """Spectral norm is exact where its state begins anew for each image, and is said to move with each call."""
    model = Small()
    model.two = normed(model.two)
    found = verify_exact(model, sizes=SIZES)
    assert found.training is not None
    assert max(found.training.outputs, found.training.gradients) < 1e-12
    assert found.status == "stateful"
    assert not found.exact
    assert all(name.startswith("two.") for name in found.moving)
    assert verify_exact(model, sizes=SIZES, training=False).exact


def test_default_sizes_could_show_what_depends_on_shape() -> None:
    """Left open, the images are portrait, landscape and square, small ones and one as high as the canvas."""
    ((high, narrow), (low, wide), (side, other)) = verify_exact("test_resnet", training=False).sizes
    assert high > narrow
    assert low < wide
    assert side == other
    assert side <= min(narrow, low)


class Returning(nn.Module):
    """Returns what is made of its feature map."""

    def __init__(self, returned: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.one, self.two, self.returned = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 3, padding=1), returned

    def forward(self, x: Tensor) -> Any:
        """Anything."""
        return self.returned(self.two(self.one(x).relu()))


@pytest.mark.parametrize(
    "returned",
    [
        lambda y: y.permute(0, 2, 3, 1),
        lambda y: y.unsqueeze(1),
        lambda y: {"map": y, "vector": y.mean((2, 3))},
        lambda y: (y.mean((2, 3)), y.permute(0, 2, 3, 1), y),
    ],
    ids=["channels last", "five axes", "a map beside a vector", "maps of unlike axes"],
)
def test_maps_are_compared_along_their_own_axes(returned: Callable[[Tensor], Any]) -> None:
    """Wherever a tensor keeps height and width, each image's own part of it is compared."""
    assert verify_exact(Returning(returned), sizes=SIZES).exact


class Checkpointed(Small):
    """Runs a block with a batch norm again during backward."""

    def __init__(self, use_reentrant: bool) -> None:
        super().__init__()
        self.use_reentrant, self.recomputed = use_reentrant, nn.Sequential(self.two, nn.BatchNorm2d(8), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        x = checkpoint(self.recomputed, self.norm(self.one(x)).relu(), use_reentrant=self.use_reentrant)
        return self.head(x.mean((2, 3)))


# A reentrant checkpoint says this while make_exact follows the network, which needs no gradients.
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_networks_that_checkpoint_themselves_are_measured(use_reentrant: bool) -> None:
    """The reference runs checkpointed blocks once, the exact network again during backward, and both agree."""
    assert verify_exact(Checkpointed(use_reentrant), sizes=SIZES).exact
    model = timm.create_model("test_resnet", num_classes=4)
    model.set_grad_checkpointing(True)
    assert verify_exact(model, sizes=SIZES).exact


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_a_checkpointed_block_without_gradients_has_none_in_the_reference() -> None:
    """A reentrant block that is given the pixels themselves learns nothing, alone as in the batch."""
    model = Checkpointed(use_reentrant=True)
    model.recomputed = nn.Sequential(model.one, model.norm)
    model.one, model.norm, model.two = nn.Identity(), nn.Identity(), nn.Identity()
    found = verify_exact(model, sizes=SIZES)
    assert found.exact, found


def test_a_leak_in_a_checkpointed_network_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpointing hides no leak."""
    monkeypatch.setattr(strips, "fill", lambda x, regions, value: None)
    assert verify_exact(Checkpointed(use_reentrant=False), sizes=SIZES).status == "inexact"


def test_checkpointing_is_off_for_the_reference_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lone images run a checkpointed block once, and after them it runs twice again, forward and backward."""
    model, runs = Checkpointed(use_reentrant=False), []
    monkeypatch.setattr(nn.ReLU, "forward", lambda self, x: runs.append(1) or F.relu(x))
    sum(output.sum() for output in reference.reference_outputs(model, [torch.randn(3, 16, 16)] * 3)).backward()
    assert len(runs) == 3
    model(torch.randn(2, 3, 16, 16)).sum().backward()
    assert len(runs) == 5


class Chancy(nn.Module):
    """Dropout as a function, a batch norm without running statistics, a frozen weight, and a power called p."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8, track_running_stats=False)
        self.two, self.p = nn.Conv2d(8, 8, 3, padding=1).requires_grad_(False), 3.0

    def forward(self, x: Tensor) -> Tensor:
        """A vector by generalized mean."""
        x = F.dropout(self.two(F.relu(self.norm(self.one(x)))), 0.5, self.training)
        return x.clamp(min=1e-6).pow(self.p).mean((2, 3)).pow(1 / self.p)


def test_only_chance_is_switched_off() -> None:
    """Dropout called as a function is off; settings that only look like one stay; frozen weights are measured."""
    found = verify_exact(Chancy(), sizes=SIZES)
    assert found.exact, found
    assert found.training is not None
    assert found.training.naive_gradients > 1e-3


def test_a_dropout_that_cannot_be_exact_is_refused() -> None:
    """What make_exact refuses is refused here as well, though it would be off for the comparison."""
    found = verify_exact(timm.create_model("resnet10t", drop_block_rate=0.1), sizes=SIZES)
    assert "DropBlock2d" in str(found.refused)


def test_what_cannot_be_exact_is_told() -> None:
    """A network that is refused comes back with the reason, and is not exact."""
    found = verify_exact("mobilevit_xxs", sizes=SIZES)
    assert found.status == "refused"
    assert "MobileVitBlock" in str(found.refused)
    assert not found.exact


def test_sizes_follow_networks_for_multiples() -> None:
    """Where the stock network takes multiples alone, the sizes are rounded to them, and said."""
    found = verify_exact("dla46x_c", sizes=SIZES, training=False)
    assert found.exact
    assert found.sizes == ((64, 96), (96, 64))
    assert found.training is None


def test_mistakes_are_named() -> None:
    """Unknown names, single images, other arithmetic, exact models and sizes that do not fit are named."""
    with pytest.raises(ConfigError, match=r"no model 'resnet5O'; did you mean .*resnet50"):
        verify_exact("resnet5O")
    with pytest.raises(ConfigError, match=r"no model 'resnet5O'; did you mean .*resnet50"):
        named_model("resnet5O", pretrained=True)
    with pytest.raises(ConfigError, match="two or more images"):
        verify_exact("test_resnet", sizes=[(64, 64)])
    with pytest.raises(ConfigError, match="dtype must be"):
        verify_exact("test_resnet", dtype="int8")
    with pytest.raises(ConfigError, match="takes a stock model"):
        verify_exact(make_exact(Small()))
    with pytest.raises(ExactError, match="fails on a single image of these sizes"):
        verify_exact(nn.Sequential(nn.Conv2d(3, 4, 9)), sizes=[(5, 5), (9, 9)])
