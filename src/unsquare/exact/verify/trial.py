"""Looks for what following a model cannot see: before it is followed, by its modules; afterwards, by trying it out.

Following sees every step of a forward pass. It does not see what hooks do to gradients, the backward pass of a model's
own functions, or what happens in code that PyTorch does not show (TorchScript). The first and last are refused by
name. The rest is measured: padded batches of small images, filled with NaN, against each image alone. In evaluation
a batch of seven shows what mixes images after the pool; gradients are those of training, and of evaluation where a
step has a backward pass of its own, or where training draws random numbers and tells nothing.
"""

from __future__ import annotations

import copy
import random
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import isinf, isnan

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from unsquare.errors import ExactError
from unsquare.exact.model import side_multiple
from unsquare.exact.registry import is_known, stock_class
from unsquare.exact.verify.comparison import (
    NondeterministicError,
    Reference,
    StockRunError,
    Tolerance,
    drawn_images,
    leak,
    output_leak,
)
from unsquare.exact.verify.reference import randomized, shared_norms, without_chance
from unsquare.torch_private import has_forward_hook, has_gradient_hook, has_tensor_hook, is_compiled

# Portrait, landscape and a small one, of odd sides and even ones; the first is as high as the canvas, the second as
# wide. Sides that stay odd while they are halved show windows that reach one pixel over an edge. Models that refuse
# images so small, or sides that are no multiples, are tried with others.
_SIZES = (
    ((40, 25), (25, 38), (24, 31)),
    ((64, 49), (49, 65), (34, 39)),
    ((256, 192), (192, 320), (192, 192)),
    ((264, 232), (225, 256), (225, 232)),
    ((384, 320), (320, 448), (320, 320)),
)
# The batch in evaluation, by place: a number of images that no stride over them, of two or of four say, divides.
_ORDER = (0, 1, 2, 0, 2, 1, 1)
# What float32 leaves in doubt is tried again in float64, where depthwise convolutions take ten times as long.
_TOLERANCES = {torch.float32: Tolerance(1e-4, 1e-3, allowance=0), torch.float64: Tolerance(1e-9, 1e-9, allowance=100)}
_LARGEST_PARAMETER = 1 << 13


def check_modules(model: nn.Module) -> None:
    """Raise ExactError where a model has parts whose steps cannot be seen."""
    for path, module in model.named_modules():
        if (reason := _unseen(module, is_root=not path)) is not None:
            where = f"{path} ({stock_class(module).__name__}) of " if path else ""
            raise ExactError(f"{where}{stock_class(model).__name__} cannot be made padding-exact: {reason}.")


def _unseen(module: nn.Module, *, is_root: bool) -> str | None:
    if isinstance(module, (torch.jit.ScriptModule, torch.jit.ScriptFunction)):
        return "it is compiled by TorchScript, whose steps cannot be traced; give the Python module it was made from"
    if is_compiled(module):
        return "it is compiled; give the module itself, and compile the exact network"
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return "it is wrapped for several devices; give the module itself, and wrap the exact network"
    if any(is_lazy(tensor) for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False))):
        return "it has no weights yet; run it once, so that its lazy layers take their shape"
    if "forward" in vars(module) and (is_root or is_known(module)):
        return "its forward was replaced on the instance; define it in a class instead"
    if has_gradient_hook(module):
        return "it has a hook on its gradients, where tracing sees nothing; register it on the exact network instead"
    if any(map(has_tensor_hook, module.parameters(recurse=False))):
        return (
            "a parameter has a hook on its gradient, which a copy would lose; register it on the exact network instead"
        )
    if is_root and type(module).__call__ is not nn.Module.__call__:
        return "its class overrides __call__, which the exact network would bypass; move that code into forward"
    if is_root and has_forward_hook(module):
        return "the network itself has a hook, which would see padding; register it on the exact network instead"
    return None


def try_out(exact: nn.Module, stock: nn.Module) -> None:
    """Raise ExactError where an exact model gives small images something else than the stock model each alone.

    Weights and statistics are drawn at random, away from 0 and 1, where leaks hide; layers draw no random numbers. Call
    it within `aside`.
    """
    stock = _prepared(stock)
    exact = _with_weights_of(stock, exact)
    for find, training in ((_leak_in_evaluation, False), (_leak_in_training, True)):
        refusal: ExactError | None = None
        for dtype in _TOLERANCES:
            refusal = _over_sizes(find, exact.to(dtype).train(training), stock.to(dtype).train(training))
            if refusal is None:
                break
        if refusal is not None:
            raise refusal


