"""Reading one picture or video of a plan: its pixels, its mask, and what its files hold."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ..config import prepare
from ..data.format import Index
from . import images, videos
from .listing import content, files_of
from .plan import moving


class Taken(NamedTuple):
    """Pixels (c, h, w) or, where there is a time axis, (c, frames, h, w); a mask (1, h, w)."""

    pixels: Tensor
    mask: Tensor | None
    content: str


def reader(root: Path, index: Index, i: int, channels: int) -> Callable[[Path], Taken]:
    """The function that reads picture ``i`` of the plan from its path, as bytes."""
    bucket = index.buckets[index.bucket[i]]
    frames, shape = bucket[:-2], (bucket[-2], bucket[-1])
    film = moving(index.latent.kind, index.paths[i])
    kind = index.settings.get("masks")
    whole = torch.full((1, *shape), 255, dtype=torch.uint8)

    def read(path: Path) -> Taken:
        if film:
            pixels = videos.pixels(path, shape, frames[0], index.settings.get("fps", prepare.FPS))
        else:
            pixels = images.pixels(path, shape, channels)
            if frames:
                pixels = pixels[:, None]
        mask = None
        if kind == "suffix":
            named = index.masks[i]
            size = videos.shape(path) if film else images.shape(path)
            mask = images.mask(root / named, shape, size) if named else whole
        elif kind == "alpha":
            mask = whole if film else images.mask(path, shape)
        named = index.masks[i] if kind == "suffix" else None
        return Taken(pixels, mask, content(files_of(root, index.paths[i], named)))

    return read
