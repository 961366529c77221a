"""A lock that lets one process at a time write into a folder."""

import contextlib
import errno
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from sv_core.errors import InvalidInput, Unavailable

LOCK = ".lock"
_BUSY = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_FAR = 1 << 30
"""Windows locks bytes: one behind the text, which others must be able to read."""


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Context manager: lock a folder that is there; a second process gets InvalidInput.

    ``what`` is who may be at work, such as "another training.prepare". The system drops the lock
    with its process, so a kill leaves none behind. Where a disk knows no locks there is none.
    """
    try:
        file = open(folder / LOCK, "a+b")  # noqa: SIM115  closed below
    except OSError as e:
        raise Unavailable(f"cannot write into {folder}: {e.strerror or e}") from e
    with file:
        try:
            _lock(file)
        except OSError as e:
            if e.errno in _BUSY:
                raise InvalidInput(
                    f"{what} is at work in {folder}{_owner(file)}: wait for it, or name another "
                    f"folder"
                ) from None
        with contextlib.suppress(OSError):  # a full disk: the name is only for the message
            file.truncate(0)
            file.write(f"process {os.getpid()} on {platform.node()}".encode())
            file.flush()
        yield


def _owner(file: IO[bytes]) -> str:
    with contextlib.suppress(OSError):
        file.seek(0)
        text = file.read(200).decode("utf-8", "replace")
        return f" ({text})" if text else ""
    return ""


def _lock(file: IO[bytes]) -> None:
    if os.name == "nt":
        import msvcrt

        file.seek(_FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
