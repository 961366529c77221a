"""A fault at each of a job's file operations: it must be said in words, and cost nothing."""

import os
import random
import shutil
import tempfile
import time
from pathlib import Path

from training import files

from .counts import Counts
from .disk import MODES, Crash, Disk, under
from .jobs import JOBS, Failed, Job, Whole, finish, furnish, hang, undisturbed

TIMES = (1, 1, 1, 3, 10**9)
"""How many operations in a row fail: one, a few, or all that follow."""


def run(seconds: float, seed: int) -> Counts:
    """Jobs in turn, each disturbed once, taken up again and compared, until the time is over."""
    counts, draw, end = Counts(), random.Random(seed), time.monotonic() + seconds
    pause, files.PAUSE = files.PAUSE, 0.001
    try:
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder).resolve()
            furnish(home)
            whole = undisturbed(home)
            operations = {name: _count(job, home) for name, job in JOBS.items()}
            for number in range(10**9):
                if time.monotonic() > end and number >= len(JOBS):
                    return counts
                name = list(JOBS)[number % len(JOBS)]
                at, mode = draw.randint(1, operations[name]), draw.choice(MODES)
                disk = (mode, at, draw.choice(TIMES) if mode == "fail" else 1)
                _disturb(name, whole[name], home / "work", disk, counts)
                shutil.rmtree(home / "work")
    finally:
        files.PAUSE = pause
    return counts


def _count(job: Job, home: Path) -> int:
    """How many file operations a job has."""
    work = home / f"counted {id(job)}"
    work.mkdir()
    disk = Disk(work)
    with under(disk):
        job.start(work)
    return disk.count


def _disturb(
    name: str, whole: Whole, work: Path, chosen: tuple[str, int, int], counts: Counts
) -> None:
    """Let one operation fail, then take the job up again."""
    job, (mode, at, times) = JOBS[name], chosen
    kind, which = f"faults in {name}", f"{mode} at operation {at}, {times} times"
    counts.add(kind)
    work.mkdir()
    disk, safe, began = Disk(work, mode, at, times), _Safe(job, work), time.monotonic()
    try:
        with under(disk), safe:
            job.start(work)
    except Crash:
        disk.lose_power()
    except Failed as e:
        counts.find(kind, "traceback", f"{which}: {e}")
        return
    if time.monotonic() - began > hang():
        counts.find(kind, "hang", f"{which}: {time.monotonic() - began:.0f} s")
    if job.kept(work) < safe.most:
        counts.find(kind, "loss", f"{which}: {job.kept(work)} of {safe.most} are left")
    wrong = finish(job, whole, work)
    if wrong:
        counts.find(kind, wrong[0], f"{which}: {wrong[1]}")


class _Safe:
    """Context manager: notes how much a job has said to be safe, whenever a folder was synced."""

    def __init__(self, job: Job, work: Path):
        self.job, self.work, self.most = job, work, 0

    def __enter__(self) -> None:
        self._sync = files._sync_folder

        def sync(folder: Path) -> None:
            self._sync(folder)
            self.most = max(self.most, self.job.kept(self.work))

        files._sync_folder = sync

    def __exit__(self, *error: object) -> None:
        files._sync_folder = self._sync


if os.name == "nt":  # an open file cannot be removed there, as lose_power does
    MODES = ("fail", "full")
