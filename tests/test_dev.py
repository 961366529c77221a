"""What `python dev.py comfy` puts into a user's ComfyUI: links, and nothing over his own files."""

import os
from pathlib import Path

import pytest

import dev


@pytest.fixture
def model(tmp_path: Path) -> Path:
    file = tmp_path / "pack/model.ckpt"
    file.parent.mkdir()
    file.write_bytes(b"ours")
    return file


def test_a_model_is_linked_where_there_is_none(model: Path, tmp_path: Path) -> None:
    dev.link_model(model, tmp_path / "models/checkpoints")
    place = tmp_path / "models/checkpoints/model.ckpt"
    assert place.read_bytes() == b"ours" and place.is_symlink() == (os.name != "nt")


def test_it_is_linked_once(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    for _ in range(2):
        dev.link_model(model, tmp_path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["file", "link that leads nowhere"])
def test_what_the_user_has_there_stays(
    model: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture
) -> None:
    place = tmp_path / "model.ckpt"
    if kind == "file":
        place.write_bytes(b"his")
    else:
        place.symlink_to(tmp_path / "gone")
    dev.link_model(model, tmp_path)
    assert "stays" in capsys.readouterr().out
    assert place.read_bytes() == b"his" if kind == "file" else place.is_symlink()
