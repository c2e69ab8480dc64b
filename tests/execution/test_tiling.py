"""However a network is run in parts, its outputs and gradients are those of the network run as a whole."""

from __future__ import annotations

import copy
import gc
import os
import weakref
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from unsquare.exact import make_exact
from unsquare.exact.regions import Passes
from unsquare.exact.verify import reference
from unsquare.execution import offload
from unsquare.execution.chain import Chain
from unsquare.execution.cuts import checkpointed, tiled
from unsquare.execution.receptive_field import NotLocalError, ReceptiveField, find_receptive_field
from unsquare.execution.strategy import PLAIN, Segment, Strategy
from unsquare.execution.tiling import Part, TiledPart
from unsquare.network.classifier import Classifier
from unsquare.network.config import ModelConfig

_CUTS = {
    "resnet18": ("layer1", "layer2", "layer3"),
    "convnext_atto": ("stages.0", "stages.1", "stages.2"),
    "mobilenetv2_050": ("blocks.1", "blocks.2", "blocks.4"),
    "test_resnet": ("layer1", "layer2", "layer3"),
    "test_convnext": ("stages.0", "stages.1", "stages.2"),
    "tf_mobilenetv3_small_minimal_100": ("blocks.0", "blocks.1", "blocks.2"),
}
"""Where networks are cut: a quarter, half and three quarters of the way, or so."""


def _classifier(name: str, dtype: torch.dtype = torch.float64, **options: object) -> Classifier:
    """A classifier in training, its batch norms frozen, in which nothing hides behind a zero or a one."""
    return copy.deepcopy(_made(name, dtype, **options))


@cache
def _made(name: str, dtype: torch.dtype, **options: object) -> Classifier:
    torch.manual_seed(0)
    model = Classifier(ModelConfig(backbone=name, pool="avg", norm="frozen", **options), 5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.3, 0.3)
                module.running_var.uniform_(0.5, 1.5)
    model.train().chain().receptive_fields()  # in float32, which is faster; it draws numbers, too
    return model.to(dtype)


def _batch(sizes: list[tuple[int, int]], extra: tuple[int, int] = (3, 5)) -> tuple[Tensor, Tensor]:
    """A padded batch of such pictures, with garbage around them."""
    generator = torch.Generator().manual_seed(1)
    canvas = [max(size[axis] for size in sizes) + extra[axis] for axis in (0, 1)]
    pixels = torch.randint(0, 256, (len(sizes), 3, *canvas), generator=generator, dtype=torch.uint8)
    return pixels, torch.tensor(sizes)


def _run(
    model: Classifier,
    batch: tuple[Tensor, Tensor],
    strategy: Strategy = PLAIN,
    folder: Path | None = None,
    *,
    seed: int = 7,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Logits, and the gradient of each parameter."""
    model.zero_grad()
    torch.manual_seed(seed)
    logits = model(*batch, strategy, folder)
    weights = torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)
    (logits * weights).sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def _require_equal(
    found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]], most: float = 1e-10
) -> None:
    assert reference.relative_error(found[0], expected[0]) < most
    assert found[1].keys() == expected[1].keys()
    assert reference.largest_error(reference.gradient_errors(found[1], expected[1]).values()) < most


def _strategies(model: Classifier, name: str) -> dict[str, Strategy]:
    """One strategy of each kind, and some that combine several."""
    paths = [step.path for step in model.chain().steps]
    a, b, c = (next(i for i, path in enumerate(paths) if path.startswith(f"{cut}.")) for cut in _CUTS[name])
    end = len(paths)
    rest = Segment(b, c, "checkpoint"), Segment(c, end, "keep")
    checkpointed = Segment(0, a, "checkpoint"), Segment(a, b, "checkpoint"), *rest
    return {
        "keep": Strategy((Segment(0, b, "keep"), Segment(b, end, "keep"))),
        "checkpoint": Strategy(checkpointed),
        "checkpoint all": Strategy((Segment(0, end, "checkpoint"),)),
        "offload": Strategy(checkpointed, offload=True),
        "small tiles": Strategy((Segment(0, a, "tile", 23), Segment(a, b, "checkpoint"), *rest)),
        "tile": Strategy((Segment(0, b, "tile", 50), *rest)),
        "one tile": Strategy((Segment(0, b, "tile", 500), *rest)),
        "tile all": Strategy((Segment(0, end, "tile", 64),)),
        "two tiled parts": Strategy((Segment(0, a, "tile", 33), Segment(a, b, "tile", 12), *rest)),
        "everything": Strategy((Segment(0, a, "tile", 36), Segment(a, b, "checkpoint"), *rest), offload=True),
    }


@pytest.fixture(autouse=True)
def _small_tensors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors of small pictures are offloaded as well."""
    monkeypatch.setattr(offload, "LEAST_BYTES", 4096)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv2_050", "test_resnet"])
def test_every_strategy_gives_the_same(name: str, tmp_path: Path) -> None:
    """A padded batch of odd sizes: logits and all gradients agree to 1e-10, and no file is left."""
    model, batch = _classifier(name), _batch([(33, 67), (50, 33)])
    expected = _run(model, batch)
    for kind, strategy in _strategies(model, name).items():
        if name == "test_resnet" or kind in ("checkpoint", "offload", "tile", "two tiled parts", "everything"):
            _require_equal(_run(model, batch, strategy, tmp_path), expected)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "sizes"),
    [("test_resnet", [(97, 131)]), ("test_resnet", [(131, 97), (64, 130), (33, 40)]), ("test_convnext", [(97, 131)])],
)
def test_larger_pictures(name: str, sizes: list[tuple[int, int]]) -> None:
    """One picture without any padding, or three of very different sizes."""
    model, batch = _classifier(name), _batch(sizes, extra=(0, 0))
    expected, strategies = _run(model, batch), _strategies(model, name)
    for kind in ("tile", "tile all", "two tiled parts", "everything"):
        _require_equal(_run(model, batch, strategies[kind]), expected)


