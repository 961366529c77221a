"""The campaign's short form: a few seconds of each part. The long one: dev.py test --campaign."""

import pytest

from tests.campaign.__main__ import parts
from tests.campaign.counts import OUTCOMES, Counts, table
from tests.campaign.disk import Crash, Disk, under
from tests.inside import MISSING
from training.files import write_atomically

SECONDS = 6.0
PARTS = parts()


def marked(name: str):
    """A part's name, marked if it needs ComfyUI."""
    return pytest.param(name, marks=pytest.mark.comfy if hasattr(PARTS[name], "hosts") else ())


@pytest.mark.parametrize("name", [marked(name) for name in PARTS])
def test_nothing_is_found_in_a_few_seconds(name):
    if hasattr(PARTS[name], "hosts") and not PARTS[name].hosts():
        pytest.skip(MISSING)
    counts = PARTS[name].run(SECONDS, seed=0)
    assert counts.tried.total() > 0
    assert counts.findings == []


def test_the_table_counts_each_kind_and_all():
    counts, other = Counts(), Counts()
    counts.add("kills", 3)
    counts.find("kills", "loss", "seed 1, kill 2")
    other.add("inputs", 2)
    other.find("inputs", "traceback", "channels=2")
    counts.join(other)
    head, line, *rows = table(counts).splitlines()
    assert head.count("|") == line.count("|") == len(OUTCOMES) + 3
    assert rows == [
        "| kills | 3 | 1 | 0 | 0 | 0 | 0 |",
        "| inputs | 2 | 0 | 0 | 1 | 0 | 0 |",
        "| **all** | 5 | 1 | 0 | 1 | 0 | 0 |",
    ]
    with pytest.raises(AssertionError):
        counts.find("kills", "another", "")


@pytest.mark.parametrize("forgotten", ["file", "folder"])
def test_the_disk_finds_a_writer_that_does_not_sync(monkeypatch, tmp_path, forgotten):
    """Without the sync of a file or of its folder a crash costs what was said to be saved."""
    real = Disk.synced

    def synced(self, handle):
        path = self._open.get(handle)
        if path is not None and path.is_dir() == (forgotten == "file"):
            real(self, handle)

    monkeypatch.setattr(Disk, "synced", synced)
    mode = "crash with names" if forgotten == "file" else "crash without names"
    disk = Disk(tmp_path, mode, at=12)
    with pytest.raises(Crash), under(disk):
        for number in range(99):
            write_atomically(tmp_path / str(number), lambda file: file.write(b"whole"))
    disk.lose_power()
    assert b"whole" not in {p.read_bytes() for p in tmp_path.glob("[0-9]*")}
    monkeypatch.undo()
    disk = Disk(tmp_path, mode, at=12)
    with pytest.raises(Crash), under(disk):
        for number in range(99):
            write_atomically(tmp_path / str(number), lambda file: file.write(b"whole"))
    disk.lose_power()
    assert (tmp_path / "0").read_bytes() == b"whole"
