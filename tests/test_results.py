"""The results have one front page, and it knows all of their tables."""

import re
from pathlib import Path

FRONT = Path(__file__).resolve().parents[1] / "benchmarks" / "RESULTS.md"
TABLES = sorted((FRONT.parent / "results").glob("*.md"))
LINK = re.compile(r"\]\(([^)#]+\.(?:md|png|jpg))\)")


def linked(page: Path) -> set[Path]:
    return {(page.parent / link).resolve() for link in LINK.findall(page.read_text("utf-8"))}


def test_the_front_page_is_one_page_that_links_every_table():
    assert len(FRONT.read_text("utf-8").splitlines()) <= 110
    assert set(TABLES) <= linked(FRONT)


def test_every_link_of_the_results_is_there():
    for page in (FRONT, *TABLES):
        assert all(path.is_file() for path in linked(page)), page.name


def test_every_table_names_the_command_that_printed_it():
    for page in TABLES:
        assert re.search(r"^(python|PYTHON)|Tests print|python -m", page.read_text("utf-8"), re.M)