@pytest.mark.parametrize("offset", range(8))
def test_every_remainder_of_a_size(offset: int) -> None:
    """Sizes one pixel apart end at other phases of the strides."""
    model, batch = _classifier("test_resnet"), _batch([(64 + offset, 95 - offset)])
    _require_equal(_run(model, batch, _strategies(model, "test_resnet")["tile all"]), _run(model, batch))


def test_evaluation_without_gradients() -> None:
    """No gradient, no graph: the same logits."""
    model, batch = _classifier("test_resnet").eval(), _batch([(51, 83), (66, 33)])
    with torch.no_grad():
        expected = model(*batch)
        for strategy in _strategies(model, "test_resnet").values():
            assert reference.relative_error(model(*batch, strategy), expected) < 1e-10


def test_frozen_parameters_get_no_gradient() -> None:
    """A part of which nothing learns has no gradients, and the others have theirs."""
    model, batch = _classifier("test_resnet"), _batch([(51, 83)])
    strategies = _strategies(model, "test_resnet")
    for names in (("conv1.", "bn1."), ("layer1.",), ("conv1.", "bn1.", "layer1.", "layer2.")):
        for name, parameter in model.backbone.named_parameters():
            parameter.requires_grad_(not name.startswith(names))
        expected = _run(model, batch)
        for kind in ("checkpoint", "tile", "two tiled parts", "everything"):
            _require_equal(_run(model, batch, strategies[kind]), expected)


def test_gradients_add_up_over_micro_batches() -> None:
    """A second backward pass adds to the gradients of the first, also where two graphs are alive at once."""
    model = _classifier("test_resnet")
    strategy = _strategies(model, "test_resnet")["everything"]
    batches = [_batch([(51, 83)]), _batch([(40, 33), (64, 70)])]
    parts = [{name: grad.clone() for name, grad in part.items()} for part in (_run(model, b)[1] for b in batches)]
    model.zero_grad()
    torch.manual_seed(7)
    losses = []
    for batch in batches:
        logits = model(*batch, strategy)
        losses.append((logits * torch.linspace(-1, 1, logits.numel(), dtype=logits.dtype).view_as(logits)).sum())
    for loss in losses:
        loss.backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, parts[0][name] + parts[1][name], rtol=1e-9, atol=1e-11)


