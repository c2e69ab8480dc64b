"""Loads weights from a safetensors file, after comparing all names and shapes with the backbone's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import nn

from unsquare.errors import ConfigError
from unsquare.files import require_regular
from unsquare.runs.reading import reason

_PREFIXES = ("module.", "model.", "backbone.", "encoder.", "_orig_mod.")
"""Prefixes that wrappers add to the names of a network's tensors."""


def load_weights(backbone: nn.Module, path: Path) -> None:
    """Load a backbone's weights; other tensors of the file, such as a head, are ignored.

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
            _require_names(shapes, wanted, path)
            for name, tensor in wanted.items():
                if shapes[name] != tuple(tensor.shape):
                    raise ConfigError(
                        f"The weights in '{path}' do not fit the backbone: {name!r} has the shape {shapes[name]}, but "
                        f"{tuple(tensor.shape)} in the backbone; give a file made for this backbone."
                    )
            weights = {name: file.get_tensor(name) for name in wanted}
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
    backbone.load_state_dict(weights)


def _require_names(there: Mapping[str, object], wanted: Mapping[str, object], path: Path) -> None:
    missing = [name for name in wanted if name not in there]
    if not missing:
        return
    unknown = [name for name in there if name not in wanted]
    prefix = next((each for each in _PREFIXES if all(each + name in there for name in wanted)), None)
    hint = "check that the file is for this backbone and uses timm's names."
    if prefix is not None:
        hint = f"remove the prefix {prefix!r} from its names."
    extra = f", and has {len(unknown)} others such as {unknown[0]!r}" if unknown else ""
    raise ConfigError(
        f"The weights in '{path}' do not fit the backbone: the file lacks {len(missing)} of its {len(wanted)} tensors, "
        f"{missing[0]!r} among them{extra}; {hint}"
    )
