"""One name, one meaning: classes and type aliases have unique names in the whole package."""

import ast
from collections import defaultdict
from pathlib import Path

import unsquare

PACKAGE = Path(unsquare.__file__).parent


def _names(tree: ast.Module) -> set[str]:
    """The names of a module's classes at any depth, and of its type aliases, without leading underscores."""
    classes = {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    aliases = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and not ast.unparse(node.value).startswith(("TypeVar(", "ParamSpec("))
        for target in node.targets
        if isinstance(target, ast.Name) and not target.id.isupper() and len(target.id) > 1
    }
    return {name.lstrip("_") for name in classes | {name for name in aliases if name.lstrip("_")[:1].isupper()}}


def test_no_class_name_has_two_meanings() -> None:
    """Whoever reads a class's or an alias's name in any folder knows which one is meant."""
    places = defaultdict(list)
    for path in sorted(PACKAGE.rglob("*.py")):
        for name in _names(ast.parse(path.read_text(encoding="utf-8"))):
            places[name].append(str(path.relative_to(PACKAGE)))
    assert not {name: files for name, files in places.items() if len(files) > 1}


def test_no_function_takes_more_than_eight_parameters() -> None:
    """More than eight are a config."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                number = len([each for each in given if each.arg not in ("self", "cls")])
                if number > 8:
                    found[f"{path.relative_to(PACKAGE)}: {node.name}"] = number
    assert not found
