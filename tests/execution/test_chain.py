"""Networks are taken apart into steps, and how far each step looks is found without knowing its code."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from unsquare.errors import ExactError
from unsquare.exact import make_exact
from unsquare.execution.chain import Chain, find_steps, map_elements_per_pixel
from unsquare.execution.receptive_field import NotLocalError, ReceptiveField, find_receptive_field
from unsquare.execution.tiling import Part
from unsquare.network.norms import freeze_batch_norms
from unsquare.torchvision_guard import import_timm

timm = import_timm()


class _Blocks(nn.Module):
    """Three convolutions, with something done between the second and the third."""

    def __init__(self, between: Callable[[Tensor], Tensor] = lambda x: x, *, skips: bool = False) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.two = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.three = nn.Conv2d(8, 4, 1)
        self.between, self.skips = between, skips

    def forward(self, x: Tensor) -> Tensor:
        """One after the other."""
        first = self.one(x)
        second = self.between(self.two(first))
        return self.three(second + first if self.skips else second)


def _paths(model: nn.Module) -> list[str]:
    return [step.path for step in find_steps(model)]


def test_steps_of_resnet18() -> None:
    """Stages are taken apart, residual blocks are not."""
    steps = find_steps(timm.create_model("resnet18", num_classes=0, global_pool=""))
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert [step.path for step in steps][:12] == ["conv1", "bn1", "act1", "maxpool", *blocks]
    assert [step.channels for step in steps][:12] == [3, 64, 64, 64, 64, 64, 64, 128, 128, 256, 256, 512]


def test_steps_of_convnext_atto() -> None:
    """Stem, blocks and what shrinks the map between stages."""
    steps = find_steps(timm.create_model("convnext_atto", num_classes=0, global_pool=""), "forward_features")
    paths = [step.path for step in steps]
    assert paths[:5] == ["stem.0", "stem.1", "stages.0.downsample", "stages.0.blocks.0", "stages.0.blocks.1"]
    assert [path for path in paths if "downsample." in path][:2] == ["stages.1.downsample.0", "stages.1.downsample.1"]
    assert sum(".blocks." in path for path in paths) == 2 + 2 + 6 + 2
    assert {step.path: step.channels for step in steps}["stages.3.blocks.1"] == 320


def test_steps_of_mobilenetv2() -> None:
    """Blocks without a skip are chains themselves and taken apart; those with one are steps."""
    paths = _paths(timm.create_model("mobilenetv2_050", num_classes=0, global_pool=""))
    assert paths[:4] == ["conv_stem", "bn1", "blocks.0.0.conv_dw", "blocks.0.0.bn1"]
    assert "blocks.1.1" in paths
    assert "blocks.1.0.conv_dw" in paths


def test_exact_models_have_the_steps_of_their_stock() -> None:
    """Making a model exact changes none of its steps."""
    stock = timm.create_model("test_resnet", num_classes=0, global_pool="")
    assert find_steps(make_exact(stock)) == find_steps(stock) != ()


@pytest.mark.parametrize(
    "between",
    [
        F.relu_,
        lambda x: x.mul_(2),
        lambda x: x * 2,
        lambda x: F.max_pool2d(x, 3, 1, 1),
        lambda x: x.flip(2),
        lambda x: F.relu(x, inplace=True),
    ],
    ids=["relu_", "mul_", "mul", "max_pool2d", "flip", "relu"],
)
def test_what_is_done_between_modules_breaks_the_chain(between: Callable[[Tensor], Tensor]) -> None:
    """A function between two modules is none of their steps, also where it writes into the map it is given."""
    assert _paths(_Blocks()) == ["one", "two.0", "two.1", "three"]
    assert find_steps(_Blocks(between)) == ()


def test_a_skip_across_modules_is_no_chain() -> None:
    """A map that is used again later crosses every cut between."""
    assert find_steps(_Blocks(skips=True)) == ()
    assert find_steps(timm.create_model("hrnet_w18_small", num_classes=0)) == ()


def test_a_map_used_twice_is_no_chain() -> None:
    """Two modules of the same map, of which the second one's is returned."""

    class Twice(_Blocks):
        def forward(self, x: Tensor) -> Tensor:
            self.two(self.one(x))
            return self.three(self.one(x))

    assert find_steps(Twice()) == ()


