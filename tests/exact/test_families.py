"""One small network of nearly every convolutional family of timm answers as it does alone; the docs' table has more.

Of the blocks that a stage repeats there is one: a second takes time, and shows nothing that the first does not. Left to
the benchmark (`benchmarks/exact_coverage.py`), since even their smallest takes over four seconds: NASNet, PNASNet,
Inception v4, Inception-ResNet v2 (v3 is here), and VGG at its own width.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from unsquare.exact import make_exact, output_regions
from unsquare.exact.verify import reference
from unsquare.torchvision_guard import import_timm

VGG = import_timm().models.vgg.VGG

FAMILIES = [
    "test_byobnet", "gcresnext26ts", "mobileone_s0", "cs3darknet_focus_s", "cspnext_tiny", "densenet121", "dla46x_c",
    "dpn48b", "test_efficientnet", "tf_efficientnet_b0", "mixnet_s", "efficientnet_cc_b0_4e", "fasternet_t0",
    "fastvit_t8", "ghostnetv2_100", "hardcorenas_b", "hgnetv2_b0", "hrnet_w18_small", "inception_next_atto",
    "lcnetv2_small", "test_mambaout", "poolformer_s12", "mobilenetv3_small_050",
    "mobilenetv4_conv_small_035", "test_nfnet", "nf_regnet_b0", "regnetx_002", "regnety_002", "repghostnet_050",
    "repvit_m1", "res2next50", "resnest14d", "resnetblur18", "resnetv2_18", "resnetv2_50x1_bit", "rexnet_100",
    "selecsls42", "legacy_seresnet18", "skresnet18", "starnet_s050", "tresnet_m", "ese_vovnet19b_slim_dw",
    "legacy_xception", "xception41p", "resnetaa34d", "nf_ecaresnet26", "test_efficientnet_evos", "poolformerv2_s12",
    "tf_efficientnet_cc_b0_4e", "rdnet_tiny", "convmixer_1024_20_ks9_p14", "focalnet_tiny_srf", "darknet53",
    "repvgg_a0", "mnasnet_small", "tinynet_e", "fbnetc_100", "mobilenetv1_100", "mobilenetv2_035",
]  # fmt: skip

OPTIONS = {"densenet121": {"block_config": (2, 2, 2, 2)}}
"""What makes a network shorter whose blocks are all of different shapes."""
MULTIPLES_OF_32 = {"dla46x_c", "hrnet_w18_small", "cs3darknet_focus_s", "tresnet_m", "resnetaa34d"}
SLOW = {"focalnet_tiny_srf", "darknet53", "convmixer_1024_20_ks9_p14"}


def _sizes(name: str) -> list[tuple[int, int]]:
    if name in SLOW:
        return [(43, 57), (64, 42)]
    if name in MULTIPLES_OF_32:
        return [(64, 96), (96, 64)]
    return [(83, 97), (97, 80)] if "ception" in name else [(65, 90), (81, 70)]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_agrees_with_unpadded_images(references: SimpleNamespace, name: str) -> None:
    """Outputs and gradients of unpadded images and of a batch padded with NaN agree to 1e-10 in float64."""
    stock = references.stock_model(name, short=True, **OPTIONS.get(name, {}))
    _check(references, stock, _sizes(name), (32, 0) if name in MULTIPLES_OF_32 else (3, 5))


def test_a_narrow_vgg_agrees_with_unpadded_images(references: SimpleNamespace) -> None:
    """VGG, whose head is a convolution over seven by seven pixels and needs images of 224, with few channels."""
    torch.manual_seed(0)
    vgg = VGG([8, "M", 8, "M", 8, "M", 8, "M", 8, "M"], num_classes=7, mlp_ratio=0.01, norm_layer=nn.BatchNorm2d)
    _check(references, reference.randomized(vgg).double().eval(), [(224, 260), (257, 231)], (3, 5))


def _check(references: SimpleNamespace, stock: nn.Module, sizes: list[tuple[int, int]], extra: tuple[int, int]) -> None:
    exact = make_exact(stock)
    assert list(exact.state_dict()) == list(stock.state_dict())
    images = references.unpadded_images(sizes)
    weights = torch.linspace(-1, 1, len(sizes) * 7, dtype=torch.float64).view(len(sizes), 7)
    expected = references.run_alone(stock, images, weights)
    with reference.WithoutNoise():  # EvoNorm computes in float32 otherwise
        output = exact(*references.padded(images, extra=extra))
    (output * weights).sum().backward()
    assert references.error(output, expected) < 1e-10
    assert max(references.gradient_errors(exact, stock).values()) < 1e-10


@pytest.mark.parametrize(
    "name", ["densenet121", "regnety_002", "mobilenetv3_small_050", "resnet26d", "tf_efficientnet_b0", "test_nfnet"]
)
def test_training_agrees_with_ragged_images(references: SimpleNamespace, name: str) -> None:
    """In training, batch norms over the real pixels of all images, to 1e-10 in float64."""
    stock = reference.without_chance(references.stock_model(name, short=True, **OPTIONS.get(name, {}))).train()
    exact = make_exact(stock)
    images = references.unpadded_images([(65, 90), (81, 70)])
    weights = torch.linspace(-1, 1, 14, dtype=torch.float64).view(2, 7)
    expected = references.run_ragged(stock, images, weights)
    output = exact(*references.padded(images, extra=(3, 5)))
    (output * weights).sum().backward()
    assert references.error(output, expected) < 1e-10
    assert max(references.gradient_errors(exact, stock).values()) < 1e-10


def test_feature_maps_are_clean_and_of_the_size_foretold(references: SimpleNamespace) -> None:
    """A headless network's map is each image's own inside its region, and zero outside."""
    stock = references.stock_model("tf_efficientnet_b0", num_classes=0, global_pool="")
    exact = make_exact(stock)
    images = references.unpadded_images([(65, 90), (81, 70)])
    pixels, sizes = references.padded(images, extra=(3, 5))
    maps = exact(pixels, sizes)
    for image, found, (height, width) in zip(images, maps, output_regions(exact, sizes).tolist()):
        expected = stock(image[None])[0]
        assert expected.shape[1:] == (height, width)
        torch.testing.assert_close(found[:, :height, :width], expected, rtol=1e-10, atol=1e-12)
        assert not found[:, height:].any()
        assert not found[:, :, width:].any()
