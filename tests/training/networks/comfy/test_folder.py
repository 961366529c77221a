"""ComfyUI's families as backbones; most checks are in ``inside_backbone.py``, run by each host."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from sv_core.errors import InvalidInput
from tests.host.circle import environment
from tests.host.server import PACK, Host
from training.networks.comfy import folder as comfy_folder

INSIDE = Path(__file__).parent / "inside_backbone.py"
CHECKS = re.findall(r"^def check_(\w+)", INSIDE.read_text(), re.MULTILINE)


@pytest.fixture(scope="module")
def found(comfy: Host, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What the checks found in that host: check -> complaint or None."""
    out = tmp_path_factory.mktemp("backbones")
    done = subprocess.run(
        [comfy.python, INSIDE, PACK, comfy.folder, tiny_models, out],
        cwd=out,
        env=environment(out / "packages"),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    print(done.stderr)
    return json.loads((out / "results.json").read_text())


@pytest.mark.comfy
@pytest.mark.parametrize("name", CHECKS)
def test_backbone_inside(found: dict, name: str) -> None:
    assert found[name] is None, found[name]


def make(folder: Path, version: str | None) -> Path:
    """What a ComfyUI folder is known by."""
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").touch()
    if version is not None:
        (folder / "comfyui_version.py").write_text(f'# generated\n__version__ = "{version}"\n')
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a ComfyUI, and nothing named."""
    monkeypatch.delenv(comfy_folder.VARIABLE, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setattr(comfy_folder, "PACK", tmp_path / "elsewhere" / "pack")
    return tmp_path / "home"


def test_a_named_folder_is_taken(home, tmp_path):
    make(home / "comfy/ComfyUI", "0.29.0")
    there = make(tmp_path / "mine", "0.3.64")
    assert comfy_folder.find(str(there)) == there
    assert comfy_folder.version(there) == (0, 3, 64)


def test_places_are_searched_in_order(home, tmp_path, monkeypatch):
    documents = make(home / "Documents/comfy/ComfyUI", "0.29.0")
    assert comfy_folder.find() == documents
    usual = make(home / "comfy/ComfyUI-2", "1.0")
    assert comfy_folder.find() == usual
    around = make(tmp_path / "around", "0.30.1")
    monkeypatch.setattr(comfy_folder, "PACK", around / "custom_nodes/pack")
    assert comfy_folder.find() == around
    named = make(tmp_path / "named", "0.29.0")
    monkeypatch.setenv(comfy_folder.VARIABLE, os.pathsep.join(["/nowhere", str(named)]))
    assert comfy_folder.find() == named and comfy_folder.find_all() == [named]


def test_an_old_one_is_passed_over_and_said_when_alone(home):
    old = make(home / "comfy/ComfyUI", "0.3.63")
    with pytest.raises(InvalidInput, match=r"is 0\.3\.63, and training needs 0\.3\.64 or newer"):
        comfy_folder.find()
    new = make(home / "comfy/ComfyUI-new", "0.3.64")
    assert comfy_folder.find() == new
    with pytest.raises(InvalidInput, match="update it"):
        comfy_folder.find(str(old))
    with pytest.raises(InvalidInput, match="of unknown version"):
        comfy_folder.find(str(make(home / "ancient", None)))


def test_none_and_a_wrong_one_are_said(home, tmp_path):
    with pytest.raises(InvalidInput, match=r"no ComfyUI found.*main.py.*COMFYUI_PATH"):
        comfy_folder.find()
    with pytest.raises(InvalidInput, match="is not a ComfyUI folder"):
        comfy_folder.find(str(tmp_path))


def test_the_interpreter_is_comfyui_s_own(tmp_path):
    folder = make(tmp_path / "ComfyUI", "0.29.0")
    assert comfy_folder.python_of(folder) == Path(sys.executable)
    inside = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    own = folder / "venv" / inside
    own.parent.mkdir(parents=True)
    own.touch()
    assert comfy_folder.python_of(folder) == own


def test_a_python_without_comfyui_s_packages_is_told_which_to_use(tmp_path):
    folder = make(tmp_path / "ComfyUI", "0.29.0")
    (folder / "comfy/__init__.py").touch()
    (folder / "comfy/cli_args.py").write_text("import a_package_that_nobody_has\n")
    code = (
        "import sys, torch; from pathlib import Path\n"
        "from training.networks.comfy.host import open_host\n"
        "try: open_host(Path(sys.argv[1]), torch.device('cpu'))\n"
        "except ValueError as e: print(e)\n"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, folder], cwd=PACK, capture_output=True, text=True, timeout=60
    )
    assert "lacks a_package_that_nobody_has" in said.stdout, said.stderr
    assert "run the training with ComfyUI's own Python" in said.stdout
