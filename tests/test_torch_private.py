"""PyTorch's private names do what is asked of them, and nothing but `torch_private` uses any."""

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import unsquare
from unsquare import torch_private

SOURCE = Path(unsquare.__file__).parent
FOREIGN = ("torch", "torchvision", "timm", "lightning_fabric", "torchmetrics")
# Of named tuples, of Python itself, and of a picture of Pillow's.
NOT_OF_TORCH = {"_replace", "_asdict", "_fields", "_make", "_getframe", "_im"}


def is_private(name: str) -> bool:
    """Whether a name, or a part of a dotted one, begins with one underscore."""
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def private_uses(source: str) -> list[str]:
    """Private attributes that a module's own code does not define, and private imports of other libraries."""
    tree = ast.parse(source)
    own = {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and ast.unparse(node.value) == "self":
            own.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            own.add(node.id)
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own | NOT_OF_TORCH:
            found.append(ast.unparse(node))
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if is_private(alias.name)]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FOREIGN:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [name for name in names if is_private(name)]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr"):
            values = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
            names = [value for value in values if isinstance(value, str) and is_private(value)]
            found += [name for name in names if name not in own | NOT_OF_TORCH]
    return found


def test_private_names_stand_in_one_module() -> None:
    """No other module of the package uses an attribute or imports a name that PyTorch keeps to itself."""
    uses = {
        str(file.relative_to(SOURCE)): private_uses(file.read_text(encoding="utf-8"))
        for file in sorted(SOURCE.rglob("*.py"))
        if file.name != "torch_private.py"
    }
    assert {file: names for file, names in uses.items() if names} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\ntorch._C._current_graph_task_id()", 2),
        ("from torch.utils._pytree import tree_map", 1),
        ("from torch.nn.modules.utils import _pair", 1),
        ("import torch._dynamo", 1),
        ("def f(module):\n    return module._parameters", 1),
        ("def f(module):\n    return getattr(module, '_backward_hooks', None)", 1),
        ("class A:\n    def f(self):\n        self._mine = self._mine", 0),
        ("import torch\ntorch.nn.Conv2d.__name__", 0),
    ],
)
def test_the_scan_finds_private_names(source: str, found: int) -> None:
    """Attributes, imports and names given as text are found; a module's own names are not."""
    assert len(private_uses(source)) == found


