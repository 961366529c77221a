"""The tests mirror the tree: a module's tests are where its own path says, and the other way round.

The tests of nodes/plots/grid.py are tests/nodes/plots/test_grid.py, further aspects of it
test_grid_ASPECT.py beside it.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sv_core", "nodes", "training")
WHOLE = {
    "nodes/test_pack.py": "the pack as ComfyUI loads it",
    "training/networks/comfy/test_new_family.py": "a ninth family, from its record to its preset",
}
"""Tests of several modules at once. Those of all packages are in tests/ and in tests/host/."""


def has_public(module: Path) -> bool:
    """Whether it defines a function or a class for others."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = ast.parse(module.read_text("utf-8")).body
    return any(isinstance(node, kinds) and not node.name.startswith("_") for node in nodes)


MODULES = [
    path.relative_to(ROOT)
    for package in PACKAGES
    for path in sorted((ROOT / package).rglob("*.py"))
    if path.stem not in ("__init__", "__main__")
]
TESTS = [
    path.relative_to(ROOT / "tests")
    for package in PACKAGES
    for path in sorted((ROOT / "tests" / package).rglob("test_*.py"))
]


@pytest.mark.parametrize("module", MODULES, ids=Path.as_posix)
def test_a_module_with_something_public_has_its_tests(module):
    tests = ROOT / "tests" / module.parent / f"test_{module.name}"
    assert tests.is_file() or not has_public(ROOT / module), f"{tests} is not there"


@pytest.mark.parametrize("tests", TESTS, ids=Path.as_posix)
def test_a_file_of_tests_has_its_module(tests):
    words = tests.stem.removeprefix("test_").split("_")
    names = ["_".join(words[:n]) for n in range(1, len(words) + 1)]
    found = [name for name in names if tests.parent / f"{name}.py" in MODULES]
    assert found or tests.as_posix() in WHOLE, f"no module is called {' or '.join(names)}"


def test_the_list_of_exceptions_is_no_longer_than_it_must_be():
    assert all((ROOT / "tests" / path).is_file() for path in WHOLE)
