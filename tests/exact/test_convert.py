"""A converted model gives every image of a padded batch what the stock model gives it alone."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from unsquare.errors import ExactError
from unsquare.exact import make_exact, output_regions
from unsquare.torchvision_guard import import_timm

timm = import_timm()

SIZES = [(33, 47), (64, 96), (50, 61)]


def _compare(references: SimpleNamespace, stock: nn.Module, dtype: torch.dtype) -> tuple[float, float]:
    """Error of the outputs and worst error of a parameter's gradient, padded batch against unpadded images."""
    images = references.unpadded_images(SIZES, dtype)
    weights = torch.linspace(-1, 1, len(SIZES) * 7, dtype=dtype).view(len(SIZES), 7)
    exact = make_exact(stock)
    expected = references.run_alone(stock, images, weights)
    pixels, sizes = references.padded(images, extra=(3, 5))
    output = exact(pixels, sizes)
    (output * weights).sum().backward()
    return references.error(output, expected), max(references.gradient_errors(exact, stock).values())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_atto", "convnextv2_atto"])
def test_double_precision_agrees_to_ten_digits(references: SimpleNamespace, name: str) -> None:
    """Outputs and gradients of unpadded images and of a batch padded with NaN agree to 1e-10 in float64."""
    outputs, gradients = _compare(references, references.stock_model(name), torch.float64)
    assert outputs < 1e-10
    assert gradients < 1e-10


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        # A ReLU whose input lies within rounding of zero opens or closes by chance, and the gradient jumps: some
        # gradients of stock ResNet-50 in float32 are 2 % away from its own float64. A smooth activation does not.
        ("resnet50", {"act_layer": "silu"}),
        ("convnext_atto", {}),
    ],
)
def test_single_precision_agrees_to_five_digits(
    references: SimpleNamespace, name: str, options: dict[str, str]
) -> None:
    """Outputs and gradients of unpadded images and of a batch padded with NaN agree to 1e-5 in float32."""
    stock = references.stock_model(name, torch.float32, **options)
    outputs, gradients = _compare(references, stock, torch.float32)
    assert outputs < 1e-5
    assert gradients < 1e-5


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "convnext_atto"])
def test_networks_as_timm_makes_them_agree_to_five_digits(references: SimpleNamespace, name: str) -> None:
    """Outputs and gradients agree to 1e-5 in float32 for the stock networks, ReLU included, with fresh weights."""
    torch.manual_seed(0)
    stock = timm.create_model(name, num_classes=7).eval()
    outputs, gradients = _compare(references, stock, torch.float32)
    assert outputs < 1e-5
    assert gradients < 1e-5


def test_resnet50_outputs_agree_in_single_precision(references: SimpleNamespace) -> None:
    """The outputs of the stock ReLU ResNet-50 agree to 1e-5 in float32, whatever its kinks do to gradients."""
    outputs, _ = _compare(references, references.stock_model("resnet50", torch.float32), torch.float32)
    assert outputs < 1e-5


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto"])
def test_training_convnext_agrees(references: SimpleNamespace, name: str) -> None:
    """In training a ConvNeXt, whose norms do not cross images, agrees with unpadded images to 1e-5 in float32."""
    outputs, gradients = _compare(references, references.stock_model(name, torch.float32).train(), torch.float32)
    assert outputs < 1e-5
    assert gradients < 1e-5


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet10t", {}),
        ("resnet26d", {"output_stride": 16, "avg_down": False}),
        ("seresnext26d_32x4d", {}),
        ("ecaresnet26t", {}),
        ("resnet10t", {"block_args": {"attn_layer": "ese"}}),
        ("resnet10t", {"block_args": {"attn_layer": "ceca"}}),
        ("resnet10t", {"block_args": {"attn_layer": "cbam"}}),
        ("resnet10t", {"output_stride": 16}),
        ("resnetblur18", {}),
        ("resnet18", {"norm_layer": "groupnorm"}),
        ("resnet10t", {"norm_layer": "groupnorm1"}),
        ("resnet10t", {"global_pool": "max"}),
        ("resnet10t", {"global_pool": "catavgmax"}),
        ("resnet10t", {"global_pool": "fastavgmax"}),
        ("resnet10t", {"replace_stem_pool": True}),
        ("wide_resnet50_2", {"channels": (16, 32, 32, 32)}),
        ("test_resnet", {}),
        ("test_convnext", {}),
        ("test_convnext2", {"conv_mlp": True}),
        ("convnext_atto_ols", {}),
        ("convnextv2_atto", {"conv_mlp": True}),
        ("convnext_atto", {"head_norm_first": True}),
        ("convnext_atto_rms", {}),
    ],
)
def test_family_members_agree(references: SimpleNamespace, name: str, options: dict[str, object]) -> None:
    """Variants of both families agree to 1e-10 in float64: stems, shortcuts, attentions, norms and pools."""
    outputs, gradients = _compare(references, references.stock_model(name, **options), torch.float64)
    assert outputs < 1e-10
    assert gradients < 1e-10