def test_a_dispatch_mode_sees_every_operation() -> None:
    """Operations inside a layer, and those of backward, are seen as ATen operations."""

    class Seeing(torch_private.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            names.append(func.name())
            return func(*args, **(kwargs or {}))

    names: list[str] = []
    x = torch.ones(1, 3, 4, 4, requires_grad=True)
    with Seeing():
        F.max_pool2d(x, 2).sum().backward()
    assert "aten::max_pool2d_with_indices" in names
    assert "aten::max_pool2d_with_indices_backward" in names


def test_trees_come_apart_and_together() -> None:
    """Values within lists, tuples and mappings are found in order, and put back."""
    tree = {"one": [1, (2, 3)], "other": None}
    assert torch_private.tree_leaves(tree) == [1, 2, 3, None]
    leaves, structure = torch_private.tree_flatten(tree)
    assert torch_private.tree_unflatten([str(leaf) for leaf in leaves], structure) == {
        "one": ["1", ("2", "3")],
        "other": "None",
    }


def test_bases_cover_the_layers_that_they_stand_for() -> None:
    """Batch norms of all kinds, norms with running statistics, and dropouts, but no other layers."""
    batch_norms = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    assert all(issubclass(kind, torch_private.BatchNormBase) for kind in batch_norms)
    assert not issubclass(nn.InstanceNorm2d, torch_private.BatchNormBase)
    assert all(issubclass(kind, torch_private.NormBase) for kind in (*batch_norms, nn.InstanceNorm2d))
    assert not issubclass(nn.GroupNorm, torch_private.NormBase)
    dropouts = (nn.Dropout, nn.Dropout2d, nn.AlphaDropout)
    assert all(issubclass(kind, torch_private.DropoutBase) for kind in dropouts)


@pytest.mark.parametrize("assertion", [torch._assert, torch._check])
def test_assertions_are_known_by_name(assertion) -> None:
    """PyTorch's asserting functions have the names by which they are found in the call stack."""
    assert assertion.__name__ in torch_private.ASSERTING_FUNCTIONS


def test_a_backward_pass_is_noticed_and_its_end() -> None:
    """Hooks run inside backward; what they ask for at its end runs once, after the last gradient."""
    order: list[str] = []
    x = torch.ones(2, requires_grad=True)
    y = x * 2

    def hook(grad: Tensor) -> None:
        assert torch_private.in_backward()
        torch_private.when_backward_ends(lambda: order.append("end"))

    y.register_hook(hook)
    x.register_hook(lambda grad: order.append("gradient"))
    assert not torch_private.in_backward()
    y.sum().backward()
    assert not torch_private.in_backward()
    assert order == ["gradient", "end"]


def test_writes_in_place_are_counted() -> None:
    """A write into a tensor, or into a view of it, counts; reading does not."""
    x = torch.zeros(2, 2)
    view = x[0]
    before = torch_private.num_writes(x)
    _ = x + 1
    assert torch_private.num_writes(x) == before
    view.add_(1)
    assert torch_private.num_writes(x) == torch_private.num_writes(view) > before


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_storage_has_one_number(device: str) -> None:
    """Views share it, and other tensors have another, with memory and without."""
    x, other = torch.zeros(4, device=device), torch.zeros(4, device=device)
    number = torch_private.storage_id(x.untyped_storage())
    assert number == torch_private.storage_id(x[1:].untyped_storage())
    assert number != torch_private.storage_id(other.untyped_storage())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch's own, inside its compiler
def test_compiled_modules_are_known() -> None:
    """A compiled module is told from the module that it was made of."""
    module = nn.Linear(2, 2)
    assert not torch_private.is_compiled(module)
    assert torch_private.is_compiled(torch.compile(module))


def test_hooks_on_gradients_are_seen() -> None:
    """Both kinds of a module's hooks on gradients are seen, and no others."""
    for register in ("register_full_backward_hook", "register_full_backward_pre_hook"):
        module = nn.Linear(2, 2)
        module.register_forward_hook(lambda *_: None)
        assert not torch_private.has_gradient_hook(module)
        getattr(module, register)(lambda *_: None)
        assert torch_private.has_gradient_hook(module)


def test_hooks_on_forward_are_seen() -> None:
    """Hooks before and after forward are seen, and no others."""
    for register in ("register_forward_hook", "register_forward_pre_hook"):
        module = nn.Linear(2, 2)
        module.register_full_backward_hook(lambda *_: None)
        assert not torch_private.has_forward_hook(module)
        getattr(module, register)(lambda *_: None)
        assert torch_private.has_forward_hook(module)


def test_hooks_on_parameters_are_seen() -> None:
    """Both kinds of a parameter's hooks are seen."""
    for register in ("register_hook", "register_post_accumulate_grad_hook"):
        parameter = nn.Parameter(torch.ones(2))
        assert not torch_private.has_tensor_hook(parameter)
        getattr(parameter, register)(lambda *_: None)
        assert torch_private.has_tensor_hook(parameter)


def test_arithmetic_of_sizes_is_told_from_other_functions() -> None:
    """Functions on sizes alone are told by their names, public and private ones."""
    assert all(map(torch_private.is_size_arithmetic, (torch.sym_max, torch.sym_int, torch._sym_sqrt)))
    assert not any(map(torch_private.is_size_arithmetic, (torch.add, Tensor.view, F.conv2d)))


def test_each_total_grows_by_its_part() -> None:
    """Sums are as those of single additions, in the totals themselves."""
    totals, parts = [torch.ones(2), torch.ones(3)], [torch.full((2,), 2.0), torch.full((3,), 3.0)]
    given = list(totals)
    torch_private.add_each(totals, parts)
    assert [total.tolist() for total in given] == [[3.0, 3.0], [4.0, 4.0, 4.0]]


def test_the_processor_is_asked() -> None:
    """The answer is a plain yes or no; where Linux lists what the processor has, it is what stands there."""
    answer = torch_private.cpu_multiplies_bf16()
    assert isinstance(answer, bool)
    listed = Path("/proc/cpuinfo")
    flags = listed.read_text(encoding="utf-8").split() if listed.exists() else []
    if answer and "flags" in flags:  # an emulator or an old PyTorch may answer no where the processor has them
        assert {"amx_tile", "avx512_bf16"} & set(flags)


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed_blocks_run_once(reentrant: bool) -> None:
    """While plain, a block runs once, with its context around it, for the same gradient; afterwards twice again."""
    runs: list[bool] = []

    def block(x: Tensor) -> Tensor:
        runs.append(torch_private.in_backward())
        return (x * 3).sin()

    def gradient() -> Tensor:
        runs.clear()
        x = torch.linspace(0, 1, 5, requires_grad=True)
        checkpoint(block, x, use_reentrant=reentrant).sum().backward()
        assert x.grad is not None
        return x.grad

    expected = gradient()
    assert runs == [False, True]
    with torch_private.without_checkpointing():
        torch.testing.assert_close(gradient(), expected)
        assert runs == [False]
    gradient()
    assert runs == [False, True]
