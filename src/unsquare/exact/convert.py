"""Turns a stock model into one for which padding does not count.

Plan, then apply: the feature maps are followed once (`tracing.trace`), and each layer that reads neighboring pixels is
given its exact form and the extent of its input. At run time a layer asks the pass in progress for its regions; nothing
is tracked from operation to operation.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from unsquare.errors import ExactError
from unsquare.exact.calls import ExactCall, ExactCaller, ExactCalls
from unsquare.exact.model import ExactMethod, ExactModel, require_network
from unsquare.exact.regions import Passes, Site
from unsquare.exact.registry import exact_class, overlaid, stock_class
from unsquare.exact.tracing.trace import trace, uncollected
from unsquare.exact.tracing.traced import TracedCall, TracedModel, TracedSite
from unsquare.exact.tracing.tracer import within
from unsquare.exact.verify.trial import aside, check_modules, try_out

# A compiler keeps most functions whole and shows them to the function mode of `calls`, as it should; this one it would
# look into, where the mode no longer sees its name.
torch.compiler.allow_in_graph(F.pad)


def make_exact(model: nn.Module) -> nn.Module:
    """A copy of a model that gives every image what the model would give it alone, unpadded.

    The copy is called as `model(pixels, sizes)`: `pixels` (N, 3, H, W), normalized, each image at the top left of
    the canvas; `sizes` (N, 2) integers, best on the host, each image's height and width. What lies outside is
    ignored, whatever it holds. Without `sizes` the whole canvas is real. It returns what the model returns; a
    feature map is zero outside the images' regions (see `output_regions`).

    What following the model without data cannot see (the backward pass of its own functions, say) is looked for by
    a trial: small images in one padded batch against each of them alone, outputs and gradients, in evaluation and in
    training. A model on the meta device has no data to try.

    Args:
        model: a stock model; not changed.

    Returns:
        The exact copy.

    Raises:
        ExactError: something cannot be made exact; the message names the module.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> exact = unsquare.make_exact(network)
        >>> image = torch.randn(1, 3, 8, 12)
        >>> padded = nn.functional.pad(image, (0, 4, 0, 2), value=7.0)
        >>> torch.allclose(exact(padded, torch.tensor([[8, 12]])), network(image), atol=1e-6)
        True
    """
    require_network(model, "make_exact")
    with aside(model), uncollected():
        exact = converted(model)
        if not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers())):
            try_out(exact, model)
    return exact


def converted(model: nn.Module) -> nn.Module:
    """What `make_exact` returns, before it is tried out."""
    require_network(model, "make_exact")
    check_modules(model)
    exact = _copied(model)
    _convert(exact)
    return exact


def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model)
    except (TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ExactError(
            f"{stock_class(model).__name__} cannot be copied ({reason}); remove what it stores besides its "
            "weights, such as tensors of the last call, locks and files, and undo weight norm and pruning by hooks."
        ) from error


def undo_exact(model: nn.Module) -> nn.Module:
    """A stock copy of an exact model, with its weights: what `make_exact` was given, after training, say.

    Args:
        model: an exact model; not changed.

    Returns:
        The stock copy, of the class that `make_exact` was given.

    Raises:
        ExactError: `model` is no network, or cannot be copied.

    Example:
        >>> from torch import nn
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        >>> type(unsquare.undo_exact(unsquare.make_exact(network))) is nn.Sequential
        True
    """
    require_network(model, "undo_exact")
    stock = _copied(model)
    _restore(stock)
    return stock


def _convert(model: nn.Module) -> None:
    """Give every layer its exact form in place; layers that have one already are given new sites."""
    passes = model.exact_passes if isinstance(model, ExactModel) else Passes()
    _restore(model)
    found = trace(model)
    modules: dict[str, Any] = dict(model.named_modules())
    for path, traced in found.layers.items():
        layer = modules[path]
        layer.__class__ = overlaid(exact_class(layer), stock_class(layer))
        layer.exact_site = _site(passes, traced)
    for path in _callers(found, modules):
        module = modules[path]
        if "forward" in vars(module):
            where = within(f"{path} ({stock_class(module).__name__})", model)
            raise ExactError(
                f"{where} cannot be made padding-exact: its forward, some of whose calls need exact forms, was "
                "replaced on the instance; define it in a class instead."
            )
        module.__class__ = overlaid(ExactCaller, type(module))
        module.exact_passes, module.exact_calls = passes, _calls(passes, found, path)
    methods: dict[str, ExactMethod | ExactError] = {"forward": _method(passes, found)}
    if hasattr(model, "forward_features"):
        try:
            methods["forward_features"] = _method(passes, trace(model, "forward_features"))
        except ExactError as error:  # raised if it is called; some have it in name only
            methods["forward_features"] = error
    root: Any = model
    root.__class__ = overlaid(ExactModel, type(model))
    root.exact_passes, root.exact_methods, root.exact_renew = passes, methods, _convert


def _restore(model: nn.Module) -> None:
    """Give every module its stock class in place."""
    for module in model.modules():
        if stock_class(module) is not type(module):
            module.__class__ = stock_class(module)
            for name in ("exact_site", "exact_calls", "exact_passes", "exact_methods", "exact_renew"):
                module.__dict__.pop(name, None)


def _method(passes: Passes, found: TracedModel) -> ExactMethod:
    return ExactMethod(found.outputs, found.joins, _calls(passes, found, ""))


def _callers(found: TracedModel, modules: dict[str, nn.Module]) -> list[str]:
    """Paths of modules some of whose calls are replaced, and of those below them whose calls must not be."""
    callers = {
        path for path in found.calls if any(call.replacement for calls in found.calls[path].values() for call in calls)
    }
    # By identity, since a module may stand below several others, and has a path below one of them only.
    below = {id(module) for path in callers for module in modules[path].modules()}
    others = {path for path in {*found.calls, *found.known} if id(modules[path]) in below}
    return sorted({*callers, *others} - {""})


def _calls(passes: Passes, found: TracedModel, path: str) -> dict[bool, ExactCalls]:
    """The calls of a module's code by `training`; none where the stock functions are right in all of them."""
    seen = {training: found.calls.get(path, {}).get(training, ()) for training in (True, False)}
    if not any(call.replacement for calls in seen.values() for call in calls):
        return {True: (), False: ()}
    return {training: tuple(_call(passes, call) for call in calls) for training, calls in seen.items()}


def _call(passes: Passes, call: TracedCall) -> ExactCall:
    return ExactCall(call.name, call.replacement, _site(passes, call.site) if call.replacement else None)


def _site(passes: Passes, traced: TracedSite) -> Site:
    return Site(
        passes,
        extents=tuple(given.extent for given in traced.given),
        after=tuple(after.extent for after in traced.after if after is not None),
        clean=all(given.clean for given in traced.given),
    )
