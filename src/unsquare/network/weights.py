"""Loads weights from a safetensors file, after comparing all names and shapes with the backbone's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn

from unsquare.errors import ConfigError
from unsquare.files import require_regular
from unsquare.runs.checkpoints import FILES, best_or_newest
from unsquare.runs.folder import RunFolder
from unsquare.runs.reading import reason

_WRAPPERS = ("module", "model", "backbone", "encoder", "_orig_mod")
"""What wrappers put before the names of a network's tensors; a run of this package puts `backbone`."""


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Load a backbone's weights; other tensors of the file, such as a head, are ignored.

    Names may have the prefix of a wrapper, as in a run's own `model.safetensors`.

    Raises:
        ConfigError: the file cannot be read, or its tensors are not the backbone's.
    """
    if path.suffix != ".safetensors":
        raise ConfigError(
            f"Weights must be in a safetensors file, since others can run code when opened, but got '{path}'; convert "
            "it with safetensors.torch.save_file."
        )
    wanted = backbone.state_dict()
    try:
        require_regular(path)
        path.open("rb").close()  # its error is clearer than that of safetensors
        with safe_open(path, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no dict
            prefix = _prefix(shapes, wanted)
            _require_fitting(backbone, shapes, prefix, path)
            weights = {name: file.get_tensor(prefix + name) for name in wanted}
    except OSError as error:
        raise ConfigError(f"The weights in '{path}' cannot be loaded ({reason(error)}); check the path.") from error
    except SafetensorError as error:
        raise ConfigError(
            f"The weights in '{path}' cannot be loaded, since it is not a complete safetensors file ({error}); "
            "download or convert it again."
        ) from error
    for name, tensor in wanted.items():
        if weights[name].is_floating_point() != tensor.is_floating_point():
            raise ConfigError(
                f"The weights in '{path}' do not fit the backbone: {name!r} is {weights[name].dtype}, but "
                f"{tensor.dtype} in the backbone; give a file made for this backbone."
            )
        if not weights[name].to(tensor.dtype).isfinite().all():
            raise ConfigError(
                f"Weights must be finite numbers, but {name!r} in '{path}' has others; give another file, such as an "
                "earlier checkpoint."
            )
    backbone.load_state_dict(weights)


def weights_of(run: Path) -> Path:
    """The file with the best weights of a run.

    Raises:
        RunError: there is no run, or no checkpoint of it that can be used.
    """
    checkpoint, _ = best_or_newest(RunFolder.open(run).checkpoints)
    return checkpoint / FILES[0]


def _prefix(there: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """The prefix of wrappers under which the file has the most of the wanted names; none where that has as many."""
    found = {""}
    for name in there:
        parts = name.split(".")
        depth = next((at for at, part in enumerate(parts) if part not in _WRAPPERS), len(parts))
        found.update("".join(f"{part}." for part in parts[:at]) for at in range(1, depth + 1))
    return max(sorted(found), key=lambda prefix: sum(prefix + name in there for name in wanted))


def _require_fitting(backbone: nn.Module, shapes: Mapping[str, tuple[int, ...]], prefix: str, path: Path) -> None:
    """Refuse a file in which a tensor has another shape than in the backbone, or is missing."""
    wanted = {name: tuple(tensor.shape) for name, tensor in backbone.state_dict().items()}
    for name, shape in wanted.items():
        found = shapes.get(prefix + name, shape)
        if found == shape:
            continue
        if _is_first(backbone, name) and (found[:1], found[2:]) == (shape[:1], shape[2:]):
            raise ConfigError(
                f"Pictures have {shape[1]} channels here, but the weights in '{path}' are for {found[1]}: {name!r} has "
                f"the shape {found}, but {shape} in the backbone; give weights for {shape[1]} channels."
            )
        raise ConfigError(
            f"The weights in '{path}' do not fit the backbone{_named(backbone)}: {name!r} has the shape {found}, but "
            f"{shape} there; give a file made for it, or the --backbone that the file is for."
        )
    missing = [name for name in wanted if prefix + name not in shapes]
    if not missing:
        return
    unknown = [name for name in shapes if name.removeprefix(prefix) not in wanted]
    extra = f", and has {len(unknown)} others such as {unknown[0]!r}" if unknown else ""
    raise ConfigError(
        f"The weights in '{path}' do not fit the backbone{_named(backbone)}: the file lacks {len(missing)} of its "
        f"{len(wanted)} tensors, {missing[0]!r} of the shape {wanted[missing[0]]} among them{extra}; check that the "
        "file is for this backbone and uses timm's names."
    )


def _named(backbone: Any) -> str:
    """The backbone's name in brackets, as timm says it; nothing where it does not."""
    name = getattr(backbone, "pretrained_cfg", {}).get("architecture")
    return f" {name}" if name else ""


def _is_first(backbone: Any, name: str) -> bool:
    """Whether a tensor is the kernel of the convolution that sees the pictures, as timm says."""
    first = getattr(backbone, "pretrained_cfg", {}).get("first_conv") or ()
    return name.removesuffix(".weight") in ((first,) if isinstance(first, str) else first)
