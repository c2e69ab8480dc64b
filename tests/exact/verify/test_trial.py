"""What following cannot see is refused by name, or found by trying the exact network out."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from unsquare.errors import ExactError
from unsquare.exact import make_exact
from unsquare.exact.ops import strips


def _chain() -> nn.Sequential:
    body = [nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))


class _Back(torch.autograd.Function):
    """The map itself, with a backward pass of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, back: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.back = back
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.back(grad), None


class _WithBack(nn.Module):
    def __init__(self, back: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.back = back

    def forward(self, x: Tensor) -> Tensor:
        return _Back.apply(x, self.back)


@pytest.mark.parametrize(
    "back", [lambda grad: grad.roll(1, 3), lambda grad: grad - grad.mean((2, 3), keepdim=True), lambda grad: grad + 1]
)
def test_a_backward_pass_that_looks_sideways_is_found(back: Callable[[Tensor], Tensor]) -> None:
    """A function whose gradient mixes pixels, or is not zero where it should be, is refused with the distance."""
    net = _chain()
    net[2] = _WithBack(back)
    with pytest.raises(ExactError, match=r"in evaluation the gradients of a padded batch differ .* by \d\.\de"):
        make_exact(net)


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_a_backward_pass_of_one_mode_alone_is_found(mode: str) -> None:
    """Gradients are tried in both modes: what a network does in one of them says nothing of the other."""

    class InOneMode(_WithBack):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.training == (mode == "training") else x

    net = _chain()
    net[2] = InOneMode(lambda grad: grad.roll(1, 3))
    with pytest.raises(ExactError, match=f"in {mode} the gradients of a padded batch differ"):
        make_exact(net)


def test_a_backward_pass_of_ones_own_is_no_fault() -> None:
    """A function whose gradient keeps pixels apart passes."""
    net = _chain()
    net[2] = _WithBack(lambda grad: grad * 2)
    make_exact(net)


@pytest.mark.parametrize(
    "mix", [lambda v: v - v.mean(0), lambda v: F.softmax(v, 0), lambda v: v @ v.T @ v, lambda v: F.normalize(v, dim=0)]
)
def test_vectors_that_mix_images_are_found(mix: Callable[[Tensor], Tensor]) -> None:
    """After the pool no map is left to follow; what one image gives must not depend on the others there either."""

    class Mixing(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return mix(v)

    with pytest.raises(ExactError, match="in evaluation the outputs of a padded batch differ"):
        make_exact(nn.Sequential(*_chain(), Mixing()))


@pytest.mark.parametrize("mix", [lambda v: v + v.roll(2, 0), lambda v: v + v[-1:]])
def test_vectors_that_mix_images_of_larger_batches_are_found(mix: Callable[[Tensor], Tensor]) -> None:
    """Two images would not show every mixture: the batch in evaluation has seven."""
    test_vectors_that_mix_images_are_found(mix)


@pytest.mark.parametrize("cut", [lambda v: v[:4], lambda v: v.split(4)[0]])
def test_outputs_of_some_images_alone_are_found(cut: Callable[[Tensor], Tensor]) -> None:
    """A network whose output has a row for each of three images, and not for each of seven, is refused."""

    class Cutting(nn.Module):
        def forward(self, v: Tensor) -> Tensor:
            return cut(v)

    with pytest.raises(ExactError, match=r"7 images give \d rows of outputs"):
        make_exact(nn.Sequential(*_chain(), Cutting()))


@pytest.mark.parametrize("mode", ["training", "evaluation"])
def test_gradients_of_evaluation_are_tried_where_training_is_random(mode: str) -> None:
    """Noise in training tells nothing of its gradients, so those of evaluation are compared."""

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(1, 4, 1, 1, device=x.device) if self.training else x

    class Back(_WithBack):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) if self.training == (mode == "training") else x

    net = nn.Sequential(*_chain()[:2], Back(lambda grad: grad.roll(1, 3)), Noise(), *_chain()[3:])
    if mode == "training":  # nothing to compare
        make_exact(net)
    else:
        with pytest.raises(ExactError, match="in evaluation the gradients of a padded batch differ"):
            make_exact(net)


class _Net(nn.Module):
    """A network that makes one vector per image by a step of its own."""

    def __init__(self, step: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.head, self.step = nn.Conv2d(3, 4, 3, 2, 1), nn.Linear(4, 5), step

    def forward(self, x: Tensor) -> Tensor:
        return self.step(self, x)


def _vectors(net: Any, x: Tensor) -> Tensor:
    return net.conv(x).mean((2, 3))


def _for_multiples(net: Any, x: Tensor) -> Tensor:
    assert x.shape[2] % 32 == 0
    return _vectors(net, x)


def _for_large(net: Any, x: Tensor) -> Tensor:
    if min(x.shape[2:]) < 300:
        raise ValueError("too small")
    return _vectors(net, x)


@pytest.mark.parametrize("vectors", [_for_multiples, _for_large])
def test_networks_that_refuse_small_images_are_tried_with_others(vectors: Callable[[Any, Tensor], Tensor]) -> None:
    """Sizes that a network refuses show nothing of it, so larger ones and multiples follow."""
    make_exact(_Net(vectors))
    with pytest.raises(ExactError, match="in evaluation the outputs of a padded batch differ"):
        make_exact(_Net(lambda net, x: vectors(net, x).softmax(0)))


def test_a_network_that_cannot_be_tried_is_refused() -> None:
    """Where no unpadded image runs through the stock network, nothing shows that its exact form is right."""

    class UnlikeError(Exception):
        pass

    def step(net: Any, x: Tensor) -> Tensor:
        if not x.is_meta:
            raise UnlikeError("not today")
        return _vectors(net, x)

    with pytest.raises(ExactError, match=r"in evaluation the stock network fails, .*\(not today\)"):
        make_exact(_Net(step))


def test_a_backward_pass_that_fails_is_the_stock_networks() -> None:
    """Two activations in place, one behind the other, have no gradient in the stock network either."""

    def fails(net: Any, x: Tensor) -> Tensor:
        y = net.conv(x).sigmoid()
        return net.head((y + y.mul_(2)).mean((2, 3)))

    with pytest.raises(ExactError, match=r"in training the stock network fails, .*inplace operation"):
        make_exact(_Net(fails))


def test_chance_excuses_no_more_than_it_explains() -> None:
    """A difference far above that of two runs of the stock network is none of chance."""

    def step(net: Any, x: Tensor) -> Tensor:
        v = _vectors(net, x)
        return v - v.mean(0) + 1e-12 * torch.randn_like(v) if net.training else v

    with pytest.raises(ExactError, match="in training the outputs of a padded batch differ"):
        make_exact(_Net(step))


def test_random_numbers_stand_where_they_stood() -> None:
    """Python's and NumPy's too: the trial draws the same ones each time, and none of the caller's."""
    drawn: list[tuple[float, float]] = []

    def step(net: Any, x: Tensor) -> Tensor:
        drawn.append((random.random(), np.random.random()))  # noqa: NPY002
        return _vectors(net, x)

    before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    make_exact(_Net(step))
    first, drawn = drawn, []
    make_exact(_Net(step))
    assert drawn == first
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # noqa: NPY002


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (lambda net, x: F.adaptive_avg_pool2d(net.conv(x), 1).squeeze(), "gives outputs of other shapes"),
        (lambda net, x: (_vectors(net, x) - 10).log(), "are NaN"),
    ],
)
def test_shapes_and_nan_are_told_as_such(step: Callable[[Any, Tensor], Tensor], message: str) -> None:
    """An infinite distance, or none, is said in words."""
    with pytest.raises(ExactError, match=message):
        make_exact(_Net(step))


