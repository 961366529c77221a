"""metrics.jsonl: one line per step, none twice and none missing, also after a crash."""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..files import in_words, write_atomically

Mark = tuple[int, str]
"""(bytes, BLAKE2) of the file at the moment of a save."""


class Metrics:
    """The file, open for the lines of further steps. ``notes`` say what is wrong with the old."""

    def __init__(self, path: Path, step: int, mark: Mark | None = None):
        """Go on after ``step``: lines of later steps are removed, as a crash undid them.

        ``mark`` is that of the save which the run goes on from.
        """
        self.path = path
        kept, steps = _lines(path, step) if step else ([], [])
        self.notes = [f"{path} {problem}" for problem in _problems(path, step, steps, mark)]
        write_atomically(path, lambda file: [file.write(line) for line in kept])
        self._digest = hashlib.blake2b(b"".join(kept), digest_size=16)
        self._size = sum(map(len, kept))
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115  closed by close()

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one step's record, so that a kill loses none. Raises Unavailable; all or none."""
        line = json.dumps(record).encode() + b"\n"
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]
        except OSError as e:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)  # half a line, where the disk became full
            raise in_words(e, self.path) from e
        self._size += len(line)
        self._digest.update(line)

    def sync(self) -> Mark:
        """Push the lines to the disk, before a state is saved that counts on them."""
        try:
            os.fsync(self._file.fileno())
        except OSError as e:
            raise in_words(e, self.path) from e
        return self._size, self._digest.hexdigest()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


def _lines(path: Path, last: int) -> tuple[list[bytes], list[int]]:
    """The lines of the steps up to ``last``, each later than the one before, and these steps."""
    lines, steps = [], []
    if path.exists():
        for line in path.read_bytes().splitlines():
            step = _step(line)
            if step is not None and (steps[-1] if steps else 0) < step <= last:
                lines.append(line + b"\n")
                steps.append(step)
    return lines, steps


def _step(line: bytes) -> int | None:
    """A line's step; None for a line that a kill cut short, or that is something else."""
    with contextlib.suppress(ValueError, RecursionError):
        record = json.loads(line)
        step = record.get("step") if isinstance(record, dict) else None
        return step if type(step) is int else None
    return None


def _problems(path: Path, last: int, steps: list[int], mark: Mark | None) -> Iterable[str]:
    missing = sorted(set(range(1, last + 1)) - set(steps))
    if missing:
        yield f"has no lines of {_ranges(missing)}: they are lost, the run is not"
    elif mark is not None:
        size, digest = mark
        with open(path, "rb") as file:
            if hashlib.blake2b(file.read(size), digest_size=16).hexdigest() != digest:
                yield "was changed since it was written"


def _ranges(steps: list[int]) -> str:
    """Numbers as text: ``steps 3 to 7, 9``."""
    known = set(steps)
    starts = [s for s in steps if s - 1 not in known]
    ends = [s for s in steps if s + 1 not in known]
    parts = [str(a) if a == b else f"{a} to {b}" for a, b in zip(starts, ends, strict=True)]
    more = f" and {len(parts) - 5} more gaps" if len(parts) > 5 else ""
    return ("step " if len(steps) == 1 else "steps ") + ", ".join(parts[:5]) + more
