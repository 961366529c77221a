"""Model files of ComfyUI: where they are, what they hold, and when they changed."""

import os
import pickle
from pathlib import Path

import comfy.utils
import folder_paths
from safetensors import SafetensorError
from torch import Tensor

from ...sv_core.errors import InvalidInput

UNREADABLE = (OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError)
"""What the host's reader raises for a damaged file or one of another format."""


def file_path(folder: str, name: str) -> str:
    """The path of a model's file. Raises InvalidInput when there is no such file."""
    path = folder_paths.get_full_path(folder, name)
    if path is None:
        raise InvalidInput(
            f"{name} is not in ComfyUI's models/{folder}: put the file there, then press R to "
            "refresh the list"
        )
    return path


def read_tensors(folder: str, name: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """(tensors, metadata) of a file. Raises InvalidInput when it cannot be read."""
    path = file_path(folder, name)
    try:
        state, metadata = comfy.utils.load_torch_file(path, safe_load=True, return_metadata=True)
        return state, metadata
    except UNREADABLE as e:
        raise InvalidInput(
            f"{name} cannot be read as a checkpoint (safetensors, or a .pt that holds nothing but "
            "tensors): it is truncated or of another format, copy or download it again"
        ) from e


def modification_time(path: str | Path | None) -> int:
    """When a file last changed, in nanoseconds; 0 when there is none.

    For ``fingerprint_inputs``: a file that was trained further is loaded again under its old name.
    """
    return os.stat(path).st_mtime_ns if path and os.path.isfile(path) else 0


def model_modification_time(folder: str, name: str | None) -> int:
    """``modification_time`` of a model's file; 0 for a name that is missing or connected."""
    return modification_time(folder_paths.get_full_path(folder, name) if name else None)
