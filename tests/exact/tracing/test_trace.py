"""What cannot be made exact is refused, by the module's path and with the reason; nothing runs inexactly."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unsquare.errors import ExactError
from unsquare.exact import make_exact, undo_exact
from unsquare.torchvision_guard import import_timm

timm = import_timm()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet10t", {"drop_block_rate": 0.1}, r"layer3\.0\.drop_block \(DropBlock2d\)"),
        ("test_vit", {"dynamic_img_size": True}, r"VisionTransformer"),
        ("bat_resnext26ts", {}, r"BilinearAttnTransform\) .* not a square grid"),
        ("coatnet_nano_rw_224", {}, r"CoAtNet|MaxxVit"),
    ],
)
def test_networks_are_refused_by_name(name: str, options: dict[str, object], message: str) -> None:
    """A network with a part that looks sideways in an unknown way is refused at that part."""
    with torch.device("meta"):
        model = timm.create_model(name, **options)
    with pytest.raises(ExactError, match=message):
        make_exact(model)


class _Step(nn.Module):
    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda x: x.mean(3), "reduces over height or width alone"),
        (lambda x: x.mean((0, 2, 3)), "reduces over height or width alone, or over other"),
        (lambda x: x.mean(0, keepdim=True), "uses mean on a feature map"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], "indices, which count positions"),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="circular"), "pads in circular mode"),
        (lambda x: F.interpolate(x, scale_factor=2, mode="bicubic"), "interpolates in bicubic mode"),
        (lambda x: F.interpolate(x, scale_factor=1.5), "not a whole number"),
        (lambda x: F.interpolate(x, size=(64, 64)), "the size of 0 kinds of maps"),
        (lambda x: F.conv_transpose2d(x, x.new_zeros(4, 4, 3, 3)), "uses convolution on a feature map"),
        (lambda x: F.adaptive_avg_pool2d(x, (2, 3)), "not a square grid"),
        (lambda x: x.flip(3), "uses flip on a feature map"),
        (lambda x: torch.roll(x, 1, 2), "uses roll on a feature map"),
        (lambda x: x.flatten(2), "reshapes the map"),
        (lambda x: x + torch.zeros(x.shape[2:], device=x.device), "values that depend on the position"),
        (lambda x: x / x, "divides by a feature map"),
        (lambda x: F.layer_norm(x, x.shape[2:]), "number taken from the canvas"),
        (lambda x: x[:, :, : x.shape[2] // 2], "crops at a fixed position of the canvas"),
        (lambda x: x[:1], "selects some of the images"),
        (lambda x: torch.cat([x, x], dim=2), "concatenates maps along axis 2"),
        (lambda x: x.transpose(0, 1), "uses transpose"),
        (lambda x: x.amax(3, keepdim=True), "reduces over height or width alone"),
        (lambda x: x if bool(x.sum() > 0) else -x, "reduces over height or width alone"),
        (
            lambda x: (lambda y: F.avg_pool2d(y, 3, 1, 1) * y.rsqrt())(x.square() + 1e-3),
            "takes a root of a feature map",
        ),
        (lambda x: (lambda y: y.sqrt() * F.max_pool2d(y, 3, 1, 1))(x.square() + 1e-3), "takes a root of a feature map"),
        (lambda x: x.pow(-1), "to the power -1, which may be infinite .*; add a positive constant"),
        (lambda x: x.relu().pow(0.5), "to the power 0.5"),
        (lambda x: x.pow(1.5), "to the power 1.5"),
        (lambda x: x.relu().pow(x.new_ones(1)), "to a tensor of powers"),
        (
            lambda x: x.clamp(min=1e-3).pow(torch.ones(x.shape[2:], device=x.device)),
            "values that depend on the position",
        ),
        (lambda x: x.square().sum(1, keepdim=True).rsqrt(), "to the power -0.5"),
        (lambda x: (x.mean(1, keepdim=True) + 1e-6).rsqrt(), "to the power -0.5"),
        (lambda x: (x.square() + 1e-6 - 1.0).rsqrt(), "to the power -0.5"),
        (lambda x: (x.square() * 2 + 1e-6).sqrt(), "to the power 0.5"),
        (lambda x: (x.square() + 1e-30).rsqrt(), "to the power -0.5"),
        (lambda x: F.avg_pool2d(x.square() + 1e-6, 3).sqrt(), "to the power 0.5"),
    ],
)
def test_functional_steps_are_seen(step: object, message: str) -> None:
    """A step without a module of its own is refused at the module that takes it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(_Step(step)))
    with pytest.raises(ExactError, match=rf"1\.0 \(_Step\) of Sequential .*{message}"):
        make_exact(model)


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), "pads in circular mode"),
        (nn.MaxPool2d(2, return_indices=True), "indices, which count positions"),
        (nn.AdaptiveAvgPool2d((7, 5)), "not a square grid"),
        (nn.ConvTranspose2d(3, 4, 3), r"0 \(ConvTranspose2d\)"),
        (nn.InstanceNorm2d(3, track_running_stats=True), "running statistics mix images"),
        (nn.Linear(576, 4), "mixes positions along the width"),
        (nn.Upsample(scale_factor=2, mode="bicubic"), r"0 \(Upsample\)"),
    ],
)
def test_settings_of_layers_are_judged(layer: nn.Module, message: str) -> None:
    """A layer whose settings tie it to the canvas is refused, though its kind is known."""
    with pytest.raises(ExactError, match=message):
        make_exact(nn.Sequential(layer))


