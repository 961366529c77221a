"""Files that are written whole or not at all, and what is read back from them."""

import contextlib
import errno
import functools
import json
import os
import pickle
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from sv_core.errors import InvalidInput, Unavailable

_TEMPORARY = ".partial"
STATE = "state.pt"
METRICS = "metrics.jsonl"


class _Watched:
    """A file that remembers why a write failed: torch.save reports only that it did."""

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


def prepare_folder(out: Path) -> None:
    """Make a run's folder and clear what a killed process left half written in it.

    Raises Unavailable, in one sentence, when nothing can be written there.
    """
    try:
        (out / "previews").mkdir(parents=True, exist_ok=True)
        for folder in (out, out / "previews"):
            for stale in folder.glob(f".*{_TEMPORARY}"):
                stale.unlink()
        probe = out / f".probe{_TEMPORARY}"
        probe.touch()
        probe.unlink()
    except OSError as e:
        raise Unavailable(
            f"cannot write into {out}: {e.strerror or e}; choose another folder with run.out"
        ) from e


@functools.cache
def git_hash() -> str | None:
    """The commit this code is at, when it is a git checkout and git is there."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
    return None


def weights_path(out: Path, step: int, decay: float | None = None) -> Path:
    """Where the averaged weights of a step are; those of a further average by its ``decay``."""
    suffix = "" if decay is None else f"-ema{decay:g}"
    return out / f"weights-{step:06d}{suffix}.safetensors"


def interval_path(weights: Path) -> Path:
    """Where the embedder of intervals is that belongs to a file of weights or of a LoRA."""
    return weights.with_name(f"{weights.stem}-interval.safetensors")


def bank_path(out: Path, step: int | str, process: int) -> Path:
    """Where the memory bank of another process than the first is."""
    step = f"{step:06d}" if isinstance(step, int) else step
    return out / f"bank-{step}-{process:03d}.pt"


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


def save_state(out: Path, state: Mapping[str, Any]) -> None:
    """Everything that resuming needs, in one file. Raises Unavailable, in one sentence."""
    write_atomically(out / STATE, lambda file: torch.save(dict(state), file))


def save_bank(path: Path, bank: Mapping[str, Tensor]) -> None:
    """One process's memory bank. Raises Unavailable, in one sentence."""
    write_atomically(path, lambda file: torch.save(dict(bank), file))


def read_state(out: Path) -> dict[str, Any]:
    """The saved state of a run. Raises InvalidInput, in one sentence, when there is none."""
    if not (out / STATE).exists():
        raise InvalidInput(f"nothing to resume: {out} holds no {STATE}; leave out --resume")
    return read_weights(out / STATE)[0]


class Metrics:
    """metrics.jsonl: one line per step, none twice and none missing, also after a crash."""

    def __init__(self, out: Path, step: int):
        """Go on after ``step``; lines of later steps belong to what a crash undid."""
        self.path = out / METRICS
        kept = []
        if step and self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
                try:
                    record = json.loads(line)
                except json.JSONDecodeError:  # the line that a kill cut short
                    break
                if record["step"] > step:
                    break
                kept.append(line + "\n")
        write_atomically(self.path, lambda file: file.write("".join(kept).encode()))
        self.file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  closed by close()

    def add(self, record: Mapping[str, Any]) -> None:
        """Append one step's record; it is in the system's hands at once, so a kill loses none."""
        try:
            self.file.write(json.dumps(record) + "\n")
            self.file.flush()
        except OSError as e:
            raise _in_words(e, self.path) from e

    def sync(self) -> None:
        """Push it to the disk, before the state that counts on it."""
        try:
            os.fsync(self.file.fileno())
        except OSError as e:
            raise _in_words(e, self.path) from e

    def close(self) -> None:
        # What a full disk refused is still in the buffer and would be refused again.
        with contextlib.suppress(OSError):
            self.file.close()
