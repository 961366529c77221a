"""The house's figures: functions that fit on a screen, files that fit in a head."""

import ast
import statistics
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FILES = [
    path.relative_to(ROOT)
    for package in ("sv_core", "nodes", "training")
    for path in sorted((ROOT / package).rglob("*.py"))
]
MEDIAN, LONGEST, FILE = 7, 60, 400
"""Lines: of half of the functions at most, of any function, of any file."""
SCHEMA = "define_schema"
SCHEMAS = Path("training/config/schema.py")
"""Lists of widgets and of keys, each with its text, which are as long as they are."""


def functions(file: Path) -> dict[str, int]:
    """The lines of each function, with its signature and its docstring."""
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    tree = ast.parse((ROOT / file).read_text("utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    return {f"{node.name}:{node.lineno}": node.end_lineno - node.lineno + 1 for node in found}


LENGTHS = {file: functions(file) for file in FILES}


def is_schema(name: str) -> bool:
    return name.startswith(f"{SCHEMA}:")


@pytest.mark.parametrize("file", FILES, ids=Path.as_posix)
def test_no_function_is_longer_than_a_screen(file):
    long = {n: k for n, k in LENGTHS[file].items() if k > LONGEST and not is_schema(n)}
    assert not long


@pytest.mark.parametrize("file", [f for f in FILES if f != SCHEMAS], ids=Path.as_posix)
def test_no_file_is_longer_than_one_can_hold_in_mind(file):
    schemas = sum(k for name, k in LENGTHS[file].items() if is_schema(name))
    assert len((ROOT / file).read_text("utf-8").splitlines()) - schemas <= FILE


def test_half_of_the_functions_are_a_few_lines():
    assert statistics.median(k for found in LENGTHS.values() for k in found.values()) <= MEDIAN
