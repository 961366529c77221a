"""A lock that lets one run at a time work in a folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sv_core.errors import InvalidInput, Unavailable

from ..data import format

_LOCK = ".lock"


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Context manager: make the folder and lock it; a second run gets InvalidInput."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        others = [p for p in cache.iterdir() if not p.name.startswith(".")]
        if others and not (cache / format.INDEX).exists():
            raise InvalidInput(
                f"{cache} holds other files (such as {others[0].name}) and no cache: name a new "
                f"or an empty folder"
            )
        lock = open(cache / _LOCK, "a+b")  # noqa: SIM115  closed below
    except OSError as e:
        raise Unavailable(f"cannot write into {cache}: {e.strerror or e}") from e
    with lock:
        try:
            _lock(lock.fileno())
        except OSError:
            raise InvalidInput(
                f"another training.prepare is at work in {cache}: wait for it"
            ) from None
        for stale in cache.glob(".*.partial"):
            stale.unlink()
        yield


def _lock(handle: int) -> None:
    """Lock a file. The system drops the lock with the process, so a kill leaves none behind."""
    if os.name == "nt":
        import msvcrt

        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
