"""The typed stub names what there is, and nothing else."""

import ast
import inspect
from pathlib import Path

import cmpool


def stub():
    return ast.parse((Path(cmpool.__file__).parent / "__init__.pyi").read_text(encoding="utf-8"))


def public(names):
    return {name for name in names if not name.startswith("_")}


def test_the_package_is_typed():
    assert (Path(cmpool.__file__).parent / "py.typed").exists()


def test_every_class_of_the_stub_is_there_with_the_same_methods():
    classes = {node.name: node for node in stub().body if isinstance(node, ast.ClassDef)}
    classes.pop("Status")  # a shape, no class
    assert set(classes) == set(cmpool.__all__)
    for name, node in classes.items():
        kind = getattr(cmpool, name)
        described = public(item.name for item in node.body if isinstance(item, (ast.FunctionDef, ast.AsyncFunctionDef)))
        if issubclass(kind, (Exception, cmpool.Outcome)):
            continue
        assert public(vars(kind)) == described, name


def test_outcomes_and_codes_are_those_of_the_stub():
    classes = {node.name: node for node in stub().body if isinstance(node, ast.ClassDef)}
    values = {
        item.targets[0].id: item.value.value for item in classes["Outcome"].body if isinstance(item, ast.Assign)
    }
    assert values == {outcome.name: outcome.value for outcome in cmpool.Outcome}
    for kind in cmpool.Error.__subclasses__():
        bases = {base.id for base in classes[kind.__name__].bases}
        assert bases == {base.__name__ for base in kind.__bases__}
        assert inspect.getdoc(kind)