def test_checkpointed_batch_norms_count_a_batch_once(tmp_path: Path) -> None:
    """Batch norms in training: the same gradients, and running statistics moved once."""
    torch.manual_seed(0)
    model = Classifier(ModelConfig(backbone="test_resnet", pool="avg"), 5).double().train()
    batch, buffers = _batch([(51, 83), (66, 33)]), {name: b.clone() for name, b in model.named_buffers()}
    found = []
    strategies = _strategies(model, "test_resnet")
    for strategy in (PLAIN, strategies["checkpoint"], strategies["offload"]):
        model.load_state_dict(buffers, strict=False)
        found.append((_run(model, batch, strategy, tmp_path), {name: b.clone() for name, b in model.named_buffers()}))
    for outcome, after in found[1:]:
        _require_equal(outcome, found[0][0])
        for name, value in found[0][1].items():
            torch.testing.assert_close(after[name], value, rtol=1e-10, atol=1e-12)
    with pytest.raises(NotLocalError, match="--norm frozen"):
        model(*batch, strategies["tile"])


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_paths_dropped_alike(name: str) -> None:
    """One picture drops the same paths however it is run, from one seed; the numbers drawn next are the same, too."""
    model, batch = _classifier(name, drop_path=0.5, dropout=0.3), _batch([(61, 75)])
    strategies = _strategies(model, name)
    for seed in range(2):
        expected = _run(model, batch, seed=seed)
        after = torch.rand(3)
        for kind in ("checkpoint", "offload", "tile", "two tiled parts"):
            _require_equal(_run(model, batch, strategies[kind], seed=seed), expected)
            assert torch.equal(torch.rand(3), after)


