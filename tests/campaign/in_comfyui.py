"""Bad inputs of every node, and hosts that have changed, inside every ComfyUI that is found."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.host.server import Host, find_hosts
from tests.inside import OWN_PYTHON, lend

from .counts import Counts

SCRIPT = Path(__file__).with_name("_inside.py")
BEGINNING = 300.0
"""Seconds in which ComfyUI must have been imported, and the last case must have ended."""


def hosts() -> list[Host]:
    """Where the part can run: its alarms and its limit of memory are POSIX's."""
    return [] if os.name == "nt" else find_hosts()


def run(seconds: float, seed: int) -> Counts:
    """An equal share of the time in each ComfyUI; importing it comes on top."""
    counts, found = Counts(), hosts()
    for host in found:
        counts.join(_in_one(host, seconds / len(found), seed))
    return counts


def _in_one(host: Host, seconds: float, seed: int) -> Counts:
    done = subprocess.run(
        [host.python, SCRIPT, str(seconds), str(seed)],
        cwd=host.folder,
        env=os.environ
        | {
            "PYTHONPATH": str(lend()),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            OWN_PYTHON: sys.executable,
        },
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds + BEGINNING,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    tried, findings = json.loads(done.stdout.splitlines()[-1])
    counts = Counts()
    for kind, cases in tried.items():
        counts.add(kind, cases)
    for kind, outcome, detail in findings:
        counts.find(kind, outcome, f"{host.name}: {detail}")
    return counts
