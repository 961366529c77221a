"""The parts that need ComfyUI, in its own Python and folder: bad inputs and changed hosts.

    cd ComfyUI
    .venv/bin/python PACK/tests/campaign/_inside.py SECONDS SEED

What was tried and found is the last line that is printed, as JSON.
"""

import contextlib
import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACK = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(PACK))
import tests.host.server  # noqa: E402, F401  before the host's own folder of that name

sys.path[:] = [os.getcwd(), *(p for p in sys.path if p not in (os.getcwd(), str(PACK))), str(PACK)]
from tests.nodes import loaded_pack  # noqa: E402, F401  isort: skip  before anything of the host
import torch  # noqa: E402

from tests.campaign.counts import Counts  # noqa: E402
from tests.nodes import bad_inputs, changed_host  # noqa: E402

INPUTS, CHANGES = "bad inputs of nodes", "changes of the host"
LONGEST = 10.0
"""Seconds that one input may take."""
MEMORY = 6 * 2**30
"""Bytes of address space that one input may ask for."""


class TooLong(BaseException):
    """The alarm."""


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    """Context manager: TooLong after so many seconds."""

    def ring(*_: Any) -> None:
        raise TooLong

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def limit_memory() -> None:
    """What asks for more gets an exception, where it would have taken the machine down."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


class Outside:
    """Notes every file that is opened for writing, renamed or made outside of a folder."""

    def __init__(self, folder: Path):
        self._inside, self.found = str(folder), []
        self.watching = False
        sys.addaudithook(self._hear)

    def _hear(self, event: str, args: tuple) -> None:
        if not self.watching or event not in ("open", "os.mkdir", "os.rename", "os.symlink"):
            return
        if event == "open" and not _writes(args):
            return
        path = args[1] if event in ("os.rename", "os.symlink") else args[0]
        if isinstance(path, str | os.PathLike) and not self._allowed(os.path.abspath(path)):
            self.found.append(f"{event} {path}")

    def _allowed(self, path: str) -> bool:
        return path.startswith((self._inside, "/dev/", "/proc/"))


def _writes(args: tuple) -> bool:
    _, mode, flags = args
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT
    return bool(flags & writing) if flags else "r" not in (mode or "r")


def is_sense(made: Any) -> bool:
    """Whether all numbers of a result are numbers."""
    return not isinstance(made, torch.Tensor) or bool(made.isfinite().all())


def try_inputs(bench: Any, end: float, draw: random.Random, counts: Counts) -> None:
    outside = Outside(bench.folder)
    with bench.in_folders():
        nodes, _, _ = bench.load()
        cases = list(bad_inputs.Inputs(bench, nodes).cases())
        draw.shuffle(cases)
        for case in cases:
            if time.monotonic() > end:
                break
            counts.add(INPUTS)
            try_one(case, outside, counts)


def try_one(case: Any, outside: Outside, counts: Counts) -> None:
    outside.watching, outside.found = True, []
    try:
        with alarm(LONGEST):
            made = case.run()
        if case.needs_sense and not is_sense(made):
            counts.find(INPUTS, "silent", f"{case.label}: not numbers")
    except TooLong:
        counts.find(INPUTS, "hang", case.label)
    except Exception as e:
        if not any(kind.__name__ == "InvalidInput" for kind in type(e).__mro__):
            where = traceback.extract_tb(e.__traceback__)[-1]
            counts.find(INPUTS, "traceback", f"{case.label}: {e!r:.200} ({where.name})")
        elif "\n" in str(e) or len(str(e)) > 900:
            counts.find(INPUTS, "traceback", f"{case.label}: no sentence, but {e!r:.200}")
    outside.watching = False
    for found in outside.found:
        counts.find(INPUTS, "outside", f"{case.label}: {found}")


def try_changes(bench: Any, end: float, draw: random.Random, counts: Counts) -> None:
    changes = changed_host.changes()
    draw.shuffle(changes)
    for change in changes:
        if time.monotonic() > end:
            break
        counts.add(CHANGES)
        for found in bench.outcome(change).findings:
            counts.find(CHANGES, found.outcome, " ".join(found.detail.split())[:400])


def main() -> None:
    seconds, seed = float(sys.argv[1]), int(sys.argv[2])
    draw, counts, began = random.Random(seed), Counts(), time.monotonic()
    with changed_host.bench() as bench:
        limit_memory()
        try_inputs(bench, began + seconds / 2, draw, counts)
        try_changes(bench, began + seconds, draw, counts)
    print(json.dumps([dict(counts.tried), [list(found) for found in counts.findings]]))


if __name__ == "__main__":
    main()
