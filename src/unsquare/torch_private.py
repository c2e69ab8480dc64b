"""The private names of PyTorch that this package needs, all in one place, each with a name and a reason of its own.

PyTorch may change or drop a name with a leading underscore in any release. Nothing else in the package uses one
(tests/test_torch_private.py looks), and each has a test of what it does there. When such a test fails with a new
PyTorch, this is the file to change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _python_dispatch, _pytree, checkpoint

TorchDispatchMode = _python_dispatch.TorchDispatchMode
"""Base of the modes that see every ATen operation: how feature maps are followed and memory is attributed.

There is no public name for it, although PyTorch's own notes on extending it say to import it so. Without it neither
conversion nor the profile works; if it moves, import it from where it went.
"""

tree_leaves = _pytree.tree_leaves
"""All values in nested sequences and mappings, in order: the tensors among an operation's arguments and results.

If it goes, the package optree has the same function.
"""

tree_flatten = _pytree.tree_flatten
"""The values in a nested sequence or mapping, and its structure: an exact model marks each tensor that it returns.

See `tree_leaves`.
"""

tree_unflatten = _pytree.tree_unflatten
"""Values put back into the structure that `tree_flatten` gave. See `tree_leaves`."""

NormBase = nn.modules.batchnorm._NormBase
"""Base of all norms with running statistics, of other libraries too: batch norms and instance norms.

Without it a momentum of None cannot be followed without data, and running statistics count as state that moves. If it
goes, name the public classes, and look for `running_mean` on classes of others.
"""

BatchNormBase = nn.modules.batchnorm._BatchNorm
"""Base of all batch norms, of other libraries too: the layers whose statistics unpadded images must share.

If it goes, name `nn.BatchNorm1d` to `nn.BatchNorm3d` and `nn.SyncBatchNorm`; norms of others are then missed.
"""

DropoutBase = nn.modules.dropout._DropoutNd
"""Base of PyTorch's dropouts: steps that draw random numbers for each pixel, and so cannot run piece by piece.

If it goes, name `nn.Dropout` to `nn.Dropout3d`, `nn.AlphaDropout` and `nn.FeatureAlphaDropout`.
"""

ASSERTING_FUNCTIONS = frozenset({"_assert", "_check", "_check_with"})
"""Names of PyTorch's functions that assert something, as they stand in the call stack.

A size that is only asserted decides nothing. If one is renamed, networks that call it are refused; add the new name.
"""


def in_backward() -> bool:
    """Whether this thread is inside a backward pass.

    A checkpointed block that runs again there must take the regions of the batch whose loss is differentiated.
    `torch.utils.checkpoint` decides by the same number; if it goes, take what that module then asks.
    """
    return torch._C._current_graph_task_id() != -1


def when_backward_ends(callback: Callable[[], None]) -> None:
    """Call a function once, at the end of the backward pass that this is called in.

    Without it the batch of a backward pass would stay known after its end, and a block recomputed later could take its
    regions. PyTorch's fully sharded training and `torch.utils.module_tracker` use the same queue.

    Raises:
        RuntimeError: no backward pass is under way.
    """
    torch.autograd.Variable._execution_engine.queue_callback(callback)


def num_writes(tensor: Tensor) -> int:
    """How often a tensor or a view of its memory was written in place: autograd's version counter.

    Tells a chain's steps that write into what they are given. `torch.autograd.graph.increment_version` is public, but
    no way to read the number is; if it goes, compare copies of the values on a run with data.
    """
    return tensor._version


def storage_id(storage: torch.UntypedStorage) -> int:
    """A number that is the storage's own while it lives, on every device, without memory as well.

    The profile counts each storage once. If it goes, take `data_ptr()`, the same for storages that share memory.
    """
    return storage._cdata


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is what `torch.compile` returned for another.

    Its steps cannot be followed. If the name goes, a compiled module is refused with a less helpful message.
    """
    return "_orig_mod" in module._modules


def has_gradient_hook(module: nn.Module) -> bool:
    """Whether a hook of a module's own sees, and may change, gradients in backward.

    Such a hook may mix pixels where nothing sees it. If the names go, the trial at conversion finds most such hooks.
    """
    return bool(module._backward_hooks or module._backward_pre_hooks)


def has_forward_hook(module: nn.Module) -> bool:
    """Whether a hook runs before or after a module's forward.

    On the network itself it would see padding. If the names go, such a hook is no longer refused.
    """
    return bool(module._forward_hooks or module._forward_pre_hooks)


def has_tensor_hook(tensor: Tensor) -> bool:
    """Whether a hook is registered on a tensor's gradient.

    A deep copy of a parameter loses its hooks. If the names go, such a hook is lost in silence.
    """
    return bool(tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None))


def is_size_arithmetic(function: Any) -> bool:
    """Whether a function of PyTorch's only calculates with sizes, such as `torch.sym_max` and `torch._sym_sqrt`.

    What it returns still says which sizes it comes from. If the names change, networks that use them are refused.
    """
    return function.__name__.startswith(("sym_", "_sym_"))


def add_each(totals: list[Tensor], parts: list[Tensor]) -> None:
    """Add each tensor to its total, in place, on a GPU in few launches: the gradients of a micro-batch.

    PyTorch's optimizers call it likewise. If it goes, add them one by one, which gives the same numbers.
    """
    torch._foreach_add_(totals, parts)


def cpu_multiplies_bf16() -> bool:
    """Whether this CPU multiplies in bf16 natively: by matrix units (AMX), or by AVX-512.

    Elsewhere bf16 is emulated, and slower than fp32. If the names go, `torch.cpu.get_capabilities()`, public in newer
    releases than the oldest that this package supports, tells the same.
    """
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


@contextmanager
def without_checkpointing(around: Callable[[], AbstractContextManager[None]] = nullcontext) -> Iterator[None]:
    """While open, a checkpointed block runs once, as a plain call, and its caller sees it run.

    For networks that are followed without data, which have no backward pass, and for the reference's images: in
    backward, a block of one image would wait for batch norms that no other image meets. If a name goes, replace what
    `torch.utils.checkpoint.checkpoint` calls in its place; libraries import that function itself by name.

    Args:
        around: Makes a context in which each block runs.
    """

    class PlainCall:
        """In place of checkpointing by a reentrant backward: without gradients where that has none."""

        @staticmethod
        def apply(function: Callable[..., Any], preserve_rng_state: bool, *args: Any) -> Any:
            differentiable = any(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
            with around(), torch.set_grad_enabled(torch.is_grad_enabled() and differentiable):
                return function(*args)

    def plain_call(*args: Any, **kwargs: Any) -> Iterator[None]:
        """In place of checkpointing by saved-tensor hooks, which do nothing before and after the block is called."""
        with around():
            yield

    plain = {"CheckpointFunction": PlainCall, "_checkpoint_without_reentrant_generator": plain_call}
    before = {name: getattr(checkpoint, name) for name in plain}
    try:
        for name, value in plain.items():
            setattr(checkpoint, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(checkpoint, name, value)