def test_what_is_no_chain_cannot_be_run_in_parts() -> None:
    """The error names the network and others that can."""
    with pytest.raises(ExactError, match=r"_Blocks is not a chain of blocks.*resnet50"):
        Chain(make_exact(_Blocks(skips=True)), "forward", lambda x: x)


def test_the_largest_map() -> None:
    """Elements for each pixel of the image, of the map that has most; inner ones count."""
    assert map_elements_per_pixel(_Blocks()) == pytest.approx(8)
    assert map_elements_per_pixel(timm.create_model("resnet18", num_classes=0, global_pool="")) == pytest.approx(16)


def _basic_block(stride: int) -> nn.Module:
    block = timm.models.resnet.BasicBlock
    shrunk = nn.Sequential(nn.Conv2d(8, 8, 1, stride), nn.BatchNorm2d(8)) if stride > 1 else None
    return block(8, 8, stride, shrunk).eval()


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (lambda: nn.Conv2d(8, 8, 3, padding=1), ReceptiveField(1, 0, 1, 1)),
        (lambda: nn.Conv2d(8, 8, 3), ReceptiveField(1, -2, 0, 2)),
        (lambda: nn.Conv2d(8, 8, 3, 2, 1), ReceptiveField(2, 1, 1, 1)),
        (lambda: nn.Conv2d(8, 8, 7, 2, 3), ReceptiveField(2, 1, 3, 3)),
        (lambda: nn.Conv2d(8, 8, 4, 4), ReceptiveField(4, 0, 0, 3)),
        (lambda: nn.Conv2d(8, 8, 3, padding=4, dilation=4), ReceptiveField(1, 0, 4, 4)),
        (lambda: nn.Conv2d(8, 8, 1, 2), ReceptiveField(2, 1, 0, 0)),
        (lambda: nn.Conv2d(8, 8, 3, 3, 1), ReceptiveField(3, 2, 1, 1)),
        (lambda: nn.MaxPool2d(3, 2, 1), ReceptiveField(2, 1, 1, 1)),
        (lambda: nn.MaxPool2d(2, 2, ceil_mode=True), ReceptiveField(2, 1, 0, 1)),
        (lambda: nn.AvgPool2d(2, 2, count_include_pad=False), ReceptiveField(2, 0, 0, 1)),
        (nn.ReLU, ReceptiveField(1, 0, 0, 0)),
        (lambda: nn.Hardswish(inplace=True), ReceptiveField(1, 0, 0, 0)),
        (lambda: _basic_block(1), ReceptiveField(1, 0, 2, 2)),
        (lambda: _basic_block(2), ReceptiveField(2, 1, 3, 3)),
        (lambda: nn.BatchNorm2d(8).eval(), ReceptiveField(1, 0, 0, 0)),
        (lambda: timm.layers.LayerNorm2d(8), ReceptiveField(1, 0, 0, 0)),
        (lambda: nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)), ReceptiveField(4, 3, 3, 3)),
        (lambda: make_exact(nn.Sequential(nn.Conv2d(8, 8, 5, padding=2)))[0], ReceptiveField(1, 0, 2, 2)),
    ],
)
def test_receptive_fields_of_known_steps(build: Callable[[], nn.Module], expected: ReceptiveField) -> None:
    """Along both axes, what paper and pencil give."""
    assert find_receptive_field(build(), 8, "step") == (expected, expected)


def test_receptive_fields_differ_by_axis() -> None:
    """Height first."""
    conv = nn.Conv2d(4, 4, (7, 1), stride=(2, 1), padding=(3, 0))
    assert find_receptive_field(conv, 4, "step") == (ReceptiveField(2, 1, 3, 3), ReceptiveField(1, 0, 0, 0))


