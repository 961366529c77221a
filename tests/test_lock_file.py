"""requirements.lock: every file that the development environment is made of, by its hash."""

import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "requirements.lock").read_text("utf-8")
ENTRIES = [entry.replace("\\\n", " ") for entry in re.split(r"\n(?=[a-z0-9])", TEXT)[1:]]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def name_of(requirement: str) -> str:
    return re.split(r"[\s;<>=\[]", requirement)[0].lower().replace("_", "-")


@pytest.mark.parametrize("entry", ENTRIES, ids=name_of)
def test_an_entry_has_one_version_and_the_hashes_of_its_files(entry):
    requirement, *hashes = entry.split(" --hash=")
    assert re.match(r"[a-z0-9][a-z0-9.-]*==[\w.]+( ;.+)?\s*$", requirement)
    assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", h) for h in hashes)


def test_all_that_the_environment_asks_for_is_in_it():
    extras = PROJECT["optional-dependencies"]
    asked = {name_of(r) for r in (*PROJECT["dependencies"], *extras["training"], *extras["dev"])}
    assert asked - {"torch"} <= {name_of(entry) for entry in ENTRIES}


def test_it_names_no_index_and_no_torch():
    assert "://" not in TEXT and "--index" not in TEXT and "--find-links" not in TEXT
    assert "torch" not in {name_of(entry) for entry in ENTRIES}, "each index has other files of it"
