"""Where model files are, and when they changed."""

import os
from importlib import import_module

import folder_paths
import pytest

from tests.nodes.loaded_pack import NAME, complaint

pytestmark = pytest.mark.inside

files = import_module(".nodes.host.files", NAME)


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
