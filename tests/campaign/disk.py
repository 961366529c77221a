"""A disk that fails when it is told to: a layer under every file operation of this process.

    fail     the operation raises EIO, and so do some of those after it
    full     the operation raises ENOSPC, once; half of what was to be written may be there
    crash    the power is gone: what was not synced is lost, a rename too unless its folder was

As SQLite's tests do it with their own file system. Only files below one folder are concerned.
"""

import builtins
import errno
import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MODES = ("fail", "full", "crash with names", "crash without names")


class Crash(BaseException):
    """The end of the process, as far as the process can tell."""


class Disk:
    """Counts operations below ``root``, and lets number ``at`` fail; 0 lets all pass."""

    def __init__(self, root: Path, mode: str = "fail", at: int = 0, times: int = 1):
        self.root, self.mode, self.at, self.times = root, mode, at, times
        self.count = 0
        self.crashed = False
        self._uids = iter(range(10**9))
        self._names: dict[Path, int] = {}
        self._durable: dict[int, bytes] = {}
        self._open: dict[int, Path] = {}
        for path in root.rglob("*"):
            if path.is_file():
                uid = self._names[path] = next(self._uids)
                self._durable[uid] = path.read_bytes()
        self._synced = dict(self._names)

    def step(self, write: Callable[[], object] | None = None) -> None:
        """One operation begins; ``write`` does the half of it that a full disk has room for."""
        if self.crashed:
            raise Crash
        self.count += 1
        if not 0 <= self.count - self.at < self.times or not self.at:
            return
        if self.mode.startswith("crash"):
            if write:
                write()
            self.crashed = True
            raise Crash
        if self.mode == "full" and write:
            write()
        number = errno.ENOSPC if self.mode == "full" else errno.EIO
        raise OSError(number, os.strerror(number))

    def concerns(self, path: Any) -> bool:
        """Whether a path is below the folder."""
        return isinstance(path, str | os.PathLike) and self.root in Path(path).parents

    def created(self, path: Path) -> None:
        """A file was opened to be written, perhaps a new one."""
        self._names.setdefault(path, next(self._uids))

    def moved(self, source: Path, target: Path) -> None:
        if source in self._names:
            self._names[target] = self._names.pop(source)

    def removed(self, path: Path) -> None:
        self._names.pop(path, None)

    def opened(self, handle: int, path: Path) -> None:
        """Remember what a handle is of, for its fsync."""
        self._open[handle] = path

    def synced(self, handle: int) -> None:
        """A file's bytes, or a folder's names, are on the disk for good."""
        path = self._open.get(handle)
        if path in self._names:
            self._durable[self._names[path]] = path.read_bytes()
            # Linux writes a new file's name with its bytes, but no later rename.
            self._synced.setdefault(path, self._names[path])
        elif path is not None:
            inside = {p: u for p, u in self._names.items() if p.parent == path}
            kept = {p: u for p, u in self._synced.items() if p.parent != path}
            self._synced = kept | inside

    def lose_power(self) -> None:
        """Leave in the folder what a crash leaves."""
        names = self._names if self.mode == "crash with names" else self._synced
        for path in list(self.root.rglob("*")):
            if path.is_file():
                path.unlink()
        for path, uid in names.items():
            if path.parent.is_dir():
                path.write_bytes(self._durable.get(uid, b""))


class _File:
    """A file below the folder: what is written passes the disk."""

    def __init__(self, file: Any, disk: Disk):
        self._file, self._disk = file, disk

    def write(self, data: Any) -> int:
        view = data if isinstance(data, str) else memoryview(data).cast("B")
        self._disk.step(lambda: self._file.write(view[: len(view) // 2]))
        return self._file.write(data)

    def truncate(self, size: int | None = None) -> int:
        self._disk.step()
        return self._file.truncate(size)

    def flush(self) -> None:
        self._disk.step()
        self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_File":
        self._file.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()  # whether the power is gone or not: the handle must not stay

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


def _open(disk: Disk, real: Callable[..., Any]) -> Callable[..., Any]:
    """``open`` of Python, through the disk."""

    def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
        if not disk.concerns(file):
            return real(file, mode, *rest, **options)
        disk.step()
        made = real(file, mode, *rest, **options)
        disk.opened(made.fileno(), Path(file))
        if not set(mode) & set("wax+"):
            return made
        disk.created(Path(file))
        return _File(made, disk)

    return opened


def _call(disk: Disk, real: Callable[..., Any], then: Callable[..., None]) -> Callable[..., Any]:
    """A function of ``os``, through the disk; ``then(result, its arguments)`` is called after."""

    def call(what: Any, *rest: Any, **options: Any) -> Any:
        if isinstance(what, int) or disk.concerns(what):
            disk.step()
        result = real(what, *rest, **options)
        then(result, what, *rest)
        return result

    return call


@contextmanager
def under(disk: Disk) -> Iterator[None]:
    """Context manager: every file operation of this process passes the disk."""
    then: dict[str, Callable[..., None]] = {
        "open": lambda handle, path, *_: disk.opened(handle, Path(path)),
        "replace": lambda _, source, target: disk.moved(Path(source), Path(target)),
        "unlink": lambda _, path: disk.removed(Path(path)),
        "fsync": lambda _, handle: disk.synced(handle),
        "mkdir": lambda *_: None,
    }
    real_open, real = io.open, {name: getattr(os, name) for name in then}
    try:
        builtins.open = io.open = _open(disk, real_open)
        for name in then:
            setattr(os, name, _call(disk, real[name], then[name]))
        yield
    finally:
        builtins.open = io.open = real_open
        for name, function in real.items():
            setattr(os, name, function)
