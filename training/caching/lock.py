"""A cache's folder for one run of training.prepare alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sv_core.errors import InvalidInput, Unavailable

from .. import lock
from ..data import format
from ..files import clear_temporary


@contextmanager
def alone(cache: Path) -> Iterator[None]:
    """Context manager: make the folder and lock it; a second run gets InvalidInput."""
    try:
        cache.mkdir(parents=True, exist_ok=True)
        others = [p for p in cache.iterdir() if not p.name.startswith(".")]
    except OSError as e:
        raise Unavailable(f"cannot write into {cache}: {e.strerror or e}") from e
    if others and not (cache / format.INDEX).exists():
        raise InvalidInput(
            f"{cache} holds other files (such as {others[0].name}) and no cache: name a new "
            f"or an empty folder"
        )
    with lock.alone(cache, "another training.prepare"):
        clear_temporary(cache)
        yield
