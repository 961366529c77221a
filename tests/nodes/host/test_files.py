"""ComfyUI's model files: found or refused by name, read whole or refused, and their age."""

import os
import pickle
from importlib import import_module
from pathlib import Path

import folder_paths
import pytest
import torch
from safetensors.torch import save_file

from tests.nodes.loaded_pack import NAME, complaint

pytestmark = pytest.mark.inside
files = import_module(".nodes.host.files", NAME)


class Trap:
    def __reduce__(self):
        return (Path.touch, (Path("sprung"),))


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A models folder of a kind of its own."""
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "kind", ([str(tmp_path)], {".safetensors", ".pt"})
    )
    return tmp_path


def test_a_file_comes_back_as_it_was_written(folder):
    tensors = {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(1, dtype=torch.bfloat16)}
    save_file(tensors, folder / "net.safetensors", {"who": "me"})
    state, metadata = files.read_tensors("kind", "net.safetensors")
    assert metadata == {"who": "me"} and state.keys() == tensors.keys()
    assert all(torch.equal(state[k], tensors[k]) for k in tensors)
    assert Path(files.file_path("kind", "net.safetensors")) == folder / "net.safetensors"


def test_what_cannot_be_read_is_refused_by_its_name_and_never_run(folder):
    save_file({"a": torch.zeros(99)}, folder / "cut.safetensors")
    whole = (folder / "cut.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "page.pt").write_text("<html>")
    (folder / "trap.pt").write_bytes(pickle.dumps({"a": Trap()}))
    for name in ("cut.safetensors", "page.pt", "trap.pt"):
        words = complaint(lambda: files.read_tensors("kind", name))  # noqa: B023
        assert name in words and "cannot be read" in words
    assert not Path("sprung").exists()
    words = complaint(lambda: files.read_tensors("kind", "gone.pt"))
    assert "gone.pt is not in ComfyUI's models/kind" in words


def test_a_file_that_was_written_again_has_another_time(tmp_path):
    folder_paths.add_model_folder_path("loras", str(tmp_path))
    file = tmp_path / "trained.safetensors"
    file.write_bytes(b"1")
    assert files.file_path("loras", file.name) == str(file)
    before = files.model_modification_time("loras", file.name)
    os.utime(file, ns=(before, before + 10**9))
    assert files.model_modification_time("loras", file.name) == before + 10**9


def test_names_without_a_file_have_no_time(tmp_path):
    assert files.model_modification_time("loras", None) == 0
    assert files.model_modification_time("loras", "gone.safetensors") == 0
    assert files.modification_time(tmp_path / "gone") == files.modification_time(tmp_path) == 0
    assert "models/loras" in complaint(lambda: files.file_path("loras", "gone.safetensors"))
