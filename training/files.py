"""Files that are written whole or not at all: weights, fingerprints, atomic replacement."""

import contextlib
import errno
import hashlib
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from sv_core.errors import InvalidInput, Unavailable

_TEMPORARY = ".partial"


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

    def flush(self) -> None:
        self.file.flush()


def write_atomically(path: Path, write: Callable[[Any], object]) -> None:
    """Let ``write(file)`` fill a file beside ``path``, push it to the disk, then rename it there.

    Killed at any moment, ``path`` is either what it was or the new file whole. Raises Unavailable,
    in one sentence, when the file cannot be written; ``path`` is then untouched.
    """
    temporary = path.with_name(f".{path.name}{_TEMPORARY}")
    watched = None
    try:
        with open(temporary, "wb") as file:
            watched = _Watched(file)
            write(watched)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as e:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = e if isinstance(e, OSError) else watched and watched.error
        if cause is None:
            raise
        raise _in_words(cause, path) from e


def _sync_folder(folder: Path) -> None:
    """Make the rename itself durable, where folders can be opened (not on Windows)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _in_words(e: OSError, path: Path) -> Unavailable:
    if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        why = "the disk is full (or a quota is reached)"
    else:
        why = e.strerror or str(e)
    return Unavailable(f"could not write {path}: {why}; earlier files are intact")


def interval_path(weights: Path) -> Path:
    """The path of the interval embedder that belongs to a file of weights or of a LoRA."""
    return weights.with_name(f"{weights.stem}-interval.safetensors")


def save_weights(path: Path, state: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors as safetensors. Raises Unavailable, in one sentence."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    data = safetensors_bytes(tensors, dict(metadata))
    write_atomically(path, lambda file: file.write(data))


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """(tensors, metadata) of a .safetensors file, or of a .pt/.pth read without running code.

    Raises InvalidInput, in one sentence, when the file is missing, cut short or something else.
    """
    if not path.is_file():
        raise InvalidInput(f"there is no checkpoint {path}")
    if path.suffix not in (".safetensors", ".pt", ".pth"):
        raise InvalidInput(f"{path} is neither .safetensors nor .pt nor .pth")
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                return {k: file.get_tensor(k) for k in file.keys()}, file.metadata() or {}  # noqa: SIM118
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, OSError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise InvalidInput(
            f"{path} cannot be read as a checkpoint ({reason}): it is damaged or cut short, "
            f"fetch or save it again"
        ) from e
    if not isinstance(state, dict):
        raise InvalidInput(f"{path} holds a {type(state).__name__}, not a network's tensors")
    return state, {}


def fingerprint(path: Path) -> str:
    """A file's content in 16 letters. Raises InvalidInput when it cannot be read."""
    digest = hashlib.blake2b(digest_size=8)
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    except OSError as e:
        raise InvalidInput(f"cannot read {path}: {e.strerror or e}") from e
    return digest.hexdigest()
