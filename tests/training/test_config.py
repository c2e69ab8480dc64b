"""The settings travel through TOML unchanged, and mistakes are named."""

from dataclasses import replace
from pathlib import Path

import pytest

from unsquare.errors import ConfigError
from unsquare.network.config import ModelConfig
from unsquare.shapes import Geometry
from unsquare.training.config import TrainConfig, from_toml, to_toml, with_settings


def test_toml_gives_the_settings_back():
    """What is written reads as the same settings, None and tuples included."""
    config = with_settings(
        TrainConfig(),
        {
            "epochs": 3,
            "pool": "gem",
            "pyramid": (1, 3),
            "max_pixels": 100,
            "memory": "2GiB",
            "weights": Path("a.safetensors"),
        },
    )
    assert from_toml(to_toml(config), "file") == config
    assert from_toml(to_toml(TrainConfig()), "file") == TrainConfig()


def test_a_run_of_before_there_were_pools_has_the_pyramid():
    """Settings written without the pool mean the spatial pyramid, with their own levels."""
    config = from_toml('[model]\npyramid = [1, 3]\npyramid_mode = "mean"\n', "file")
    assert config.model == ModelConfig(pool="spp", pyramid=(1, 3), pyramid_mode="mean")


def test_what_a_file_leaves_out_has_its_default():
    """A file with one table changes that table alone."""
    config = from_toml("[geometry]\nmax_pixels = 16e6\n", "file")
    assert config == replace(TrainConfig(), geometry=Geometry(max_pixels=16_000_000))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[geometry]\nmax_pixel = 1\n", "no setting 'max_pixel'.*max_pixels"),
        ("[gometry]\n", "no setting 'gometry'.*did you mean geometry"),
        ("geometry = 3\n", "must be a table"),
        ("[optimizer]\nepochs = 'many'\n", "epochs must be a whole number from 1 to 1,000,000 or None, but is 'many'"),
        ("[optimizer]\nepochs = true\n", "epochs must be a whole number"),
        ("[plan]\nsteps = 'sorted'\n", "steps must be .*mixed.*b2b"),
        ("[model]\npool = 'sum'\n", "pool must be .*spp.*catavgmax.*'sum'"),
        ("[optimizer]\nepochs = 0\n", "epochs must be at least 1"),
        ("[device]\nmemory = '8 parsecs'\n", "A memory size must be"),
        ("[[[", "must be a TOML file"),
        ("a = " + "[" * 5000, "must be a TOML file"),
        ("[plan]\nseed = " + "9" * 5000, "must be a TOML file"),
    ],
)
def test_mistakes_are_named(text, message):
    """Unknown names, wrong types and values out of range are refused with what was received."""
    with pytest.raises(ConfigError, match=message):
        from_toml(text, "settings.toml")


def test_settings_are_found_by_the_names_of_their_flags():
    """Each flag's name belongs to one setting, so that Python and the command line speak alike."""
    from dataclasses import fields

    names = [f.name for part in fields(TrainConfig) for f in fields(getattr(TrainConfig(), part.name))]
    assert len(names) == len(set(names))
    with pytest.raises(ConfigError, match="no setting 'epoch'"):
        with_settings(TrainConfig(), {"epoch": 3})
    with pytest.raises(
        ConfigError, match="pool must be one of auto, spp, avg, max, avgmax, catavgmax, gem, but is 'sum'"
    ):
        with_settings(TrainConfig(), {"pool": "sum"})
