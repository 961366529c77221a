"""The metrics' file after a crash, after damage, and on a full disk."""

import errno
import json
import os
from pathlib import Path

import pytest

from training.files import DiskFull
from training.run.metrics import Metrics


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.fixture
def written(tmp_path):
    """A file of five steps, and its mark."""
    path = tmp_path / "metrics.jsonl"
    metrics = Metrics(path, 0)
    for step in range(1, 6):
        metrics.add({"step": step, "loss": step / 3})
    mark = metrics.sync()
    metrics.close()
    return path, mark


@pytest.mark.parametrize("tail", ["", '{"step": 6, "lo', '{"step": 5}\n{"st'])
def test_metrics_go_on_after_the_state_s_step(written, tail):
    path, _ = written
    path.write_text(path.read_text() + tail)
    metrics = Metrics(path, 3)
    assert steps(path) == [1, 2, 3] and not metrics.notes
    metrics.add({"step": 4, "loss": 0.5})
    assert steps(path) == [1, 2, 3, 4], "a kill now would lose the line"
    metrics.sync()
    metrics.close()
    assert json.loads(path.read_text().splitlines()[1])["loss"] == 2 / 3
    Metrics(path, 0).close()
    assert steps(path) == []  # a new run


@pytest.mark.parametrize(
    ("damage", "kept", "note"),
    [
        (lambda lines: lines[:2], [1, 2], "has no lines of steps 3 to 5"),
        (lambda lines: [*lines[:1], b"\x00\xff", *lines[2:]], [1, 3, 4, 5], "no lines of step 2:"),
        (lambda lines: [lines[0], b'{"loss": 1}', b"7", *lines[3:]], [1, 4, 5], "steps 2 to 3"),
        (lambda lines: [b"[" * 10**5, *lines[1:]], [2, 3, 4, 5], "no lines of step 1:"),
        (lambda lines: [x.replace(b"1.6", b"9.6") for x in lines], [1, 2, 3, 4, 5], "was changed"),
        (lambda lines: lines, [1, 2, 3, 4, 5], None),
    ],
)
def test_what_is_missing_or_changed_is_named(written, damage, kept, note):
    path, mark = written
    path.write_bytes(b"\n".join(damage(path.read_bytes().splitlines())) + b"\n")
    metrics = Metrics(path, 5, mark)
    assert steps(path) == kept
    assert bool(metrics.notes) == bool(note) and (note is None or note in metrics.notes[0])
    metrics.close()


def test_a_line_that_a_full_disk_cut_is_taken_back(written, monkeypatch):
    path, _ = written
    metrics, whole = Metrics(path, 5), path.read_bytes()

    class Full:
        def write(self, data):
            if len(data) < 10:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real.write(data[:8])

        def __getattr__(self, name):
            return getattr(real, name)

    real = metrics._file
    monkeypatch.setattr(metrics, "_file", Full())
    with pytest.raises(DiskFull, match=r"could not write .*the disk is full"):
        metrics.add({"step": 6})
    assert path.read_bytes() == whole
    monkeypatch.undo()
    metrics.add({"step": 6})
    assert steps(path) == [1, 2, 3, 4, 5, 6]
    metrics.close()
