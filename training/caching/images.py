"""Reading a picture: its shape, its pixels upright and cropped to a bucket, its mask."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from sv_core.errors import InvalidInput


def aspect_buckets(size: int, step: int, max_aspect: float) -> list[tuple[int, int]]:
    """(height, width) in multiples of ``step``, of at most size² pixels, from tall to wide.

    For each width, the greatest height that still fits; no side ratio beyond ``max_aspect``.
    [aspect ratio bucketing, NovelAI 2022]
    """
    tops = {
        (height, width)
        for width in range(step, int(size * math.sqrt(max_aspect)) + 1, step)
        if (height := size * size // width // step * step)
    }
    both = tops | {(width, height) for height, width in tops}
    kept = [b for b in both if max(b) <= max_aspect * min(b)]
    # Of two buckets with the same ratio only the larger: with 512x256, 256x128 is of no use.
    largest: dict[float, tuple[int, int]] = {}
    for height, width in sorted(kept):
        largest[height / width] = (height, width)
    return [largest[ratio] for ratio in sorted(largest, reverse=True)]


def nearest_bucket(buckets: list[tuple[int, int]], height: int, width: int) -> int:
    """The bucket whose ratio of sides is nearest to the picture's, in logarithms: least cropped."""
    ratio = math.log(height / width)
    return min(
        range(len(buckets)), key=lambda i: abs(math.log(buckets[i][0] / buckets[i][1]) - ratio)
    )


def cover(image: Image.Image, height: int, width: int) -> Image.Image:
    """Scale to cover height x width, then cut out the middle.

    Halved by box averages while twice too large, then bicubic: for a square, what ADM does, and so
    what published ImageNet models were trained on. [Dhariwal & Nichol 2021]
    """
    while min(image.width / width, image.height / height) >= 2:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(width / image.width, height / image.height)
    size = (round(image.width * scale), round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def shape(path: Path) -> tuple[int, int]:
    """(height, width) as shown, from the header alone. Raises what Pillow raises."""
    with Image.open(path) as image:
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation: on its side
        return (image.width, image.height) if turned else (image.height, image.width)


def pixels(path: Path, bucket: tuple[int, int], channels: int) -> Tensor:
    """The picture as (channels, height, width) bytes: upright, on white, covering the bucket.

    Raises InvalidInput for more than 8 bits a channel, and what Pillow raises for a damaged file.
    """
    with Image.open(path) as file:
        image = _upright(file)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return as_bytes(cover(image.convert("RGB" if channels == 3 else "L"), *bucket))


def mask(path: Path, bucket: tuple[int, int], shape: tuple[int, int] | None = None) -> Tensor:
    """How much each pixel counts, (1, height, width) bytes: 255 in full, 0 not at all.

    With the picture's own ``shape`` (height, width) the file is its mask, white where it counts,
    scaled to that shape; without it the mask is the picture's own opacity.
    """
    with Image.open(path) as file:
        image = _upright(file)
        if shape is None:
            if not image.has_transparency_data:
                return torch.full((1, *bucket), 255, dtype=torch.uint8)
            image = image.convert("RGBA").getchannel("A")
        else:
            image = image.convert("L").resize((shape[1], shape[0]), Image.Resampling.BILINEAR)
        return as_bytes(cover(image, *bucket))


def _upright(file: Image.Image) -> Image.Image:
    if file.mode.startswith(("I", "F")):
        raise InvalidInput(f"more than 8 bits a channel (mode {file.mode})")
    return ImageOps.exif_transpose(file)


def as_bytes(image: Image.Image) -> Tensor:
    """(channels, height, width)."""
    array = np.array(image, dtype=np.uint8).reshape(image.height, image.width, -1)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous()