def test_the_given_model_stays_as_it_was(references: SimpleNamespace) -> None:
    """Conversion copies: the stock model keeps its classes, and shares no parameter with the exact one."""
    stock = references.stock_model("test_resnet")
    classes = [type(module) for module in stock.modules()]
    exact = make_exact(stock)
    assert [type(module) for module in stock.modules()] == classes
    assert isinstance(exact, type(stock))
    assert not {id(p) for p in stock.parameters()} & {id(p) for p in exact.parameters()}


def test_weights_go_both_ways(references: SimpleNamespace) -> None:
    """State-dict keys are the stock model's own, and either model loads the other's."""
    stock = references.stock_model("test_resnet")
    exact = make_exact(stock)
    assert list(exact.state_dict()) == list(stock.state_dict())
    with torch.no_grad():
        for parameter in exact.parameters():
            parameter.mul_(1.5)
    stock.load_state_dict(exact.state_dict())
    fresh = make_exact(references.stock_model("test_resnet"))
    fresh.load_state_dict(stock.state_dict())
    pixels, sizes = references.padded(references.unpadded_images(SIZES))
    torch.testing.assert_close(fresh(pixels, sizes), exact(pixels, sizes), rtol=0, atol=0)


def test_a_copy_works_by_itself(references: SimpleNamespace) -> None:
    """A deep copy gives the same outputs, and neither disturbs the other's pass."""
    exact = make_exact(references.stock_model("test_resnet"))
    copied = copy.deepcopy(exact)
    assert copied.exact_passes is not exact.exact_passes
    assert all(layer.exact_passes is copied.exact_passes for layer in copied.modules() if hasattr(layer, "extent"))
    pixels, sizes = references.padded(references.unpadded_images(SIZES))
    torch.testing.assert_close(copied(pixels, sizes), exact(pixels, sizes), rtol=0, atol=0)


def test_without_sizes_the_whole_canvas_is_real(references: SimpleNamespace) -> None:
    """Without sizes, and with sizes that fill the canvas, the stock model's answer comes out."""
    stock = references.stock_model("test_resnet")
    exact = make_exact(stock)
    images = torch.stack(references.unpadded_images([(64, 80)] * 2))
    expected = stock(images)
    torch.testing.assert_close(exact(images), expected)
    torch.testing.assert_close(exact(images, torch.tensor([[64, 80]] * 2)), expected)


def test_the_callers_pixels_are_not_written_to(references: SimpleNamespace) -> None:
    """The batch handed in is unchanged afterwards, in either memory format."""
    exact = make_exact(references.stock_model("test_resnet"))
    pixels, sizes = references.padded(references.unpadded_images(SIZES), garbage=3.0)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        given = pixels.contiguous(memory_format=memory_format)
        before = given.clone()
        exact(given, sizes)
        assert torch.equal(given, before)


def test_gradients_reach_real_pixels_only(references: SimpleNamespace) -> None:
    """The gradient by the input is the unpadded image's inside its region, and zero outside."""
    stock = references.stock_model("test_resnet")
    images = references.unpadded_images(SIZES)
    pixels, sizes = references.padded(images)
    pixels.requires_grad_()
    make_exact(stock)(pixels, sizes).sum().backward()
    for index, image in enumerate(images):
        unpadded = image[None].requires_grad_()
        stock(unpadded).sum().backward()
        inside = pixels.grad[index, :, : image.shape[1], : image.shape[2]]
        assert references.error(inside, unpadded.grad[0]) < 1e-10
        assert pixels.grad[index].abs().sum() == pytest.approx(float(inside.abs().sum()))


@pytest.mark.parametrize("name", ["test_resnet", "convnext_atto"])
def test_feature_maps_are_those_of_unpadded_images(references: SimpleNamespace, name: str) -> None:
    """Without a head the feature map is the unpadded one inside each output region, and zero outside."""
    stock = references.stock_model(name, num_classes=0, global_pool="")
    exact = make_exact(stock)
    images = references.unpadded_images(SIZES)
    pixels, sizes = references.padded(images, extra=(40, 70))
    regions = output_regions(exact, sizes)
    _assert_maps(exact(pixels, sizes), regions, [stock(image[None])[0] for image in images])
    features = exact.forward_features(pixels, sizes)
    _assert_maps(features, regions, [stock.forward_features(image[None])[0] for image in images])


