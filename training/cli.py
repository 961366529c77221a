"""The edge of every command: a person's mistake is one sentence, a defect of ours a report."""

import argparse
import errno
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch

from sv_core.errors import InvalidInput

ISSUES = "https://github.com/stable-velocity/stable-velocity/issues"
LOG = "defect.log"
_OUTSIDE = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO,
    errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENAMETOOLONG, errno.EPIPE,
)  # fmt: skip
"""What disks and systems refuse. That a file is not there can as well be a mistake of ours."""


def nothing(*_: object) -> None:
    """No further explanation, no folder."""


def add_debug(parser: argparse.ArgumentParser) -> None:
    """The option that every command has."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of every error")


def guard(
    run: Callable[[], int],
    options: argparse.Namespace,
    *,
    stopped: str = "stopped",
    smaller: Callable[[], str | None] = nothing,
    explain: Callable[[Exception], str | None] = nothing,
    folder: Callable[[], Path | None] = nothing,
) -> int:
    """Run a command; its exit code: 2 for what a person can mend, 1 for a defect, 130 for Ctrl-C.

    ``smaller`` says how to need less memory, ``explain`` is asked first about any other exception
    than InvalidInput, ``folder`` is where the log of a defect may lie.
    """
    try:
        return run()
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 130
    except Exception as e:
        if not _speaks(e):
            return 2
        sentence = str(e) if isinstance(e, InvalidInput) else explain(e) or _known(e, options)
        if sentence is None:
            _report(e, options, folder)
            return 1
        if options.debug:
            traceback.print_exception(e)
        way = smaller() if _is_memory(e) else None
        print(f"error: {sentence}" + (f": {way}" if way else ""), file=sys.stderr)
        return 2


def _known(e: Exception, options: argparse.Namespace) -> str | None:
    """What the system, the memory or the numbers of a run refuse, in words; None for a defect."""
    if isinstance(e, FloatingPointError):  # neither Python nor torch raises it: it is in words
        return str(e)
    if isinstance(e, torch.OutOfMemoryError):
        return "the GPU's memory is full"
    if _is_memory(e):
        return "the computer's memory is full"
    if isinstance(e, OSError) and (e.errno in _OUTSIDE or _named(e.filename, options)):
        return f"cannot use {e.filename or 'a file'}: {e.strerror}"
    return None


def _is_memory(e: Exception) -> bool:
    own = isinstance(e, RuntimeError) and "DefaultCPUAllocator" in str(e)  # torch's MemoryError
    return own or isinstance(e, torch.OutOfMemoryError | MemoryError)


def _named(filename: object, options: argparse.Namespace) -> bool:
    """Whether a path stands on the command line, or has to be there for one that does."""
    if not isinstance(filename, str | os.PathLike):
        return False
    given = [value for value in vars(options).values() if isinstance(value, Path)]
    return any(Path(filename) in (path, *path.parents) for path in given)


def _speaks(e: Exception) -> bool:
    """Whether this process of several prints: what all of a machine come to alike, one says."""
    alike = isinstance(e, InvalidInput | FloatingPointError) and not isinstance(e, OSError)
    return not alike or os.environ.get("LOCAL_RANK", "0") == "0"


def _report(e: Exception, options: argparse.Namespace, folder: Callable[[], Path | None]) -> None:
    """One line, then the traceback, which a folder of the command's own keeps as well."""
    trace = "".join(traceback.format_exception(e))
    log = _keep(trace, folder)
    config = getattr(options, "config", None)
    parts = [str(log) if log else "the text below", "your command line", config and str(config)]
    attached = ", ".join(part for part in parts if part)
    print(
        f"defect: this is an error in Stable Velocity, not in your input; please report it at "
        f"{ISSUES} and attach {attached}\n{trace}",
        end="",
        file=sys.stderr,
    )


def _keep(trace: str, folder: Callable[[], Path | None]) -> Path | None:
    """Append to the folder's log; where, or None when there is no folder to write into."""
    try:
        place = folder()
        if place is None or not place.is_dir():
            return None
        stamp = time.strftime("%Y-%m-%d %H:%M:%S")
        machine = f"Python {platform.python_version()}, torch {torch.__version__}, "
        machine += platform.platform()
        with open(place / LOG, "a", encoding="utf-8") as file:
            file.write(f"{stamp}, {machine}\n{' '.join(sys.argv)}\n{trace}\n")
        return place / LOG
    except Exception:  # what failed may be what finds the folder; the report comes first
        return None
