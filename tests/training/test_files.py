"""Files are written whole or not at all, say what they are, and never run code."""

import errno
import threading
from pathlib import Path

import pytest
import torch

from sv_core.errors import InvalidInput, Unavailable
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


def test_two_writers_never_share_a_temporary_file(tmp_path):
    seen = []

    def write(file):
        seen.append({p.name for p in tmp_path.iterdir()})
        if len(seen) == 1:
            files.write_atomically(tmp_path / "x", write)
        file.write(b"%d" % len(seen))

    files.write_atomically(tmp_path / "x", write)
    assert len(seen[1]) == 2 and (tmp_path / "x").read_bytes() == b"2"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("error", [InvalidInput("no"), KeyError("no"), KeyboardInterrupt()])
def test_a_writer_that_fails_leaves_nothing(tmp_path, error):
    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(type(error)):
        files.write_atomically(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


def full() -> None:
    raise files.in_words(OSError(errno.ENOSPC, "no space"), Path("x"))


def test_a_full_disk_is_waited_for_and_said_once(monkeypatch):
    monkeypatch.setattr(files, "PAUSE", 0.01)
    tries, told = [], []

    def write():
        tries.append(1)
        return 7 if len(tries) == 4 else full()

    assert files.patiently(write, told.append, threading.Event()) == 7
    assert len(told) == 1 and "disk is full" in told[0] and "waiting for room" in told[0]


def test_waiting_for_a_disk_ends_when_asked_or_when_others_wait(monkeypatch):
    monkeypatch.setattr(files, "PAUSE", 60.0)
    asked = threading.Event()
    threading.Timer(0.05, asked.set).start()
    with pytest.raises(files.DiskFull):
        files.patiently(full, lambda text: None, asked)
    monkeypatch.setattr(files, "PAUSE", 0.01)
    with pytest.raises(files.DiskFull):
        files.patiently(full, lambda text: None, threading.Event(), limit=0.05)


def test_what_room_does_not_help_is_not_waited_for():
    def limited():
        raise files.in_words(OSError(errno.EFBIG, "too large"), Path("x"))

    with pytest.raises(Unavailable, match="the disk is full"):
        files.patiently(limited, print, threading.Event())