@pytest.mark.parametrize("reentrant", [True, False])
def test_calls_in_checkpointed_functions_are_refused(reentrant: bool) -> None:
    """A call that is made again in backward is replaced there only within a module of its own."""

    def stem(net: Any, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(net.conv(x)), 3, 2, 1)

    def step(net: Any, x: Tensor) -> Tensor:
        return net.head(checkpoint(stem, net, x, use_reentrant=reentrant).mean((2, 3)))

    with pytest.raises(ExactError, match="calls max_pool2d in a checkpointed function"):
        make_exact(_Net(step))
    make_exact(_Net(lambda net, x: net.head(checkpoint(net.conv, x, use_reentrant=reentrant).mean((2, 3)))))


def test_a_function_that_reaches_the_original_is_refused() -> None:
    """A copy of a lambda kept on the network uses the layers of the network that was copied."""
    net = _Net(lambda net, x: net.head(net.stem(x).mean((2, 3))))
    net.stem = lambda x: F.relu(net.conv(x))
    with pytest.raises(ExactError, match="that it reaches through a function stored on it"):
        make_exact(net)


def test_a_call_of_its_own_is_refused() -> None:
    """Its exact form is called by its own `__call__`, which would take sizes for something else."""

    class Called(nn.Sequential):
        def __call__(self, x: Tensor) -> Tensor:
            return super().__call__(x * 2)

    with pytest.raises(ExactError, match="overrides __call__"):
        make_exact(Called(nn.Conv2d(3, 4, 3)))


