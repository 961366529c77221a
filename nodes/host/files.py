"""Model files of ComfyUI: where they are, what they hold, and when they changed."""

import os
import pickle
from pathlib import Path

import folder_paths
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ...sv_core.errors import InvalidInput
from .contract import of_the_host

UNREADABLE = (
    *(OSError, ValueError, RuntimeError, EOFError, SafetensorError, pickle.UnpicklingError),
    *(TypeError, AttributeError, KeyError, IndexError),  # torch.load, of damaged archives
)
"""What the readers raise for a damaged file or one of another format."""


@of_the_host
def file_path(folder: str, name: str) -> str:
    """The path of a model's file. Raises InvalidInput when there is no such file."""
    path = folder_paths.get_full_path(folder, name)
    if path is None or not os.path.isfile(path):  # a pipe, for one, would be waited for
        shown = name[:80] if name.isprintable() else repr(name)[:80]
        raise InvalidInput(
            f"{shown} is not in ComfyUI's models/{folder}: put the file there, then press R to "
            "refresh the list"
        )
    return path


def read_tensors(folder: str, name: str) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    """(tensors, metadata) of a file. Raises InvalidInput when it cannot be read.

    A .pt file may hold anything that is made of tensors, numbers, lists and dictionaries.
    """
    path = file_path(folder, name)
    try:
        if Path(path).suffix.lower() not in (".safetensors", ".sft"):
            return torch.load(path, map_location="cpu", weights_only=True), None
        with safe_open(path, framework="pt", device="cpu") as file:
            names = list(file.keys())
            return {name: file.get_tensor(name) for name in names}, file.metadata()
    except UNREADABLE as e:
        raise InvalidInput(
            f"{name} cannot be read as a checkpoint (safetensors, or a .pt that holds nothing but "
            "tensors): it is truncated or of another format, copy or download it again"
        ) from e


def modification_time(path: str | Path | None) -> int:
    """When a file last changed, in nanoseconds; 0 when there is none.

    For ``fingerprint_inputs``: a file that was trained further is loaded again under its old name.
    """
    try:
        return os.stat(path).st_mtime_ns if path and os.path.isfile(path) else 0
    except (OSError, ValueError):  # gone in between
        return 0


def model_modification_time(folder: str, name: str | None) -> int:
    """``modification_time`` of a model's file; 0 for a name that is missing or connected."""
    return modification_time(folder_paths.get_full_path(folder, name) if name else None)