def _assert_maps(features: Tensor, regions: Tensor, expected: list[Tensor]) -> None:
    for image, (height, width), alone in zip(features, regions.tolist(), expected):
        assert alone.shape[1:] == (height, width)
        torch.testing.assert_close(image[:, :height, :width], alone, rtol=1e-10, atol=1e-10)
        assert not image[:, height:].any()
        assert not image[:, :, width:].any()


def test_a_new_head_is_exact_too(references: SimpleNamespace) -> None:
    """timm's reset_classifier on an exact model keeps it exact, with another pool."""
    exact = make_exact(references.stock_model("test_resnet", num_classes=0, global_pool=""))
    exact.reset_classifier(5, "avg")
    assert exact.get_classifier().out_features == 5
    images = references.unpadded_images(SIZES)
    pixels, sizes = references.padded(images)
    alone = torch.cat([exact(image[None]) for image in images])
    assert references.error(exact(pixels, sizes), alone) < 1e-10


def test_output_regions_needs_a_feature_map(references: SimpleNamespace) -> None:
    """Asking for regions of a vector, or of a stock model, says what to do."""
    stock = references.stock_model("test_resnet")
    sizes = torch.tensor(SIZES)
    with pytest.raises(ExactError, match="global_pool=''"):
        output_regions(make_exact(stock), sizes)
    with pytest.raises(ExactError, match="make_exact first"):
        output_regions(stock, sizes)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (torch.tensor([[33, 47]]), "shape \\(3, 2\\)"),
        (torch.tensor([[33.0, 47.0]] * 3), "must be integers"),
        (torch.tensor([[33, 47], [65, 96], [50, 61]]), "65 x 96; sizes are height first"),
        (torch.tensor([[33, 47], [0, 96], [50, 61]]), "0 x 96"),
    ],
)
def test_wrong_sizes_are_refused(references: SimpleNamespace, sizes: Tensor, message: str) -> None:
    """Sizes of another count, type, or beyond the canvas are named."""
    exact = make_exact(references.stock_model("test_resnet"))
    pixels, _ = references.padded(references.unpadded_images(SIZES))
    with pytest.raises(ExactError, match=message):
        exact(pixels, sizes)


def test_an_image_smaller_than_a_window_is_refused(references: SimpleNamespace) -> None:
    """An image that the network cannot take alone is named, though its canvas would do."""
    exact = make_exact(references.stock_model("convnext_atto"))
    pixels, sizes = references.padded(references.unpadded_images([(64, 64), (3, 64)]))
    with pytest.raises(ExactError, match="3 x 64 pixels is too small"):
        exact(pixels, sizes)


class _WithAid(nn.Module):
    """Two outputs in training, as GoogLeNet has, and one otherwise."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.more = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        early = self.body(x).relu()
        late = self.more(early).relu().mean((2, 3))
        return (late, early.amax((2, 3))) if self.training else late


@pytest.mark.parametrize("training", [True, False])
def test_several_outputs(references: SimpleNamespace, training: bool) -> None:
    """Each tensor of a tuple is that of the unpadded image, with gradients; modes may return different things."""
    stock = _WithAid().double().train(training)
    exact = make_exact(stock)
    images = references.unpadded_images(SIZES)
    output = exact(*references.padded(images, extra=(3, 5)))
    assert isinstance(output, tuple) == training
    alone = [stock(image[None]) for image in images]
    for number, found in enumerate(output if training else [output]):
        expected = torch.cat([one[number] if training else one for one in alone])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        found.square().sum().backward(retain_graph=True)
        expected.square().sum().backward(retain_graph=True)
    used = stock.body.weight.grad
    torch.testing.assert_close(exact.body.weight.grad, used, rtol=1e-10, atol=1e-12)


def test_maps_of_several_depths(references: SimpleNamespace) -> None:
    """timm's `features_only` networks return a map of each depth, each with regions of its own and zeros outside."""
    stock = references.stock_model("resnet18", num_classes=0, features_only=True)
    exact = make_exact(stock)
    images = references.unpadded_images(SIZES)
    pixels, sizes = references.padded(images, extra=(3, 5))
    maps, regions = exact(pixels, sizes), output_regions(exact, sizes)
    assert len(maps) == len(regions) == 5
    for index, image in enumerate(images):
        for found, places, expected in zip(maps, regions, stock(image[None])):
            height, width = places[index].tolist()
            torch.testing.assert_close(found[index, :, :height, :width], expected[0], rtol=1e-10, atol=1e-12)
            assert not found[index, :, height:].any()
            assert not found[index, :, :, width:].any()
