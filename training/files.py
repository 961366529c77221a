"""Files that are written whole or not at all: weights, fingerprints, atomic replacement."""

import contextlib
import errno
import hashlib
import math
import os
import pickle
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from sv_core.errors import InvalidInput, Unavailable

from . import tensors

T = TypeVar("T")
_TEMPORARY = ".partial"
PAUSE = 10.0
"""Seconds until a full disk is tried again."""


class _Watched:
    """A file that keeps the reason why a write failed: torch.save only reports that it failed."""

    def __init__(self, file: IO[bytes]):
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as e:
            self.error = e
            raise

    def seek(self, place: int) -> int:
        return self.file.seek(place)

    def flush(self) -> None:
        self.file.flush()


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Let ``write(file)`` fill a file beside ``path``, push it to the disk, then rename it there.

    Killed at any moment, ``path`` is either what it was or the new file whole. Raises DiskFull or
    Unavailable, in one sentence, when the file cannot be written, and what ``write`` raises;
    ``path`` is then untouched.
    """
    nonce = f"{os.getpid()}-{secrets.token_hex(4)}"  # of two writers each has its own
    temporary = path.with_name(f".{path.name}.{nonce}{_TEMPORARY}")
    watched = None
    try:
        with open(temporary, "xb") as file:
            watched = _Watched(file)
            write(watched)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = watched and watched.error
        if isinstance(e, OSError) and not isinstance(e, InvalidInput):
            cause = e
        if cause is None:
            raise
        raise in_words(cause, path) from e


def clear_temporary(folder: Path) -> None:
    """Delete what killed processes left half written. Only who has the folder alone may call it."""
    for stale in folder.glob(f".*{_TEMPORARY}"):
        stale.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def in_words(e: OSError, path: Path) -> Unavailable:
    """An error of writing as a sentence: DiskFull where room will help."""
    if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        kind, why = DiskFull, "the disk is full (or a quota is reached)"
    else:
        kind, why = Unavailable, e.strerror or str(e)
    if e.errno == errno.EFBIG:  # a limit of this process, which stays
        kind = Unavailable
    return kind(f"could not write {path}: {why}; earlier files are intact")


class DiskFull(Unavailable):
    """There is no room on the disk now."""


def patiently(
    write: Callable[[], T],
    say: Callable[[str], object],
    asked: threading.Event,
    limit: float = math.inf,
) -> T:
    """The result of ``write``, tried again while the disk is full, for ``limit`` seconds at most.

    ``say`` gets a sentence when waiting begins. Raises DiskFull when ``asked`` is set, or was.
    """
    began, told = time.monotonic(), False
    while True:
        last = asked.is_set() or time.monotonic() - began > limit
        try:
            return write()
        except DiskFull as e:
            if last:
                raise
            if not told:
                say(f"{e}; waiting for room, then it goes on by itself (Ctrl-C ends it)")
                told = True
            asked.wait(PAUSE)


def interval_path(weights: Path) -> Path:
    """The path of the interval embedder that belongs to a file of weights or of a LoRA."""
    return weights.with_name(f"{weights.stem}-interval.safetensors")


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Write tensors as safetensors; returns the checksum. Raises Unavailable, in one sentence."""
    made = []
    write_atomically(path, lambda file: made.append(tensors.write(file, state, metadata)))
    return made[-1]


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a .safetensors file, or of a .pt/.pth read without running code.

    A checksum in the metadata is compared. Raises InvalidInput, in one sentence, when the file is
    missing, damaged, cut short or something else.
    """
    if not path.is_file():
        raise InvalidInput(f"there is no checkpoint {path}")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise InvalidInput(f"{path} is neither .safetensors nor .pt nor .pth")
    try:
        if path.suffix == ".safetensors":
            opened = tensors.TensorFile(path)
            opened.verify()
            with safe_open(path, framework="pt") as file:
                return {k: file.get_tensor(k) for k in file.keys()}, opened.metadata  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (
        SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError, InvalidInput
    ) as e:  # fmt: skip
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise InvalidInput(
            f"{path} cannot be read as a checkpoint ({reason}): it is damaged or cut short, "
            f"fetch or save it again"
        ) from e
    if not isinstance(state, dict):
        raise InvalidInput(f"{path} holds a {type(state).__name__}, not a network's tensors")
    return state, {}


def fingerprint(path: Path, letters: int = 16) -> str:
    """A file's content in so many letters. Raises InvalidInput when it cannot be read."""
    digest = hashlib.blake2b(digest_size=letters // 2)
    try:
        with open(path, "rb") as file:
            for block in tensors.blocks(file):
                digest.update(block)
    except OSError as e:
        raise InvalidInput(f"cannot read {path}: {e.strerror or e}") from e
    return digest.hexdigest()
