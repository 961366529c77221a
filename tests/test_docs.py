"""Pages that name places in the code: the places are there, and say the same."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PLACE = re.compile(r"([\w./-]+\.py):([\w.]+)")
ROW = re.compile(r"^\| (?P<label>[^|]+) \| .+ \| `(?P<place>[^`]+)` \| `(?P<test>[^`]+)` \|$", re.M)


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text("utf-8")


@functools.cache
def tree(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text("utf-8"))


def find(place: str) -> ast.AST:
    """What a file:name, or file:Class.method, is of. Raises AssertionError when it is not there."""
    match = PLACE.fullmatch(place)
    assert match, f"{place} is no file:function"
    path, names = match.groups()
    assert (ROOT / path).is_file(), f"there is no {path}"
    node: ast.AST = tree(path)
    for name in names.split("."):
        inside = [n for n in getattr(node, "body", []) if name in defined(n)]
        assert inside, f"{path} has no {names}"
        node = inside[0]
    return node


def defined(node: ast.AST) -> set[str]:
    """The names that a statement defines."""
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        return {node.name}
    targets = getattr(node, "targets", None) or [getattr(node, "target", None)]
    return {t.id for t in targets if isinstance(t, ast.Name)}


FORMULAS = [m.groupdict() for m in ROW.finditer(page("formulas.md"))]
every_formula = pytest.mark.parametrize(
    "row", FORMULAS, ids=lambda r: f"{r['label']}-{r['place'].split(':')[1]}"
)


def test_every_row_of_the_formulas_is_read():
    body = [line for line in page("formulas.md").splitlines() if line.startswith("| ")]
    assert len(FORMULAS) == len(body) - page("formulas.md").count("| in the paper |") > 25


@every_formula
def test_a_formula_is_in_the_code_under_its_label(row):
    node = find(row["place"])
    assert isinstance(node, ast.FunctionDef | ast.ClassDef)
    text = " ".join((ast.get_docstring(node) or "").split())
    assert row["label"] in text, f"{row['place']} does not name {row['label']}"


@every_formula
def test_a_formula_is_held_by_a_test_that_uses_it(row):
    path, name = row["test"].split(":")
    assert name.startswith("test_") and isinstance(find(row["test"]), ast.FunctionDef)
    function = row["place"].split(":")[1]
    source = (ROOT / path).read_text("utf-8")
    module = row["place"].split(":")[0].removesuffix(".py").replace("/", ".")
    imported = re.search(rf"from {re.escape(module.rpartition('.')[0])}(\.\w+)* import", source)
    assert function.lower() in source.lower() or imported, f"{path} does not use {module}"


@pytest.mark.parametrize("number", ["2602.05435", "2605.09235"])
def test_a_file_with_a_paper_s_formula_cites_the_paper(number):
    (section,) = [s for s in page("formulas.md").split("\n## ") if f"(arXiv {number})\n" in s]
    for row in ROW.finditer(section):
        if row["label"] != "ours":
            path = row["place"].split(":")[0]
            assert number in (ROOT / path).read_text("utf-8"), f"{path} does not cite {number}"
