"""The benchmarks find what they measure: a moved room must not leave one of them behind."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "benchmarks").glob("*.py"))
IN_A_HOST = {"host_beds", "host_cost", "host_emoji", "host_features", "host_methods"}
IN_A_HOST |= {"host_any_sampler_methods", "host_families_methods", "host_pictures_methods"}
"""Run in a ComfyUI's Python, where alone they can be imported."""


def loaded(tree: ast.AST) -> list[str]:
    """The names that a file gives to ``import_module`` with the loaded pack as package."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and len(n.args) == 2]
    calls = [c for c in calls if ast.unparse(c.func).endswith("import_module")]
    assert all(isinstance(c.args[0], ast.Constant) for c in calls), "spell the module's name out"
    return [c.args[0].value for c in calls]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_what_a_benchmark_loads_of_the_pack_is_there(file: Path) -> None:
    for name in loaded(ast.parse(file.read_text("utf-8"))):
        assert (ROOT / name.removeprefix(".").replace(".", "/")).with_suffix(".py").is_file(), name


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_benchmark_can_be_imported_and_does_nothing_then(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file.stem not in IN_A_HOST and "_host" not in file.stem:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, f"benchmarks.{file.stem}", raising=False)
        importlib.import_module(f"benchmarks.{file.stem}")
        assert not list(tmp_path.iterdir())
