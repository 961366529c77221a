"""What strangers meet first: the guide, versions, forms, public CI, and what an upload carries."""

import ast
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml  # comes with accelerate

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
CI = {p.stem: yaml.safe_load(p.read_text("utf-8")) for p in (ROOT / ".github/workflows").iterdir()}
FORMS = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[0-9]*.yml"))
PAGES = ("CONTRIBUTING.md", "SECURITY.md")
FILE = re.compile(r"\.(py|md|toml|json|jpg|yml|cff)$")
CLIENT = ROOT / "training/evaluate/client.py"
NETWORK = {
    *("aiohttp", "ftplib", "http", "httpx", "huggingface_hub", "requests", "smtplib", "socket"),
    *("socketserver", "ssl", "telnetlib", "urllib", "urllib3", "websocket", "websockets", "xmlrpc"),
}


def run_git(*arguments: str, **options) -> str:
    command = ["git", "-C", str(ROOT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, **options).stdout


def named_paths(page: str) -> list[str]:
    """Paths in a page's code and relative links; NAME in one stands for a new file or folder."""
    text = (ROOT / page).read_text("utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", text) if "://" not in link]
    code = " ".join(re.findall(r"`([^`\n]+)`", text)) + " ".join(re.findall(r"```([^`]+)```", text))
    words = [word.rstrip(":,.") for word in code.split() if "://" not in word and ".." not in word]
    paths = [word for word in words if FILE.search(word) or re.fullmatch(r"[\w.]+/[\w./]*", word)]
    return list(dict.fromkeys(links + paths))


@pytest.mark.parametrize(
    ("page", "path"), [(page, path) for page in PAGES for path in named_paths(page)]
)
def test_every_path_that_a_page_names_exists(page: str, path: str) -> None:
    place = ROOT / path.split("NAME")[0]
    if "NAME" in path and not place.is_dir():
        place = place.parent
    assert place.exists(), f"{page} names {path}, which is not there"


def test_versions_agree() -> None:
    version = PROJECT["project"]["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", changes, re.MULTILINE)
    assert released[0] == (version, str(citation["date-released"]))
    assert citation["version"] == version
    assert released == sorted(
        released, key=lambda r: tuple(map(int, r[0].split("."))), reverse=True
    )
    assert changes.index("## [Unreleased]") < changes.index(f"## [{version}]")
    for heading in ("Unreleased", *(number for number, _ in released)):
        assert f"\n[{heading}]: https://" in changes


def test_ci_runs_on_every_system_and_python_that_is_promised() -> None:
    matrix = CI["tests"]["jobs"]["tests"]["strategy"]["matrix"]
    assert {name.split("-")[0] for name in matrix["os"]} == {"ubuntu", "macos", "windows"}
    assert matrix["python"] == ["3.10", "3.11", "3.12", "3.13"]
    language = "Programming Language :: Python :: "
    promised = [
        c.removeprefix(language) for c in PROJECT["project"]["classifiers"] if language in c
    ]
    assert promised == matrix["python"]
    assert PROJECT["project"]["requires-python"] == f">={matrix['python'][0]}"


def test_ci_runs_inside_the_oldest_and_the_newest_comfyui() -> None:
    hosts = CI["hosts"]["jobs"]["hosts"]["strategy"]["matrix"]["include"]
    oldest = PROJECT["tool"]["comfy"]["requires-comfyui"].removeprefix(">=")
    assert [host["comfyui"] for host in hosts] == [f"v{oldest}", "master"]


def test_a_version_is_published_only_after_every_test() -> None:
    trigger = CI["publish"][True]  # YAML 1.1 reads `on` as true
    assert trigger == {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+"]}}
    jobs = CI["publish"]["jobs"]
    assert set(jobs["publish"]["needs"]) == {"tests", "hosts"}
    for name in ("tests", "hosts"):
        assert jobs[name]["uses"] == f"./.github/workflows/{name}.yml"
        assert "workflow_call" in CI[name][True]


@pytest.mark.parametrize("name", CI)
def test_ci_may_only_read(name: str) -> None:
    assert CI[name]["permissions"] == {"contents": "read"}


@pytest.mark.parametrize("path", FORMS, ids=lambda p: p.stem)
def test_forms_are_ones_that_github_accepts(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    fields = form["body"]
    assert set(form) == {"name", "description", "labels", "body"}
    assert {field["type"] for field in fields} <= {"textarea", "input", "dropdown", "checkboxes"}
    for key in ([f["id"] for f in fields], [f["attributes"]["label"] for f in fields]):
        assert len(set(key)) == len(key)
    for field in fields:
        options = field["attributes"].get("options", [])
        assert bool(options) == (field["type"] in ("dropdown", "checkboxes"))
        assert all(isinstance(o, str) == (field["type"] == "dropdown") for o in options)


@pytest.fixture(scope="module")
def upload() -> set[str]:
    """What ``comfy node publish`` sends: the files of git but for what .comfyignore names."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a clone: only git knows which files an upload would carry")
    return set(run_git("ls-files").splitlines()) - set(
        run_git("ls-files", "--cached", "--ignored", "--exclude-from=.comfyignore").splitlines()
    )


def test_an_upload_carries_all_that_runs_and_nothing_else(upload: set[str]) -> None:
    tops = {path.split("/")[0] for path in upload}
    code = {"__init__.py", "dev.py", "locales", "nodes", "sv_core", "training", "web", "workflows"}
    assert tops == code | {
        *("CHANGELOG.md", "LICENSE", "README.md", "SECURITY.md", "docs", "pyproject.toml")
    }
    tracked = set(run_git("ls-files", "--", *code).splitlines())
    assert tracked <= upload
    assert "docs/example_dataset/night.png" in upload  # the guide to a first LoRA trains on it
    assert not [p for p in upload if re.match(r"docs/(brand/|[^/]*\.(png|jpg)$)", p)]


@pytest.mark.parametrize("name", ["Icon", "Banner"])
def test_the_registry_finds_the_pictures(name: str) -> None:
    url, home = PROJECT["tool"]["comfy"][name], PROJECT["project"]["urls"]["Repository"]
    start = home.replace("github.com", "raw.githubusercontent.com") + "/main/"
    assert url.startswith(start)
    head = (ROOT / url.removeprefix(start)).read_bytes()[:24]
    size = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    assert head.startswith(b"\x89PNG")
    assert size == (400, 400) if name == "Icon" else size[0] * 9 == size[1] * 21


def test_the_pictures_are_those_that_the_script_draws() -> None:
    drawn = runpy.run_path(str(ROOT / "docs/brand/draw.py"))
    for name in ("icon", "banner"):
        assert (ROOT / f"docs/brand/{name}.svg").read_text("utf-8") == drawn[name]()


def test_nothing_opens_the_network() -> None:
    """But for the client of the user's own server, which knows no other address than his."""
    for package in ("sv_core", "nodes", "training"):
        for path in (ROOT / package).rglob("*.py"):
            if path == CLIENT:
                continue
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                names = [a.name for a in getattr(node, "names", [])]
                if isinstance(node, ast.ImportFrom) and not node.level:
                    names = [node.module]
                if isinstance(node, ast.Import | ast.ImportFrom):
                    assert not {name.split(".")[0] for name in names} & NETWORK, path