def test_what_is_above_zero_stays_so() -> None:
    """Weights drawn anew for the trial do not turn a root of a buffer into NaN."""
    net = _Net(lambda net, x: net.head(_vectors(net, x) / net.spread.sqrt()))
    net.register_buffer("spread", torch.ones(4))
    make_exact(net)


def test_a_leak_of_our_own_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The trial can fail: without zeros outside the regions nothing passes it."""
    monkeypatch.setattr(strips, "fill", lambda x, regions, value: None)
    with pytest.raises(ExactError, match="differ from those of each image alone"):
        make_exact(_chain())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda n: n[0].register_forward_hook(lambda m, i, o: o.roll(1, 3)), "uses roll"),
        (lambda n: n[2].register_forward_hook(lambda m, i, o: o.flip(3)), "uses flip"),
        (lambda n: n[1].register_forward_pre_hook(lambda m, i: (i[0].roll(1, 3),)), "uses roll"),
        (lambda n: n.register_forward_hook(lambda m, i, o: o * 2), "the network itself has a hook"),
        (lambda n: n.register_forward_pre_hook(lambda m, i: (i[0] + 1,)), "the network itself has a hook"),
        (lambda n: n[1].register_full_backward_hook(lambda m, i, o: None), r"1 \(Conv2d\) .*a hook on its gradients"),
        (lambda n: n[1].register_full_backward_pre_hook(lambda m, o: None), "a hook on its gradients"),
        (lambda n: n[1].weight.register_hook(lambda grad: grad * 2), "a parameter has a hook"),
        (lambda n: n[1].weight.register_post_accumulate_grad_hook(lambda p: None), "a parameter has a hook"),
        (lambda n: setattr(n[1], "forward", lambda x: x), "its forward was replaced"),
        (lambda n: n.insert(0, nn.LazyConv2d(3, 3)), r"0 \(LazyConv2d\) .*no weights yet"),
        (lambda n: n.insert(0, nn.DataParallel(nn.Conv2d(3, 3, 3))), "wrapped for several devices"),
    ],
)
def test_what_cannot_be_seen_is_refused_by_name(change: Callable[[nn.Sequential], Any], message: str) -> None:
    """Hooks that mix pixels, hooks on gradients, wrappers and lazy layers are refused with what to do instead."""
    net = _chain()
    change(net)
    with pytest.raises(ExactError, match=message):
        make_exact(net)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_torchscript_is_refused() -> None:
    """A compiled network shows none of its steps."""
    with pytest.raises(ExactError, match="compiled by TorchScript"):
        make_exact(torch.jit.script(_chain()))


@pytest.mark.parametrize(
    "change",
    [
        lambda n: n[0].register_forward_hook(lambda m, i, o: o * 2 + 1),
        lambda n: n[1].register_forward_hook(lambda m, i, o: F.max_pool2d(o, 2)),
        lambda n: n[0].register_forward_hook(lambda m, i, o: F.pad(o, (1, 1, 1, 1))),
        lambda n: n[1].register_forward_pre_hook(lambda m, i: (i[0] + 1,)),
        lambda n: n[1].register_forward_hook(lambda m, i, o: None),
    ],
)
def test_hooks_that_keep_pixels_apart_are_part_of_the_network(
    change: Callable[[nn.Sequential], Any], references: Any
) -> None:
    """A hook is followed as the code around its layer is, and the exact network agrees with unpadded images."""
    net = _chain().double()
    change(net)
    images = references.unpadded_images([(40, 30), (20, 33)])
    pixels, sizes = references.padded(images, extra=(3, 5))
    expected = torch.cat([net(image[None]) for image in images])
    assert references.error(make_exact(net)(pixels, sizes), expected) < 1e-12


def test_nothing_around_the_trial_changes() -> None:
    """Trying out draws from no random state of the caller's, and runs under `no_grad` and automatic precision alike."""
    net = _chain()
    before, state = {name: value.clone() for name, value in net.state_dict().items()}, torch.get_rng_state()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        make_exact(net)
    with torch.inference_mode():
        make_exact(net)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
