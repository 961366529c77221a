"""Finding a person's ComfyUI, its version and its Python."""

import os
import sys
from pathlib import Path

import pytest

from sv_core.errors import InvalidInput
from training.networks.comfy import folder as comfy_folder


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