def _over_sizes(
    find: Callable[[nn.Module, nn.Module, list[Tensor]], ExactError | None], exact: nn.Module, stock: nn.Module
) -> ExactError | None:
    """What is found on images of the first sizes that the stock model takes in its mode."""
    multiple = side_multiple(exact)
    failure: ExactError | None = None
    for sides in _SIZES:
        sizes = [(_rounded_up(height, multiple), _rounded_up(width, multiple)) for height, width in sides]
        try:
            return find(exact, stock, drawn_images(sizes, stock, seed=0))
        except NondeterministicError:
            raise
        except StockRunError as error:
            failure = failure or _refused(
                stock,
                f"it cannot be tested, because in {_mode(stock)} the stock network fails, forward or backward, on "
                f"images of every size tried, 24 to 448 pixels a side ({str(error.__cause__).rstrip('.')}); change it "
                "so that it takes some of them",
            )
        except Exception as error:  # the model's code may raise anything
            failure = _refused(stock, f"in {_mode(stock)} it fails on a padded batch ({str(error).rstrip('.')})")
            failure.__cause__ = error
    return failure


def _leak_in_evaluation(exact: nn.Module, stock: nn.Module, images: list[Tensor]) -> ExactError | None:
    """A leak of outputs, and of gradients where a step has a backward pass of its own."""
    tolerance = _TOLERANCES[images[0].dtype]
    reference = Reference.of(stock, images)
    order = range(len(images)) if shared_norms(stock) else _ORDER
    error = output_leak(exact, reference, order, tolerance)
    if error is not None:
        return _leaking(stock, "outputs", error)
    found = leak(exact, reference, tolerance) if reference.has_own_backward else None
    return None if found is None else _leaking(stock, *found)


def _leak_in_training(exact: nn.Module, stock: nn.Module, images: list[Tensor]) -> ExactError | None:
    """A leak of outputs or gradients; of those in evaluation where training is random."""
    tolerance = _TOLERANCES[images[0].dtype]
    try:
        found = leak(exact, Reference.of(stock, images), tolerance)
    except NondeterministicError:
        found = leak(exact.eval(), Reference.of(stock.eval(), images), tolerance)
    return None if found is None else _leaking(stock, *found)


def _leaking(stock: nn.Module, what: str, distance: float) -> ExactError:
    if isinf(distance):
        differ = f"a padded batch gives {what} of other shapes than each image alone"
    elif isnan(distance):
        differ = f"the {what} of a padded batch, or of an image alone, are NaN"
    else:
        differ = f"the {what} of a padded batch differ from those of each image alone by {distance:.1e} of the largest"
    return _refused(
        stock,
        f"in {_mode(stock)} {differ}, so it has operations that tracing does not see. Look for custom backward "
        "passes, values that mix the images of a batch, and numbers taken from sizes",
    )


def _refused(stock: nn.Module, reason: str) -> ExactError:
    return ExactError(f"{stock_class(stock).__name__} cannot be made padding-exact: {reason}.")


def _mode(stock: nn.Module) -> str:
    return "training" if stock.training else "evaluation"


def _prepared(model: nn.Module) -> nn.Module:
    """A copy whose small parameters take gradients, frozen ones too; large ones cost time and show no more."""
    model = without_chance(randomized(model), in_place=True).float()
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.is_floating_point() and parameter.numel() <= _LARGEST_PARAMETER)
    return model


def _with_weights_of(stock: nn.Module, exact: nn.Module) -> nn.Module:
    """A copy of an exact model that shares a prepared stock model's parameters and buffers."""
    tensors = {**dict(stock.named_parameters()), **dict(stock.named_buffers())}
    own = (*exact.named_parameters(), *exact.named_buffers())
    copied = copy.deepcopy(exact, {id(tensor): tensors[name] for name, tensor in own})
    return without_chance(copied, in_place=True)


@contextmanager
def aside(model: nn.Module) -> Iterator[None]:
    """What surrounds it is left alone: random numbers, gradients switched off, automatic precision.

    Random numbers inside are the same each time, so that a model is refused or accepted each time.
    """
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers()) if tensor.device.type == "cuda"}
    # NumPy's old generator, too: the model's code may draw from it.
    of_python, of_numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast("cpu", enabled=False),
            torch.autocast("cuda", enabled=False),
            warnings.catch_warnings(),  # the model's own, which come again when it is used
        ):
            warnings.simplefilter("ignore")
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)  # noqa: NPY002
            yield
    finally:
        random.setstate(of_python)
        np.random.set_state(of_numpy)  # noqa: NPY002


def _rounded_up(side: int, multiple: int) -> int:
    return -(-side // multiple) * multiple
