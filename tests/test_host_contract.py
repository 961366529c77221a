"""The contract names everything of the host that nodes/ touches: read from the source."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.nodes.host_free import host_free
from training.networks.comfy.folder import find_all

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "nodes").rglob("*.py"))
NAMES = {str(name) for name in host_free("host.contract").NAMES}
HOST = ("comfy", "folder_paths", "latent_preview")
LISTED_WHOLE = {"comfy.samplers.KSampler"}
"""Names that are used by their parts only, which are listed."""


def dotted(node: ast.AST) -> str:
    """a.b.c as text; nothing for anything else."""
    if isinstance(node, ast.Attribute):
        of = dotted(node.value)
        return f"{of}.{node.attr}" if of else ""
    return node.id if isinstance(node, ast.Name) else ""


def touched(tree: ast.AST) -> set[str]:
    """Every name of the host's modules in a file, as long as it is written."""
    modules = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
        if alias.name.split(".")[0] in HOST
    }
    found = {dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = {name for name in found if any(name.startswith(f"{m}.") for m in modules)}
    whole = {name for name in found if not any(other.startswith(f"{name}.") for other in found)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in HOST:
            whole |= {f"{node.module}.{alias.name}" for alias in node.names}
    return whole - modules


def is_listed(name: str) -> bool:
    return name in LISTED_WHOLE or any(
        entry == name or entry.startswith(f"{name}.") or name.startswith(f"{entry}.")
        for entry in NAMES
    )


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(ROOT).as_posix())
def test_every_name_of_the_host_is_in_the_contract(file):
    unlisted = {name for name in touched(ast.parse(file.read_text("utf-8"))) if not is_listed(name)}
    assert not unlisted


def test_the_reader_finds_what_a_file_touches():
    source = "import comfy.samplers\nfrom comfy.x import Y\ncomfy.samplers.KSAMPLER.sample(torch.a)"
    assert touched(ast.parse(source)) == {"comfy.samplers.KSAMPLER.sample", "comfy.x.Y"}
    assert not is_listed("comfy.x.Y") and is_listed("comfy.samplers.KSAMPLER")


def copy_what_is_published(place: Path) -> None:
    """The Python files that an upload to the registry has: all but those of .comfyignore."""

    def git(*arguments: str) -> list[str]:
        run = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=True)
        return [name for name in run.stdout.decode().split("\0") if name]

    left_out = set(git("ls-files", "-z", "-c", "-i", "--exclude-from=.comfyignore"))
    for name in git("ls-files", "-z", "-c"):
        if name.endswith(".py") and name not in left_out and (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes((ROOT / name).read_bytes())


def import_guard(host: Path, folder: Path) -> subprocess.CompletedProcess:
    """comfy-import-guard over folder/custom_nodes, against the commit that a host has."""
    (folder / "cache").mkdir(exist_ok=True)
    (folder / "cache/ComfyUI").symlink_to(host, target_is_directory=True)
    command = [sys.executable, "-m", "comfy_import_guard.cli", "check", "--offline", "--no-update"]
    command += ["--strict", "--target", "HEAD", "--comfy-dir", str(folder)]
    command += ["--cache-dir", str(folder / "cache")]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120)
    finally:
        (folder / "cache/ComfyUI").unlink()


@pytest.mark.comfy
@pytest.mark.parametrize("host", find_all(), ids=lambda host: host.name)
def test_comfy_import_guard_finds_nothing(tmp_path: Path, host: Path) -> None:
    pytest.importorskip("comfy_import_guard")
    if not (host / ".git").exists():
        pytest.skip("comfy-import-guard reads a checkout's history, and this ComfyUI has none")
    pack = tmp_path / "custom_nodes/stable-velocity"
    copy_what_is_published(pack)
    made = import_guard(host, tmp_path)
    assert made.returncode == 0 and "1 safe" in made.stdout, made.stdout + made.stderr
    assert len(list(pack.rglob("*.py"))) > 100 and not (pack / "tests").exists()
    (pack / "nodes/wrong.py").write_text("from comfy.samplers import NO_SUCH_NAME\n")
    assert import_guard(host, tmp_path).returncode == 1