def test_a_large_receptive_field() -> None:
    """Steps that look further than the first maps tried are looked at on larger ones."""
    convs = nn.Sequential(*(nn.Conv2d(2, 2, 3, padding=8, dilation=8) for _ in range(5)))
    assert find_receptive_field(convs, 2, "step")[0] == ReceptiveField(1, 0, 40, 40)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: nn.BatchNorm2d(8), r"stem\.bn \(BatchNorm2d\) computes statistics over all pixels.*--norm frozen"),
        (lambda: nn.Sequential(nn.ReLU(), nn.BatchNorm2d(8)), r"stem\.bn\.1 \(BatchNorm2d\) computes statistics"),
        (lambda: nn.BatchNorm2d(8, track_running_stats=False).eval(), r"\(BatchNorm2d\) computes statistics"),
        (lambda: timm.layers.SEModule(8, rd_channels=4), r"stem\.bn \(SEModule\) depends on the whole image"),
        (
            lambda: timm.models._efficientnet_blocks.SqueezeExcite(8),
            r"stem\.bn \(SqueezeExcite\) depends on the whole image",
        ),
        (lambda: nn.GroupNorm(2, 8), r"\(GroupNorm\) depends on the whole image"),
        (lambda: nn.AdaptiveAvgPool2d(1), r"depends on the whole image"),
        (lambda: nn.Dropout(0.1), r"stem\.bn \(Dropout\) draws random numbers for each pixel"),
        (lambda: nn.Sequential(nn.Dropout2d(0.1)), r"stem\.bn\.0 \(Dropout2d\) draws random numbers"),
        (lambda: nn.Upsample(scale_factor=2), r"depends on the whole image"),
    ],
)
def test_what_cannot_be_tiled_is_named(build: Callable[[], nn.Module], message: str) -> None:
    """By its path and class, and with what to do where something can be done."""
    with pytest.raises(NotLocalError, match=message):
        find_receptive_field(build(), 8, "stem.bn")


def test_what_is_local_in_evaluation_only() -> None:
    """Batch norm with statistics of its own, and dropout that drops nothing, look at one pixel."""
    steps = nn.Sequential(nn.BatchNorm2d(8), nn.Dropout(0.5))
    with pytest.raises(NotLocalError):
        find_receptive_field(steps, 8, "step")
    assert find_receptive_field(steps.eval(), 8, "step")[0] == ReceptiveField(1, 0, 0, 0)
    assert find_receptive_field(freeze_batch_norms(nn.Sequential(nn.BatchNorm2d(8))).train(), 8, "step")[0].before == 0
    assert find_receptive_field(nn.Dropout(0.0).train(), 8, "step")[1] == ReceptiveField(1, 0, 0, 0)


@settings(max_examples=40, deadline=None)
@given(
    kernel=st.integers(1, 5),
    stride=st.sampled_from([1, 2, 3, 4]),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 3),
    lengths=st.lists(st.integers(1, 400), min_size=1, max_size=12),
)
def test_lengths_are_those_of_the_step(
    kernel: int, stride: int, padding: int, dilation: int, lengths: list[int]
) -> None:
    """Whatever the window: the length promised is the length returned, and so is what a row needs."""
    span = dilation * (kernel - 1) + 1
    conv = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
    found = find_receptive_field(conv, 1, "step")[0]
    assert found == ReceptiveField(stride, 2 * padding - span + stride, padding, span - 1 - padding)
    for length in lengths:
        if length + 2 * padding >= span:
            assert found.length(length) == conv(torch.zeros(1, 1, length, span)).shape[2]


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "mobilenetv2_050"])
def test_lengths_of_whole_networks(name: str) -> None:
    """Step after step, regions come out as the map that the network returns, for sizes of every remainder."""
    model = timm.create_model(name, num_classes=0, global_pool="").eval()
    steps = [step for step in find_steps(model, "forward_features") if step.channels]
    part = Part(tuple(find_receptive_field(model.get_submodule(step.path), step.channels, step.path) for step in steps))
    sizes = torch.tensor([[33 + number, 101 - number] for number in range(0, 34, 5)])
    with torch.no_grad():
        expected = [list(model.forward_features(torch.zeros(1, 3, *size)).shape[2:]) for size in sizes.tolist()]
    assert part.sizes(sizes).tolist() == expected
    assert (part.stride(0), part.stride(1)) == (32, 32)


