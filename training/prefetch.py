"""Reading many files ahead of their use, and telling a damaged file from a disk that is gone."""

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
    """function(task) of each task in order, computed up to ``depth`` ahead of who asks."""
    waiting: deque = deque()
    for task in tasks:
        waiting.append(pool.submit(function, task))
        if len(waiting) > depth:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def attempt(task: tuple[Path, Callable[[Path], B]]) -> B | str:
    """What a reader makes of a file, or why the file is damaged.

    Raises Unavailable, in one sentence, when not the file fails but the disk: to skip all
    that an unplugged disk holds would make a cache of nothing.
    """
    path, read = task
    try:
        return read(path)
    except Exception as e:  # on damaged bytes decoders raise whatever comes
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
    """Whether it is a defect here, not damaged bytes: raised in our own lines, and not in words.

    A file without a single frame ends an iterator in our lines, too.
    """
    trace = e.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    where = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    own = where.partition(".")[0] == __name__.partition(".")[0]
    return own and not isinstance(e, InvalidInput | StopIteration | OSError)
