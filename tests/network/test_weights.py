"""A weights file that does not fit is refused with what does not fit, and nothing is ever unpickled."""

import pytest
import torch
from safetensors.torch import save_file

from unsquare.errors import ConfigError
from unsquare.network.weights import load_weights
from unsquare.torchvision_guard import import_timm

FIRST = "conv1.0.weight"


@pytest.fixture
def backbone():
    """A small network of timm's without its head."""
    return import_timm().create_model("test_resnet", num_classes=0)


@pytest.fixture
def tensors(backbone):
    """Its tensors, all 1."""
    return {name: torch.ones_like(value) for name, value in backbone.state_dict().items()}


def test_weights_are_loaded_and_what_else_the_file_holds_is_not(backbone, tensors, tmp_path):
    """Every tensor is the file's, in the network's own number type; a head in the file stays behind."""
    path = tmp_path / "x.safetensors"
    halves = {name: value.half() if value.is_floating_point() else value for name, value in tensors.items()}
    save_file(halves | {"fc.weight": torch.zeros(3, 3)}, path)
    load_weights(backbone, path)
    for value in backbone.state_dict().values():
        assert (value == 1).all()
    assert backbone.state_dict()[FIRST].dtype == torch.float32


@pytest.mark.parametrize(("number", "dtype"), [(float("nan"), torch.float32), (1e300, torch.float64)])
def test_weights_are_finite(backbone, tensors, tmp_path, number, dtype):
    """Also in the network's own number type."""
    save_file(tensors | {FIRST: torch.full_like(tensors[FIRST], number, dtype=dtype)}, tmp_path / "x.safetensors")
    with pytest.raises(ConfigError, match=rf"Weights must be finite numbers, but '{FIRST}' in .* has others"):
        load_weights(backbone, tmp_path / "x.safetensors")


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "_orig_mod.module.", "model.backbone."])
def test_prefixes_of_wrappers_do_not_matter(backbone, tensors, tmp_path, prefix):
    """Names are read without what wrappers put before them, whatever else the file holds under other names."""
    path = tmp_path / "x.safetensors"
    others = {"head.weight": torch.zeros(3, 3), "model.head.weight": torch.zeros(3, 3)}
    save_file({prefix + name: value for name, value in tensors.items()} | others, path)
    load_weights(backbone, path)
    assert all((value == 1).all() for value in backbone.state_dict().values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda all_: all_ | {FIRST: torch.ones(3, 3)},
            rf"'{FIRST}' has the shape \(3, 3\), but \(16, 3, 3, 3\) there; give",
        ),
        (
            lambda all_: all_ | {FIRST: all_[FIRST].long()},
            rf"'{FIRST}' is torch.int64, but torch.float32 in the backbone",
        ),
        (
            lambda all_: {f"net.{name}": value for name, value in all_.items()},
            rf"lacks 90 of its 90 tensors, '{FIRST}' of the shape \(16, 3, 3, 3\).* 90 others such as 'net.",
        ),
        (
            lambda all_: {f"model.{name}": value for name, value in all_.items() if name != FIRST},
            rf"lacks 1 of its 90 tensors, '{FIRST}' of the shape \(16, 3, 3, 3\) among them; check",
        ),
        (
            lambda all_: {f"model.{name}": value for name, value in (all_ | {FIRST: torch.ones(16, 4, 3, 3)}).items()},
            rf"Pictures have 3 channels here, but the weights in '.*' are for 4: '{FIRST}' has .* \(16, 4, 3, 3\)",
        ),
        (
            lambda all_: all_ | {FIRST: torch.ones(16, 1, 3, 3)},
            rf"Pictures have 3 channels here, but the weights in '.*' are for 1: '{FIRST}' has .*; give weights for 3",
        ),
        (
            lambda all_: {"layer.0": all_[FIRST]},
            rf"lacks 90 of its 90 tensors, '{FIRST}' .* 1 others such as 'layer.0'",
        ),
        (lambda all_: {FIRST: all_[FIRST]}, "lacks 89 of its 90 tensors"),
    ],
    ids=["shape", "type", "prefix", "wrapped", "rgba", "gray", "names", "few"],
)
def test_the_tensor_that_does_not_fit_is_named(backbone, tensors, tmp_path, change, message):
    """Shapes, number types, prefixes of wrappers and missing names are told apart; the network stays as it was."""
    path = tmp_path / "x.safetensors"
    save_file(change(tensors), path)
    before = backbone.state_dict()[FIRST].clone()
    with pytest.raises(ConfigError, match=message) as caught:
        load_weights(backbone, path)
    assert "\n" not in str(caught.value)
    assert torch.equal(backbone.state_dict()[FIRST], before)


@pytest.mark.parametrize("content", ["cut", "header", "empty", "text", "pickle"])
def test_a_file_that_is_no_whole_safetensors_file_is_refused(backbone, tensors, tmp_path, content):
    """Cut short, of other content, or pickled under the name of another: read as safetensors or not at all."""
    path = tmp_path / "x.safetensors"
    save_file(tensors, path)
    whole = path.read_bytes()
    if content == "pickle":
        torch.save(tensors, path)
    else:
        path.write_bytes(
            {"cut": whole[:-100], "header": whole[:20], "empty": b"", "text": b"no weights at all"}[content]
        )
    with pytest.raises(ConfigError, match="cannot be loaded, since it is not a complete safetensors file"):
        load_weights(backbone, path)


def test_a_file_that_cannot_be_opened_says_why(backbone, tmp_path):
    """A missing file, a folder, and a file of another kind."""
    with pytest.raises(ConfigError, match="No such file"):
        load_weights(backbone, tmp_path / "x.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ConfigError, match="is not a regular file"):
        load_weights(backbone, tmp_path / "folder.safetensors")
    with pytest.raises(ConfigError, match="must be in a safetensors file"):
        load_weights(backbone, tmp_path / "x.pth")