@settings(max_examples=200)
@given(
    stride=st.integers(1, 8),
    offset=st.integers(-8, 8),
    before=st.integers(0, 9),
    after=st.integers(0, 9),
    start=st.integers(0, 99),
    extra=st.integers(1, 99),
)
def test_rows_needed(stride: int, offset: int, before: int, after: int, start: int, extra: int) -> None:
    """A range of rows needs what its first and its last row need."""
    field = ReceptiveField(stride, offset, before, after)
    assume(before + after + 1 >= stride)
    low, high = field.needed(start, start + extra)
    assert (low, field.needed(start, start + 1)[0]) == (start * stride - before,) * 2
    assert high == field.needed(start + extra - 1, start + extra)[1]


@pytest.mark.parametrize("stride", [5, 7, 9, 10, 12, 14, 16, 32])
def test_any_stride_is_found_or_refused(stride: int) -> None:
    """Patches of any side: a stride that cannot be told is refused, not taken for another."""
    patches = nn.Conv2d(3, 4, stride, stride)
    try:
        found = find_receptive_field(patches, 3, "stem")[0]
    except NotLocalError:
        return
    assert found == ReceptiveField(stride, 0, 0, stride - 1)


def test_padding_that_depends_on_the_size() -> None:
    """With TensorFlow's 'same' padding rows begin at 2i or at 2i - 1: both count, and so do both ends."""
    found = find_receptive_field(timm.layers.Conv2dSame(3, 4, 3, 2), 3, "stem")[0]
    assert found == ReceptiveField(stride=2, offset=1, before=1, after=2)


def test_steps_with_buffers_alone() -> None:
    """A step without parameters is given maps of its buffers' type and device."""
    blur = timm.layers.BlurPool2d(4, pad_mode="constant")
    assert find_receptive_field(blur.double(), 4, "blur") == find_receptive_field(blur.float(), 4, "blur")


def test_looking_leaves_random_numbers_alone() -> None:
    """A run whose receptive fields are found again, after a resume, draws the same numbers as one that knows them."""
    step = nn.Conv2d(3, 4, 3)
    before = torch.get_rng_state()
    find_receptive_field(step, 3, "stem")
    assert torch.equal(torch.get_rng_state(), before)


def test_weights_of_steps(references: SimpleNamespace) -> None:
    """Bytes for each pixel: pixels are given as bytes, later maps as floats; strides follow the chain."""
    stock = references.stock_model("test_resnet", torch.float32, num_classes=0, global_pool="")
    chain = Chain(make_exact(stock), "forward", lambda pixels: pixels.float() / 255)
    weights = chain.weigh()
    assert len(weights) == len(chain.steps)
    assert weights[0].given_bytes == 3
    assert weights[0].given_stride == 1
    place = [step.path for step in chain.steps].index("layer2.0")
    channels = chain.steps[place].channels
    assert weights[place].given_stride == 4
    assert weights[place].given_bytes == pytest.approx(4 * channels / 16, rel=0.01)
    assert all(weight.is_local for weight in weights)
    assert all(weight.kept_bytes >= 0 for weight in weights)
    chain._model.train()
    first_norm = next(i for i, step in enumerate(chain.steps) if not chain.weigh()[i].is_local)
    assert isinstance(chain.module(first_norm), nn.BatchNorm2d)
