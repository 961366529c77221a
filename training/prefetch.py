"""Reading many files ahead of their use, and telling damaged files from a failed disk."""

import errno
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from sv_core.errors import InvalidInput, Unavailable

A = TypeVar("A")
B = TypeVar("B")
_GONE = (errno.ENOENT, errno.EIO, errno.ESTALE, errno.EMFILE, errno.ENFILE)


def ahead(
    pool: ThreadPoolExecutor, function: Callable[[A], B], tasks: Iterable[A], depth: int
) -> Iterator[B]:
    """function(task) of each task in order, computed up to ``depth`` tasks ahead of the caller."""
    waiting: deque = deque()
    for task in tasks:
        waiting.append(pool.submit(function, task))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def attempt(task: tuple[Path, Callable[[Path], B]]) -> B | str:
    """The result of a reader for a file, or a sentence why the file is damaged.

    Raises Unavailable, in one sentence, when the disk fails and not the file: skipping every file
    of an unplugged disk would leave an empty cache.
    """
    path, read = task
    try:
        return read(path)
    except Exception as e:  # on damaged bytes decoders raise all kinds of exceptions
        if isinstance(e, OSError) and e.errno in _GONE:
            raise Unavailable(
                f"cannot read {path}: {e.strerror}; finished shards are kept, put the pictures "
                f"back and run the same command again"
            ) from e
        if isinstance(e, MemoryError) or _ours(e):
            raise
        lines = str(e).splitlines()
        return (lines[0] if lines else type(e).__name__).replace(str(path), path.name)


def _ours(e: Exception) -> bool:
    """Whether an exception is our own defect and not damaged bytes: raised in our own code.

    InvalidInput and OSError are not; nor is StopIteration: a file without a frame raises it here.
    """
    trace = e.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    own = where.partition(".")[0] == __name__.partition(".")[0]
    return own and not isinstance(e, InvalidInput | StopIteration | OSError)