def test_paths_dropped_for_each_picture() -> None:
    """Of several pictures each draws its own numbers, the same for all of its tiles, whatever their size."""
    model, batch = _classifier("test_convnext", drop_path=0.5), _batch([(75, 98)] * 3)
    batch[0][:] = batch[0][:1].clone()  # one picture thrice
    end = len(model.chain().steps)
    found = [_run(model, batch, Strategy((Segment(0, end, "tile", side),))) for side in (500, 64)]
    for other in found[1:]:
        _require_equal(other, found[0])
    assert len(set(map(tuple, found[0][0].tolist()))) > 1


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext"])
def test_under_autocast(name: str) -> None:
    """In bfloat16 the strategies differ from each other by its rounding, no more than the plain run does from
    float32."""
    model, batch = _classifier(name, torch.float32), _batch([(75, 98), (50, 64)])
    exact = _run(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(*batch)
    plain = _run_in_bfloat16(model, batch, PLAIN)
    assert logits.dtype == plain[0].dtype
    worst = max(reference.gradient_errors(plain[1], exact[1]).values())
    for kind, strategy in _strategies(model, name).items():
        found = _run_in_bfloat16(model, batch, strategy)
        assert found[0].dtype == plain[0].dtype
        assert all(grad.dtype == torch.float32 for grad in found[1].values())
        errors = [reference.relative_error(outputs, exact[0]) for outputs in (found[0], plain[0])]
        assert errors[0] < 2 * errors[1] + 2**-8, kind
        assert max(reference.gradient_errors(found[1], exact[1]).values()) < 2 * worst, kind


def _run_in_bfloat16(
    model: Classifier, batch: tuple[Tensor, Tensor], strategy: Strategy
) -> tuple[Tensor, dict[str, Tensor]]:
    """As the loop does it: forward under autocast, backward outside."""
    model.zero_grad()
    torch.manual_seed(7)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(*batch, strategy)
    (logits * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return logits.detach(), {name: p.grad for name, p in model.named_parameters()}


def test_what_is_offloaded_leaves_nothing_behind(tmp_path: Path) -> None:
    """Files have no name, are open between forward and backward, and closed after it, or when the loss is let go."""
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open files are counted in /proc")
    model, batch = _classifier("test_resnet"), _batch([(75, 98), (50, 64)])
    strategy = _strategies(model, "test_resnet")["everything"]

    def num_open() -> int:
        gc.collect()
        return len(os.listdir("/proc/self/fd"))

    before = num_open()
    loss = model(*batch, strategy, tmp_path).sum()
    assert num_open() > before
    assert not list(tmp_path.iterdir())
    loss.backward()
    assert num_open() == before
    loss = model(*batch, strategy, tmp_path).sum()
    assert num_open() > before
    del loss
    assert num_open() == before
    assert not list(tmp_path.iterdir())
    with pytest.raises(FileNotFoundError):
        model(*batch, strategy, tmp_path / "missing")
    assert num_open() == before


def _saved_bytes(model: Classifier, batch: tuple[Tensor, Tensor], strategy: Strategy) -> int:
    """Bytes of all maps that forward keeps for backward."""
    seen = {tensor.data_ptr() for tensor in [*model.parameters(), *model.buffers(), *batch]}
    sizes: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            sizes.append(storage.nbytes())
        return tensor

    with saved_tensors_hooks(note, lambda tensor: tensor):
        kept = model(*batch, strategy)
    assert kept.requires_grad  # alive until here, so that no memory is seen twice
    return sum(sizes)


def test_strategies_keep_less() -> None:
    """Tiling keeps far less than checkpointing does, and that far less than the plain run."""
    model, batch = _classifier("test_resnet"), _batch([(256, 256)], extra=(0, 0))
    strategies = _strategies(model, "test_resnet")
    plain, checkpointed, tiled = (
        _saved_bytes(model, batch, strategy) for strategy in (PLAIN, strategies["checkpoint"], strategies["tile"])
    )
    assert checkpointed < plain / 3
    assert tiled < checkpointed


def test_weighing_keeps_nothing() -> None:
    """The maps of the small pictures that are run go with their graphs, although no backward pass comes."""
    chain = _classifier("resnet10t", torch.float32).chain()
    maps: list[weakref.ref[Tensor]] = []
    for step in range(len(chain.steps)):
        chain.module(step).register_forward_hook(lambda module, given, returned: maps.append(weakref.ref(returned)))
    chain.weigh()
    gc.collect()
    assert len(maps) == 2 * len(chain.steps)
    assert not any(each() is not None for each in maps)


def test_planned_strategies_give_the_same() -> None:
    """The strategies that `cuts` would choose, with tiles as small as these pictures need."""
    model, batch = _classifier("test_convnext"), _batch([(64, 75)])
    weights = model.chain().weigh()
    expected = _run(model, batch)
    strategies = {each.strategy.segments: each.strategy for each in tiled(weights)[::40]}
    for strategy in [checkpointed(weights), checkpointed(weights, offload=True), *strategies.values()]:
        segments = tuple(
            Segment(each.start, each.stop, each.how, max(1, each.tile_side // 20)) if each.how == "tile" else each
            for each in strategy.segments
        )
        _require_equal(_run(model, batch, Strategy(segments, strategy.offload)), expected)


@pytest.mark.parametrize("how", ["checkpoint", "tile"])
def test_a_cut_before_a_step_that_works_in_place(how: str) -> None:
    """timm's ReLU writes into the map that it is given; a part may begin with it all the same."""
    model, batch = _classifier("test_resnet"), _batch([(75, 98)])
    paths = [step.path for step in model.chain().steps]
    place, end = paths.index("act1"), len(paths)
    segments = {
        "checkpoint": (Segment(0, place, "keep"), Segment(place, end, "checkpoint")),
        "tile": (Segment(0, place, "tile", 50), Segment(place, end, "keep")),
    }
    _require_equal(_run(model, batch, Strategy(segments[how])), _run(model, batch))


def test_a_cut_before_a_step_that_works_in_place_offloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Maps too small for a file are kept as they were given, whatever is written into them."""
    monkeypatch.setattr(offload, "LEAST_BYTES", 1 << 20)
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3, padding=1), nn.SiLU(inplace=True), nn.Conv2d(4, 4, 3, padding=1)
    model = make_exact(nn.Sequential(*layers).double())
    chain = Chain(model, "forward", lambda pixels: pixels.double())
    batch, found = _batch([(20, 30)]), []
    strategy = Strategy((Segment(0, 1, "checkpoint"), Segment(1, 3, "checkpoint")), offload=True)
    for run in (lambda: model(batch[0].double(), batch[1]), lambda: chain.run(strategy, *batch)):
        model.zero_grad()
        run().square().sum().backward()
        found.append(model[2].weight.grad)
    assert reference.relative_error(found[1], found[0]) < 1e-10


def test_padding_that_depends_on_the_size() -> None:
    """TensorFlow's padding differs between even and odd sizes; tiles are padded as their picture is."""
    name = "tf_mobilenetv3_small_minimal_100"
    model, batch = _classifier(name), _batch([(75, 64)])
    _require_equal(_run(model, batch, _strategies(model, name)["tile"]), _run(model, batch))


class _Scaled(nn.Module):
    """Two parameters that are added to each other: autograd gives both one and the same gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.ones(1, 3, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Scaled by their sum."""
        return x * (self.one + self.two)


def test_parameters_that_share_a_gradient() -> None:
    """Sums over tiles are each parameter's own."""
    module, x = _Scaled(), torch.rand(1, 3, 40, 30)
    tiled_part = TiledPart(Part((find_receptive_field(module, 3, "step"),)), [module], Passes(), None, 16)
    tiled_part(x, torch.tensor([[40, 30]])).sum().backward()
    for parameter in module.parameters():
        torch.testing.assert_close(parameter.grad.flatten(), x.sum(dim=(0, 2, 3)))


@st.composite
def _receptive_field(draw: st.DrawFn) -> ReceptiveField:
    """The receptive field of a window."""
    kernel, dilation, stride = draw(st.integers(1, 7)), draw(st.integers(1, 3)), draw(st.integers(1, 4))
    span = dilation * (kernel - 1) + 1
    padding = draw(st.integers(0, span // 2))
    return ReceptiveField(stride, 2 * padding - span + stride, padding, span - 1 - padding)


@settings(max_examples=300, deadline=None)
@given(
    receptive_fields=st.lists(_receptive_field(), min_size=1, max_size=4),
    length=st.integers(1, 700),
    most=st.integers(1, 300),
)
def test_tiles_cover_the_map_once(receptive_fields: list[ReceptiveField], length: int, most: int) -> None:
    """Near-equal tiles, one after another; their inputs hold what they need and begin at multiples of the stride."""
    part = Part(tuple((field, field) for field in receptive_fields))
    lengths = [length]
    for field in receptive_fields:
        lengths.append(field.length(lengths[-1]))
    assume(min(lengths) >= 1)
    stride = part.stride(1)
    tiles = part.tiles(length, most, 1)
    assert [tile.start for tile in tiles] == [0, *(tile.end for tile in tiles[:-1])]
    assert tiles[-1].end == part.length(length, 1) == lengths[-1]
    sides = [tile.end - tile.start for tile in tiles]
    assert min(sides) >= 1
    assert max(sides) - min(sides) <= 1
    for tile in tiles:
        low, high = part.needed(tile.start, tile.end, 1)
        assert 0 <= tile.input_start <= max(low, 0)
        assert min(high, length) <= tile.input_end <= length
        assert tile.input_start % stride == 0
        assert (length - tile.input_end) % stride == 0
        assert tile.inside * stride == tile.start * stride - tile.input_start
        assert tile.inside + tile.end - tile.start <= part.length(tile.input_end - tile.input_start, 1)
        assert tile.input_end - tile.input_start <= max(most, part.halo(1) + stride) + 2 * (stride - 1)


@settings(max_examples=25, deadline=None)
@given(
    windows=st.lists(
        st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 2), st.integers(1, 2)), min_size=1, max_size=3
    ),
    size=st.tuples(st.integers(20, 70), st.integers(20, 70)),
    tile_side=st.integers(1, 60),
)
def test_tiles_of_any_windows(windows: list[tuple[int, int, int, int]], size: tuple[int, int], tile_side: int) -> None:
    """Stacks of any convolutions: the map, the parameters' gradients and the given map's are those of the whole."""
    torch.manual_seed(0)
    modules, receptive_fields, lengths = [], [], list(size)
    for kernel, stride, padding, dilation in windows:
        span = dilation * (kernel - 1) + 1
        conv = nn.Conv2d(2, 2, kernel, stride, min(padding, span // 2), dilation).double()
        field = ReceptiveField(stride, 2 * conv.padding[0] - span + stride, conv.padding[0], span - 1 - conv.padding[0])
        lengths = [field.length(length) for length in lengths]
        modules += [conv, nn.Tanh()]
        receptive_fields += [(field, field), (ReceptiveField(1, 0, 0, 0),) * 2]
    assume(min(lengths) >= 1)
    x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)
    expected = nn.Sequential(*modules)(x)
    found = TiledPart(Part(tuple(receptive_fields)), modules, Passes(), None, tile_side)(x, torch.tensor([size]))
    assert reference.relative_error(found, expected) < 1e-12
    wanted = [x, *(parameter for module in modules for parameter in module.parameters())]
    grad = torch.randn_like(expected)
    for one, other in zip(torch.autograd.grad(found, wanted, grad), torch.autograd.grad(expected, wanted, grad)):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-11 * max(1.0, float(other.abs().max())))
