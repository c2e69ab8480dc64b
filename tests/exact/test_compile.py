"""Exact models compile to one graph per kind of canvas, and export where no sizes are given."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from unsquare.errors import ExactError
from unsquare.exact import make_exact

SIZES = [(33, 47), (64, 96), (50, 61)]
OTHER_SIZES = [(64, 96), (40, 40), (35, 90)]
CANVASES = [(64, 96), (80, 70), (96, 81)]

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # PyTorch's own, inside its compiler
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Any:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def _small() -> nn.Module:
    """A network with each kind of layer that looks sideways."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.GroupNorm(2, 8), nn.SiLU(), nn.AvgPool2d(2, ceil_mode=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7),
    ]  # fmt: skip
    return nn.Sequential(*layers)


def _compiled(model: nn.Module, backend: str = "aot_eager", dynamic: bool | None = False) -> tuple[Any, Any]:
    counter = CompileCounterWithBackend(backend)
    return torch.compile(model, fullgraph=True, backend=counter, dynamic=dynamic), counter


def _step(run: Any, model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    model.zero_grad()
    output = run(*batch)
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    return output.detach()


def _assert_same(references: SimpleNamespace, one: nn.Module, other: nn.Module, tolerance: float) -> None:
    assert max(references.gradient_errors(one, other).values()) < tolerance
    for (path, actual), expected in zip(one.named_buffers(), other.buffers()):
        torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance, msg=path)


@pytest.mark.parametrize(
    ("name", "options", "training"),
    [
        ("resnet10t", {}, True),
        ("convnext_atto", {}, False),
        ("test_convnext", {}, True),
        ("test_efficientnet", {}, False),
        ("test_efficientnet", {"pad_type": "same"}, True),
    ],
)
def test_one_graph_gives_what_eager_gives(
    references: SimpleNamespace, name: str, options: dict[str, object], training: bool
) -> None:
    """Without a graph break, outputs, gradients and running statistics are eager's, also for other sizes."""
    eager = make_exact(references.stock_model(name, short=True, **options)).train(training)
    model = copy.deepcopy(eager)
    run, counter = _compiled(model)
    for sizes in (SIZES, OTHER_SIZES):
        batch = references.padded(references.unpadded_images(sizes))
        assert references.error(_step(run, model, batch), _step(eager, eager, batch)) < 1e-10
        _assert_same(references, model, eager, 1e-10)
    assert counter.frame_count == 1


@pytest.mark.parametrize(("dynamic", "most"), [(False, len(CANVASES)), (None, 2)])
def test_compiles_once_per_canvas_at_most(references: SimpleNamespace, dynamic: bool | None, most: int) -> None:
    """Sizes never recompile; canvases do, once each, or once for all where PyTorch may leave them open."""
    exact = make_exact(_small().double()).eval()
    run, counter = _compiled(exact, dynamic=dynamic)
    generator = torch.Generator().manual_seed(0)
    for _ in range(2):
        for canvas in CANVASES:
            sizes = torch.stack([torch.randint(33, side + 1, (3,), generator=generator) for side in canvas], dim=1)
            pixels = torch.randn(3, 3, *canvas, generator=generator, dtype=torch.float64)
            assert references.error(run(pixels, sizes).detach(), exact(pixels, sizes).detach()) < 1e-10
    assert counter.frame_count == most


def test_checkpointed_blocks_compile(references: SimpleNamespace) -> None:
    """Activation checkpointing inside a compiled model leaves gradients and statistics as they are."""
    stock = references.stock_model("test_resnet")
    eager, model = make_exact(stock).train(), make_exact(stock).train()
    model.set_grad_checkpointing(True)
    run, _ = _compiled(model)
    batch = references.padded(references.unpadded_images(SIZES))
    assert references.error(_step(run, model, batch), _step(eager, eager, batch)) < 1e-10
    _assert_same(references, model, eager, 1e-10)


def test_unpadded_images_compile(references: SimpleNamespace) -> None:
    """Without sizes, in training, the compiled model is the stock model."""
    stock, model = _small().double(), make_exact(_small().double())
    run, _ = _compiled(model)
    image = references.unpadded_images(SIZES[:1])[0][None]
    assert references.error(_step(run, model, (image,)), _step(stock, stock, (image,))) < 1e-10
    _assert_same(references, model, stock, 1e-10)


def test_eager_and_compiled_calls_mix(references: SimpleNamespace) -> None:
    """The same model may be called eagerly between a compiled forward and its backward."""
    exact = make_exact(references.stock_model("test_resnet"))
    run, _ = _compiled(exact)
    batch = references.padded(references.unpadded_images(SIZES))
    _step(exact, exact, batch)
    expected = [parameter.grad.clone() for parameter in exact.parameters()]
    exact.zero_grad()
    output = run(*batch)
    exact(*references.padded(references.unpadded_images(OTHER_SIZES)))
    (output * torch.linspace(-1, 1, output.numel(), dtype=output.dtype).view_as(output)).sum().backward()
    for parameter, gradient in zip(exact.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-10, atol=1e-12)


def test_inductor(references: SimpleNamespace) -> None:
    """The default backend trains as eager does, to float32's rounding."""
    eager, model = make_exact(_small()), make_exact(_small())
    run, _ = _compiled(model, "inductor")
    batch = references.padded(references.unpadded_images(SIZES, torch.float32))
    assert references.error(_step(run, model, batch), _step(eager, eager, batch)) < 1e-4
    _assert_same(references, model, eager, 1e-4)


def _exported(model: nn.Module, image: Tensor) -> torch.export.ExportedProgram:
    sides = {2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    return torch.export.export(model, (image,), dynamic_shapes=(sides,))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet"])
def test_exports_for_unpadded_images_of_any_size(references: SimpleNamespace, name: str) -> None:
    """The exact model exports without sizes; the program gives every unpadded image what the stock model gives it."""
    stock = references.stock_model(name)
    program = _exported(make_exact(stock).eval(), references.unpadded_images([(96, 128)])[0][None]).module()
    for image in references.unpadded_images([(64, 96), (97, 131), (200, 75)]):
        assert references.error(program(image[None]).detach(), stock(image[None]).detach()) < 1e-12


@pytest.mark.parametrize("part", [False, True])
def test_what_is_compiled_before_is_refused(part: bool) -> None:
    """A network, or a layer, that was compiled first shows none of its steps."""
    compiled = torch.compile(nn.Conv2d(3, 4, 3))
    with pytest.raises(ExactError, match="compiled; give the module itself, and compile the exact network"):
        make_exact(nn.Sequential(compiled) if part else compiled)
