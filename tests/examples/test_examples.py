"""The examples are run as a user would, stopped and gone on with, and held to plain training image by image.

The reference knows no batches, canvases, ranks or exact layers: the stock network sees each picture alone, and a
step is the mean over its pictures. What it takes from us is only which pictures a step has.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import unsquare
from unsquare.demo.materials import MaterialsConfig, make_materials
from unsquare.torchvision_guard import import_timm

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
STEP_IMAGES = 8
BUDGET_PIXELS = 30_000
TOLERANCE = 1e-5
TORCHRUN = ("-m", "torch.distributed.run", "--nproc-per-node")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Twenty-four pictures to train on, of as many shapes."""
    config = MaterialsConfig(num_train=24, num_val=6, num_test=6, mean_pixels=6_000)
    return make_materials(tmp_path_factory.mktemp("examples") / "pictures", config)


@pytest.fixture(scope="module")
def reference(pictures):
    """The weights after 2 steps, and after both epochs; and the latter with other sets of pictures."""
    after = _weights_after_steps(pictures, seed=0)
    return after[1], after[-1], _weights_after_steps(pictures, seed=1)[-1]


def _weights_after_steps(folder: Path, seed: int) -> list[dict[str, torch.Tensor]]:
    """Weights after each step of two epochs of plain SGD, each picture alone."""
    index = unsquare.scan_source(folder).of_split("train")
    torch.manual_seed(0)
    model = import_timm().create_model("resnet10t", norm_layer="groupnorm1", num_classes=len(index.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02)
    config = unsquare.PlanConfig(step_images=STEP_IMAGES, seed=seed)
    after = []
    for epoch in range(2):
        for step in unsquare.plan_epoch(index.sizes, config, unsquare.Limits(), epoch).steps:
            for i in (int(i) for micro_batch in step.micro_batches for i in micro_batch.images):
                with Image.open(index.path(i)) as image:
                    pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
                loss = torch.nn.functional.cross_entropy(
                    model(pixels / 255 - 0.5), torch.tensor([int(index.labels[i])])
                )
                (loss / step.num_images).backward()
            optimizer.step()
            optimizer.zero_grad()
            after.append({name: one.detach().clone() for name, one in model.state_dict().items()})
    return after


def _run(*command: object) -> str:
    """Run Python on the command; what it printed."""
    environment = os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def _distance(weights: dict[str, torch.Tensor], other: dict[str, torch.Tensor], prefix: str = "") -> float:
    """The largest difference of any weight."""
    assert {name.removeprefix(prefix) for name in weights} == set(other)
    return max(float((one - other[name.removeprefix(prefix)]).abs().max()) for name, one in weights.items())


def _arguments(pictures: Path, out: Path) -> list[object]:
    return [pictures, "--out", out, "--step-images", STEP_IMAGES, "--budget-pixels", BUDGET_PIXELS, "--epochs", 2]


def test_the_ranks_of_these_tests_differ(pictures):
    """On two ranks some step has more micro-batches on one than on the other, or the tests would show little."""
    sizes = unsquare.scan_source(pictures).of_split("train").sizes
    limits = unsquare.Limits(budget_pixels=BUDGET_PIXELS, launch_pixels=BUDGET_PIXELS // 16, world_size=2)
    steps = unsquare.plan_epoch(sizes, unsquare.PlanConfig(step_images=STEP_IMAGES), limits, 0).steps
    assert any(len(first) != len(second) for first, second in (step.ranks for step in steps))


def test_plain_loop(pictures, reference, tmp_path):
    """Stopped in the first epoch and gone on with, it ends where plain training ends."""
    command = [EXAMPLES / "plain_loop.py", *_arguments(pictures, tmp_path)]
    printed = _run(*command, "--stop-after", 2)
    assert printed.count("8 images") == 2
    assert _distance(_plain(tmp_path), reference[0], "exact.") < TOLERANCE
    printed = _run(*command)
    assert printed.startswith("epoch 0, step 2")
    assert printed.count("8 images") == 4
    assert _distance(_plain(tmp_path), reference[1], "exact.") < TOLERANCE
    assert _distance(_plain(tmp_path), reference[2], "exact.") > 100 * TOLERANCE


def test_lightning(pictures, reference, tmp_path):
    """Begun on two ranks, ended on one, from Lightning's own checkpoint: the same weights."""
    command = [EXAMPLES / "lightning_ddp.py", *_arguments(pictures, tmp_path)]
    _run(*command, "--devices", 2, "--stop-after", 2)
    assert _distance(_lightning(tmp_path), reference[0], "model.exact.") < TOLERANCE
    _run(*command, "--devices", 1)
    assert _distance(_lightning(tmp_path), reference[1], "model.exact.") < TOLERANCE


def test_accelerate(pictures, reference, tmp_path):
    """Begun on one rank, ended on two, from Accelerate's own checkpoint: the same weights."""
    command = [EXAMPLES / "accelerate_ddp.py", *_arguments(pictures, tmp_path)]
    _run(*command, "--stop-after", 2)
    assert _distance(_accelerate(tmp_path), reference[0], "exact.") < TOLERANCE
    _run(*TORCHRUN, 2, *command)
    assert _distance(_accelerate(tmp_path), reference[1], "exact.") < TOLERANCE


def _plain(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "last.pt", weights_only=True)["model"]


def _lightning(out: Path) -> dict[str, torch.Tensor]:
    return torch.load(out / "last.ckpt", weights_only=False)["state_dict"]


def _accelerate(out: Path) -> dict[str, torch.Tensor]:
    return load_file(out / "last" / "model.safetensors")


def test_without_a_folder_pictures_are_made(tmp_path):
    """The example runs as it is, with nothing at hand."""
    printed = _run(EXAMPLES / "plain_loop.py", "--out", tmp_path, "--epochs", 1, "--stop-after", 1)
    assert printed.startswith("epoch 0, step 0: 8 images")
