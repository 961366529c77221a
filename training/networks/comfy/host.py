"""ComfyUI's model code in this process, without its server: imported once, set up for training."""

import importlib
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from sv_core.errors import InvalidInput

from .folder import python_of, version

_OPENED: dict[str, "Host"] = {}


@dataclass(frozen=True)
class Host:
    """An imported ComfyUI: the modules of it that are used here, and the device it computes on."""

    folder: Path
    version: tuple[int, ...]
    device: torch.device
    sd: ModuleType
    management: ModuleType
    detection: ModuleType
    utils: ModuleType
    model_base: ModuleType
    sampling: ModuleType


def open_host(folder: Path, device: torch.device) -> Host:
    """Import the ComfyUI of that folder (7 to 8 s), or hand back what was imported before.

    What ComfyUI decides while it is imported is set beforehand: the device, and PyTorch's own
    attention, which has a derivative. Raises InvalidInput, in one sentence, when this
    Python lacks what ComfyUI needs, or when another folder or device was opened before.
    """
    folder, device = folder.resolve(), torch.device(device)
    if _OPENED:
        host = _OPENED["host"]
        if host.folder != folder or host.device.type != device.type:
            raise InvalidInput(
                f"one process can open one ComfyUI on one device: {host.folder} on "
                f"{host.device.type} is open, {folder} on {device.type} was asked for"
            )
        return host
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # ComfyUI takes the current one
    if str(folder) not in sys.path:
        # Before this repository's root, or ComfyUI's nodes.py would be our folder nodes.
        sys.path.insert(0, str(folder))
    try:
        _set_arguments(importlib.import_module("comfy.cli_args").args, device)
        management: Any = importlib.import_module("comfy.model_management")
        modules = {
            name: importlib.import_module(f"comfy.{module}")
            for name, module in (
                ("sd", "sd"),
                ("detection", "model_detection"),
                ("utils", "utils"),
                ("model_base", "model_base"),
                ("sampling", "model_sampling"),
            )
        }
    except ModuleNotFoundError as e:
        what = (str(e.name) if e.name else str(e)).splitlines()[0]
        raise InvalidInput(
            f"this Python ({sys.executable}) lacks {what}, which ComfyUI needs: run the training "
            f"with ComfyUI's own Python, {python_of(folder)}"
        ) from e
    # Without it newer versions rotate queries and keys by a kernel without a derivative.
    management.in_training = True
    host = Host(folder, version(folder), device, management=management, **modules)
    _OPENED["host"] = host
    return host


def _set_arguments(args: Any, device: torch.device) -> None:
    args.cpu = device.type == "cpu"
    args.use_pytorch_cross_attention = True
    args.disable_xformers = True
