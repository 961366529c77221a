"""dev.py's commands end what they have started."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CHILD = "import os, pathlib, time; pathlib.Path('pid').write_text(str(os.getpid())); time.sleep(60)"
STARTER = "import dev, pathlib, sys; sys.exit(dev.run_to_the_end({}, pathlib.Path({!r})))"
SIGNALS = [s for s in signal.Signals if s.name in ("SIGTERM", "SIGHUP", "SIGINT")]


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    return condition()


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a console's processes together")
@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_comfyui_too(tmp_path: Path, number: signal.Signals) -> None:
    code = STARTER.format([sys.executable, "-c", CHILD], str(tmp_path))
    starter = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)
    pid = tmp_path / "pid"
    try:
        assert wait_for(lambda: pid.exists() and pid.read_text() != "")
        if number == signal.SIGINT:  # which a terminal sends to both
            os.killpg(starter.pid, number)
        else:
            starter.send_signal(number)
        assert starter.wait(20) != 0
        assert wait_for(lambda: not is_running(int(pid.read_text())))
    finally:
        if starter.poll() is None:
            os.killpg(starter.pid, signal.SIGKILL)


def test_the_exit_code_is_that_of_the_command(tmp_path: Path) -> None:
    code = STARTER.format([sys.executable, "-c", "raise SystemExit(7)"], str(tmp_path))
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 7