class _OfCanvas(nn.Module):
    """A network one of whose steps takes a number from the size of its map."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 4, 2, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.function(self.first(x)))  # type: ignore[operator]


@pytest.mark.parametrize(
    "function",
    [
        lambda y: y * (y.sum((2, 3), keepdim=True) / (y.shape[2] * y.shape[3])),
        lambda y: y * (y.sum((2, 3), keepdim=True) / torch.tensor(float(y.shape[2] * y.shape[3]))),
        lambda y: y * (1 / y.shape[3]),
        lambda y: F.pad(y, (0, y.shape[3] % 2, 0, y.shape[2] % 2)),
        lambda y: F.pad(y, (0, 0, 0, 1)) if y.shape[2] % 2 else y,
        lambda y: y * F.adaptive_avg_pool2d(y, (y.shape[2] // 2,) * 2).mean((2, 3), keepdim=True),
        lambda y: y * F.avg_pool2d(y, y.shape[2:]),
        lambda y: y[:, :, : y.shape[2] // 2 * 2],
    ],
)
def test_numbers_taken_from_the_canvas_are_seen(function: object) -> None:
    """A step that counts or cuts by the canvas is not what an unpadded image gets, and is refused."""
    with pytest.raises(ExactError, match="the canvas"):
        make_exact(_OfCanvas(function))


def test_sizes_of_maps_may_shape_what_treats_all_alike() -> None:
    """Views, and enlarging to another map's size, take numbers from the canvas too, and are exact."""
    make_exact(_OfCanvas(lambda y: F.interpolate(F.avg_pool2d(y, 2, ceil_mode=True), size=y.shape[2:])))
    make_exact(_OfCanvas(lambda y: y.reshape(len(y), 2, 2, *y.shape[2:]).transpose(1, 2).reshape(y.shape)))


class _Misspelt(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)


def test_a_mistake_of_the_stock_model_is_told_as_such() -> None:
    """An error in the model's own code is given with its kind and line, not taken for a kind of layer."""
    with pytest.raises(
        ExactError, match=r"_Misspelt fails on .* AttributeError: .*'first' \(test_trace.py, line \d+\)"
    ):
        make_exact(_Misspelt())


def test_a_network_for_images_of_one_size_is_told_as_such() -> None:
    """The error of its own assertion is given, with what to take instead and no line of this package."""
    with torch.device("meta"), pytest.raises(ExactError, match="use a network that takes every size") as error:
        make_exact(timm.create_model("vit_tiny_patch16_224"))
    assert "following.py" not in str(error.value)


def test_names_of_ones_own_are_left_alone() -> None:
    """A network may call its attributes and methods as it likes."""

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3)
            self.passes, self.calls, self.methods, self.renew, self.site = 2, 0, ["sum"], True, "here"

        def _batch(self, x: Tensor) -> Tensor:
            return self.stem(x) * self.passes

        def run_within(self, x: Tensor) -> Tensor:
            self.calls += 1
            return getattr(F.max_pool2d(self._batch(x), 2), self.methods[0])((2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.run_within(x)

    stock = Named()
    image = torch.randn(1, 3, 20, 30)
    exact = make_exact(stock)
    torch.testing.assert_close(exact(image), stock(image))
    assert vars(undo_exact(exact)).keys() == vars(stock).keys()


def test_a_subclass_is_judged_by_what_it_does() -> None:
    """A subclass of a known layer is not taken for it."""

    class Odd(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.flip(2))

    with pytest.raises(ExactError, match=r"0 \(Odd\).*flip"):
        make_exact(nn.Sequential(Odd(3, 4, 3)))


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto"])
def test_dropping_paths_and_features_is_known(name: str) -> None:
    """Stochastic depth and dropout draw per image or per value, and pass; shapes of training are followed too."""
    with torch.device("meta"):
        make_exact(timm.create_model(name, drop_rate=0.1, drop_path_rate=0.1))


@pytest.mark.parametrize("pool", [lambda v: v.sum(), lambda v: v.flatten(), lambda v: v.t()])
def test_what_has_not_one_row_for_each_image_is_refused(pool: Callable[[Tensor], Tensor]) -> None:
    """No image's own part can be told in a tensor of another layout."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return pool(self.conv(x).mean((2, 3)))

    with pytest.raises(ExactError, match="without one row for each image"):
        make_exact(Net())


@pytest.mark.parametrize("name", ["num_features", "num_channels"])
def test_a_network_may_name_the_channels_that_it_gives(name: str) -> None:
    """Images have as many channels as the first layer takes, whatever the network calls its own number."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    setattr(net, name, 512)
    make_exact(net)


def test_a_head_may_stand_before_the_stem() -> None:
    """The first layer in order is not the one that takes images where it takes more channels than they have."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.stem = nn.Conv2d(64, 5, 1), nn.Conv2d(3, 64, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x)).mean((2, 3))

    make_exact(Net())


@pytest.mark.parametrize("kept", [threading.Lock(), torch.ones(2, requires_grad=True) * 2])
def test_what_cannot_be_copied_is_told_in_one_sentence(kept: object) -> None:
    """A lock, or a tensor of the last call with its graph, has no copy."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    net.kept = kept  # type: ignore[assignment]
    with pytest.raises(ExactError, match="Sequential cannot be copied"):
        make_exact(net)
