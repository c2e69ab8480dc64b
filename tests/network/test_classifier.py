"""The classifier sees each picture as if it were alone, and starts from the weights it is given."""

from typing import get_args

import pytest
import torch
from safetensors.torch import save_file

from unsquare.errors import ConfigError, ExactError
from unsquare.network.classifier import Classifier, create_backbone
from unsquare.network.config import ModelConfig, Pool

SIZES = [(64, 97), (75, 64), (96, 96)]


@pytest.fixture(params=["test_resnet", "test_convnext"])
def classifier(request):
    """A small classifier of each family, in float64 and evaluation mode, its statistics not those of a new one."""
    torch.manual_seed(0)
    model = Classifier(ModelConfig(backbone=request.param), 5).double().eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    return model


def _batch():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (3, 3, 96, 97), generator=generator, dtype=torch.uint8)
    return pixels, torch.tensor(SIZES)


def test_logits_do_not_depend_on_padding_or_neighbors(classifier):
    """From uint8 pixels to logits, a padded batch with garbage around gives what each picture gives alone."""
    pixels, sizes = _batch()
    together = classifier(pixels, sizes)
    for image, (height, width) in enumerate(SIZES):
        alone = classifier(pixels[image : image + 1, :, :height, :width], sizes[image : image + 1])
        torch.testing.assert_close(together[image], alone[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("pool", get_args(Pool))
def test_every_pool_gives_each_picture_the_logits_it_has_alone(pool):
    """Whatever pools the features, padding and neighbors do not count; the head fits, and its bins are divided out."""
    torch.manual_seed(0)
    model = Classifier(ModelConfig(backbone="test_resnet", pool=pool), 5).double().eval()
    pixels, sizes = _batch()
    together = model(pixels, sizes)
    for image, (height, width) in enumerate(SIZES):
        alone = model(pixels[image : image + 1, :, :height, :width], sizes[image : image + 1])
        torch.testing.assert_close(together[image], alone[0], rtol=1e-10, atol=1e-12)
    assert model.pool.num_bins == {"spp": 21, "auto": 21, "catavgmax": 2}.get(pool, 1)
    assert model.norm.normalized_shape == (model.backbone.num_features * model.pool.num_bins,)
    together.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.pool.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"backbone": "mobilenetv3_small_050"},  # widens its features after pooling
        {"backbone": "inception_next_atto"},  # cannot leave out its pool
        {"backbone": "mambaout_femto"},  # keeps channels last
        {"backbone": "tf_efficientnet_b0"},  # pads by each picture's size
        {"backbone": "test_resnet", "norm": "group"},
        {"backbone": "test_resnet", "norm": "frozen"},
    ],
)
def test_other_backbones_and_norms(settings):
    """Backbones whose heads, layouts or norms differ give the same logits alone and padded, in training as well."""
    torch.manual_seed(0)
    model = Classifier(ModelConfig(pool="avg", **settings), 5).double().train("norm" in settings)
    pixels, sizes = _batch()
    together = model(pixels, sizes)
    alone = model(pixels[1:2, :, :75, :64], sizes[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-9, atol=1e-11)


def test_backbones_for_multiples_alone_are_refused():
    """A network in which paths of different stride meet says which sides it takes, before any picture is read."""
    with pytest.raises(ConfigError, match="'dla34' only takes images whose sides are multiples of 32"):
        Classifier(ModelConfig(backbone="dla34"), 5)


def test_all_parameters_are_trained(classifier):
    """Every parameter receives a gradient (once norms that start at zero do not hide those behind them)."""
    pixels, sizes = _batch()
    classifier.train()
    for parameter in classifier.parameters():
        if parameter.ndim == 1:
            torch.nn.init.constant_(parameter, 0.5)
    classifier(pixels, sizes).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in classifier.parameters())


def test_weights_come_from_a_file(tmp_path):
    """A safetensors file of the backbone, with a head of other classes, sets every weight of the backbone."""
    torch.manual_seed(3)
    stock = create_backbone(ModelConfig(backbone="test_resnet"), load=False)
    path = tmp_path / "weights.safetensors"
    save_file(stock.state_dict() | {"fc.weight": torch.zeros(7, 3)}, path)
    model = Classifier(ModelConfig(backbone="test_resnet", weights=path), 5)
    for name, value in stock.state_dict().items():
        assert torch.equal(model.backbone.state_dict()[name], value)


@pytest.mark.parametrize(
    ("name", "tensors", "message"),
    [
        ("weights.pth", {"a": torch.zeros(1)}, "must be in a safetensors file"),
        ("weights.safetensors", {"a": torch.zeros(1)}, "lacks .* of its"),
        ("weights.safetensors", None, "cannot be loaded"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path, name, tensors, message):
    """Pickles, weights of other networks and broken files each say what is wrong."""
    path = tmp_path / name
    if tensors is None:
        path.write_bytes(b"not tensors")
    else:
        save_file(tensors, path)
    with pytest.raises(ConfigError, match=message):
        Classifier(ModelConfig(backbone="test_resnet", weights=path), 5)


def test_networks_that_cannot_be_had_are_refused():
    """Unknown names are answered with close ones, networks that cannot be exact with the reason."""
    with pytest.raises(ConfigError, match=r"did you mean .*resnet50"):
        Classifier(ModelConfig(backbone="resnet5O"), 5)
    with pytest.raises(ExactError, match="MultiQueryAttention2d"):
        Classifier(ModelConfig(backbone="mobilenetv4_hybrid_medium"), 5)
