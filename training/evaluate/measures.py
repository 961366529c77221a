"""How near the pictures of one run are to those of another."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from sv_core.errors import InvalidInput
from sv_core.fidelity import psnr, ssim

WINDOW = 11
"""Pixels; smaller pictures have no SSIM."""
EQUAL = 100.0
"""dB that equal pictures count in a mean: one wrong grey level in 20,000 values makes 91."""

Lpips = Callable[[Tensor, Tensor], Tensor]


def read_picture(path: Path) -> Tensor:
    """(1, 3, h, w) in [0, 1]."""
    with Image.open(path) as picture:
        values = np.asarray(picture.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(values).permute(2, 0, 1)[None]


def _rounded(values: list[float], digits: int) -> list[float | None]:
    """For JSON, which has no infinity."""
    return [None if v == float("inf") else round(v, digits) for v in values]


def compare(
    made: list[Path], reference: list[Path], is_video: bool, lpips: Lpips | None = None
) -> dict:
    """Measures of a run, picture by picture or frame by frame; ``psnr`` None is an equal picture.

    Raises InvalidInput when there are not as many pictures, or they are of other sizes.
    """
    if len(made) != len(reference):
        raise InvalidInput(f"{made[0].parent} has {len(made)} pictures, not {len(reference)}")
    found: dict[str, list[float]] = {"psnr": [], "ssim": [], "lpips": []}
    errors: list[Tensor] = []
    changes: list[float] = []
    for ours, theirs in zip(made, reference, strict=True):
        a, b = read_picture(ours), read_picture(theirs)
        if a.shape != b.shape:
            raise InvalidInput(f"{ours} and {theirs} have different sizes")
        _compare_pair(a, b, lpips, found)
        if is_video:
            errors = [*errors[-1:], a - b]
            changes += [_change(*errors)] if len(errors) == 2 else []
    return _summary(found, changes, is_video)


def _compare_pair(a: Tensor, b: Tensor, lpips: Lpips | None, into: dict[str, list[float]]) -> None:
    into["psnr"].append(float(psnr(a, b)))
    if min(a.shape[2:]) >= WINDOW:
        into["ssim"].append(float(ssim(a, b)))
    if lpips is not None:
        into["lpips"].append(float(lpips(a, b)))


def _change(before: Tensor, after: Tensor) -> float:
    """How much the error changes from one frame to the next, in grey levels of 255 (RMS)."""
    return 255 * float((after - before).square().mean().sqrt())


def _summary(found: dict[str, list[float]], changes: list[float], is_video: bool) -> dict:
    finite = [min(v, EQUAL) for v in found["psnr"]]
    summary: dict = {"psnr": round(sum(finite) / len(finite), 3)}
    summary["equal"] = all(v == float("inf") for v in found["psnr"])
    for name in ("ssim", "lpips"):
        if found[name]:
            summary[name] = round(sum(found[name]) / len(found[name]), 5)
    if is_video:
        frames = _rounded(found["psnr"], 3)
        summary |= {"psnr_first": frames[0], "psnr_last": frames[-1], "psnr_frames": frames}
        summary["psnr_worst"] = round(min(finite), 3)
        summary["flicker"] = round(sum(changes) / len(changes), 4) if changes else 0.0
    return summary
