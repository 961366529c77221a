"""One process at a time in a folder; a dead one is in nobody's way."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sv_core.errors import InvalidInput, Unavailable
from training import lock
from training.lock import LOCK, alone

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys
from pathlib import Path
from training.lock import alone
with alone(Path(sys.argv[1]), "a child"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_one_is_refused_and_told_who_it_is(tmp_path):
    own = rf"another run is at .*process {os.getpid()} on"
    second = alone(tmp_path, "another run")
    with alone(tmp_path, "another run"), pytest.raises(InvalidInput, match=own):
        second.__enter__()
    with alone(tmp_path, "another run"):
        pass  # it is free again


@pytest.mark.skipif(os.name == "nt", reason="Windows has no kill -9")
def test_the_lock_of_a_killed_process_blocks_nobody(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tmp_path)],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout.readline() == "held\n"
    with pytest.raises(InvalidInput, match=f"process {child.pid} on"), alone(tmp_path, "a run"):
        pass
    child.send_signal(signal.SIGKILL)
    child.communicate(timeout=60)
    assert (tmp_path / LOCK).read_text().startswith(f"process {child.pid} ")
    with alone(tmp_path, "a run"):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} ")


def test_a_disk_without_locks_and_a_folder_that_cannot_be_written_to(tmp_path, monkeypatch):
    def unknown(file):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(lock, "_lock", unknown)
    with alone(tmp_path, "a run"):
        pass
    with pytest.raises(Unavailable, match="cannot write into"), alone(tmp_path / "no", "a run"):
        pass
