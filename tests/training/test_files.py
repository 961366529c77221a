"""Files are written whole or not at all, say what they are, and never run code."""

from pathlib import Path

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.models.sit import SiT, SiTConfig
from training import files
from training.data.dataset import load as load_data
from training.networks.sit import build, load


def test_checkpoints_that_are_something_else(tiny, tmp_path):
    data = load_data(tiny.data)
    with pytest.raises(InvalidInput, match="there is no checkpoint"):
        load(tmp_path / "missing.safetensors")
    other = tmp_path / "other.safetensors"
    files.save_weights(other, {"unet.weight": torch.ones(3)}, {})
    with pytest.raises(InvalidInput, match="not a SiT checkpoint"):
        load(other)
    wrong = tmp_path / "big.pt"
    torch.save(SiT(SiTConfig(8, 4, 4, 64, 1, 1, num_classes=10)).state_dict(), wrong)
    with pytest.raises(InvalidInput, match="sd latents of 4 channels"):
        build(type(tiny.model)(checkpoint=str(wrong)), data, 0)


def test_a_checkpoint_never_runs_code(tmp_path):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": Trap()}, tmp_path / "trap.pt")
    with pytest.raises(InvalidInput, match="cannot be read"):
        load(tmp_path / "trap.pt")
    assert not (tmp_path / "sprung").exists()
