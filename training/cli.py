"""What every command does with errors: a user's mistake is one sentence, a defect is a report."""

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
"""Errors of the disk or the system. A missing file is not among them: it may be our own defect."""


def nothing(*_: object) -> None:
    """The default for what a command does not give: no explanation, no folder."""


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
    """Run a command; its exit code: 2 for an error of the user, 1 for a defect, 130 for Ctrl-C.

    ``smaller`` returns how to need less memory. ``explain`` is called first for any exception other
    than InvalidInput and returns a sentence or None. ``folder`` returns where a defect's log goes.
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
    """A sentence for errors of the system, the memory or a run's numbers; None for a defect."""
    if isinstance(
        e, FloatingPointError
    ):  # neither Python nor torch raises it, so its text is our sentence
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
    """Whether a path is on the command line, or is a parent folder of one that is."""
    if not isinstance(filename, str | os.PathLike):
        return False
    given = [value for value in vars(options).values() if isinstance(value, Path)]
    return any(Path(filename) in (path, *path.parents) for path in given)


def _speaks(e: Exception) -> bool:
    """Whether this process prints: an error that all of a machine have is printed by one."""
    alike = isinstance(e, InvalidInput | FloatingPointError) and not isinstance(e, OSError)
    return not alike or os.environ.get("LOCAL_RANK", "0") == "0"


def _report(e: Exception, options: argparse.Namespace, folder: Callable[[], Path | None]) -> None:
    """Print one line and the traceback, and append both to the log in the command's folder."""
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


def keep(e: Exception, folder: Path) -> None:
    """Append the traceback of an error that did not end the command to the folder's log."""
    _keep("".join(traceback.format_exception(e)), lambda: folder)


def _keep(trace: str, folder: Callable[[], Path | None]) -> Path | None:
    """Append to the folder's log; returns its path, or None when there is no folder to write to."""
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
    except Exception:  # finding the folder may be what failed; the report must still be printed
        return None
