"""Processes that are killed at any moment, by SIGKILL, and started again."""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

from .counts import Counts
from .jobs import JOBS, Job, Whole, finish, furnish, undisturbed

MOST = 5
"""How often a job is killed until it is let through."""


def run(seconds: float, seed: int) -> Counts:
    """Jobs in turn, each killed a few times, until the time is over."""
    counts, draw, end = Counts(), random.Random(seed), time.monotonic() + seconds
    if not hasattr(os, "fork"):
        return counts
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        furnish(home)
        whole = undisturbed(home)
        for number in range(10**9):
            if time.monotonic() > end and number >= len(JOBS):
                return counts
            name = list(JOBS)[number % len(JOBS)]
            _torment(name, whole[name], home / "work", draw, counts, f"seed {seed}, job {number}")
            shutil.rmtree(home / "work")
    return counts


def _torment(
    name: str, whole: Whole, work: Path, draw: random.Random, counts: Counts, which: str
) -> None:
    """Kill a job several times, let it through, and compare."""
    kind, job, safe = f"kills of {name}", JOBS[name], 0
    work.mkdir()
    for _ in range(draw.randint(1, MOST)):
        if _start(job, work, draw.uniform(0, 1.2 * whole.seconds)) != -signal.SIGKILL:
            break
        counts.add(kind)
        now = job.kept(work)
        if now < safe:
            counts.find(kind, "loss", f"{which}: {now} of {safe} are left")
        safe = now
    wrong = finish(job, whole, work)
    if wrong:
        counts.find(kind, wrong[0], f"{which}: {wrong[1]}")


def _start(job: Job, work: Path, after: float) -> int:
    """Start a job in a copy of this process and kill that; its exit code, or the signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = job.start(work)
        finally:
            os._exit(code)
    end = time.monotonic() + after
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
