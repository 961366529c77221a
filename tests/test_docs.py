"""Pages that name places in the code: the places are there, and say the same."""

import ast
import functools
import re
import runpy
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


def folders() -> set[str]:
    """The rooms as they are: folders with code of their own."""
    files = [
        p for package in ("nodes", "sv_core", "training") for p in (ROOT / package).rglob("*.py")
    ]
    return {path.parent.relative_to(ROOT).as_posix() for path in files}


def test_the_architecture_has_a_line_for_every_room():
    listed = re.findall(r"^\| `([^`]+)` \| (.+) \|$", page("architecture.md"), re.M)
    assert {name for name, _ in listed} == folders() and len(listed) == len(folders())
    assert all(len(line.split()) > 3 for _, line in listed)


@pytest.mark.parametrize("place", sorted({m[0] for m in PLACE.finditer(page("architecture.md"))}))
def test_a_stop_of_a_journey_is_in_the_code(place):
    find(place)


def test_the_architecture_has_six_journeys_of_several_stops():
    journeys = page("architecture.md").split("\n## ")[2:]
    assert len(journeys) == 6
    for journey in journeys:
        stops = re.findall(r"^\d+\. .+$", journey, re.M)
        assert len(stops) >= 5 and all(PLACE.search(stop) for stop in stops)


def test_the_picture_is_of_the_imports_as_they_are():
    drawn = runpy.run_path(str(ROOT / "docs/draw_rooms.py"))
    assert drawn["PICTURE"].read_text("utf-8") == drawn["draw"](), (
        "docs/rooms.svg is not what the code imports: python docs/draw_rooms.py"
    )


def test_the_picture_has_every_room():
    drawn = (ROOT / "docs/rooms.svg").read_text("utf-8")
    assert all(f">{room}</text>" in drawn for room in folders())


def test_the_readme_s_tree_has_a_line_for_every_room():
    tree = (ROOT / "README.md").read_text("utf-8").split("## Where things live")[1].split("```")[1]
    assert "sv_core/" in tree
    found, above = set(), []
    for line in tree.strip("\n").splitlines():
        name, *words = line.split()
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth:] = [name.rstrip("/")]
        found.add("/".join(above))
        assert len(words) > 1, f"{name} has no line"
    assert folders() <= found
    assert all((ROOT / room).exists() for room in found)


def test_the_page_on_families_shows_the_code_of_a_test():
    code = (ROOT / "tests/host/new_family.py").read_text("utf-8")
    shown = re.findall(r"```python\n(.*?)```", page("adding_a_family.md"), re.DOTALL)
    record, checkpoint, *_ = re.split(r"^# .*\n\n", code, flags=re.MULTILINE)[1:]
    assert [part.strip() for part in shown] == [record.strip(), checkpoint.strip()]
