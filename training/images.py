"""Folders of pictures: what lies in them, which shape each one gets, and its pixels."""

import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
SPLITS = {
    "train": "train", "training": "train",
    "val": "held out", "valid": "held out", "validation": "held out", "test": "held out",
}  # fmt: skip
"""Folder names that are a part of the data set, not a class."""


class Picture(NamedTuple):
    """A file by its path below the root (with /), when it changed, its condition and its part."""

    path: str
    size: int
    mtime: int
    condition: str
    held_out: bool


class Listing(NamedTuple):
    """``conditions`` are the class names, or the distinct captions, in the order of their numbers.

    ``aside`` are pictures that cannot take part, each with the reason.
    """

    layout: str
    pictures: list[Picture]
    conditions: list[str]
    aside: dict[str, str]


def scan(root: Path, layout: str = "auto") -> Listing:
    """List the pictures below ``root``, in the order of their paths.

    ``classes``: the class is the first folder, after a train/val folder if there is one.
    ``captions``: the condition is the text of the ``.txt`` beside the picture. ``auto`` means
    captions if any picture has such a text. Raises ValueError, in one sentence, when ``root`` is
    not a folder or nothing in it can take part.
    """
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}: name the one that holds the pictures")
    files = list(_files(root))
    texts = {path[:-4]: root / path for path in files if path.lower().endswith(".txt")}
    found = [path for path in files if path.lower().endswith(SUFFIXES)]
    if not found:
        raise ValueError(f"{root} holds no pictures ({', '.join(SUFFIXES)})")
    if layout == "auto":
        layout = "captions" if any(_stem(path) in texts for path in found) else "classes"
    pictures, aside = [], {}
    for path in found:
        if layout == "captions":
            condition, problem = _caption(texts.get(_stem(path)))
        else:
            condition, problem = _class(path), "it lies in no class folder"
        if condition is None:
            aside[path] = problem
            continue
        stat = (root / path).stat()
        first, _, rest = path.partition("/")
        held_out = bool(rest) and SPLITS.get(first.lower()) == "held out"
        pictures.append(Picture(path, stat.st_size, int(stat.st_mtime), condition, held_out))
    if not pictures:
        example = next(iter(aside))
        raise ValueError(
            f"none of the {len(aside)} pictures in {root} can be used ({example}: "
            f"{aside[example]}): put each class into a folder of its own, or a .txt caption "
            f"beside each picture"
        )
    return Listing(layout, pictures, sorted({p.condition for p in pictures}), aside)


def _files(root: Path) -> Iterator[str]:
    """Paths below the root, with /, in an order of their own that every machine shares."""
    for folder, folders, names in os.walk(root, followlinks=True):
        # Hidden ones are the system's (.DS_Store, ._photo.jpg), not pictures.
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        below = Path(folder).relative_to(root).as_posix()
        for name in sorted(n for n in names if not n.startswith(".")):
            yield name if below == "." else f"{below}/{name}"


def _stem(path: str) -> str:
    return path.rpartition(".")[0]


def _class(path: str) -> str | None:
    folders = path.split("/")[:-1]
    if folders and folders[0].lower() in SPLITS:
        folders = folders[1:]
    return folders[0] if folders else None


def _caption(file: Path | None) -> tuple[str | None, str]:
    if file is None:
        return None, "it has no .txt caption"
    try:
        return file.read_text(encoding="utf-8-sig").strip(), ""
    except (UnicodeDecodeError, OSError) as e:
        return None, f"its caption cannot be read ({e})"


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
    # Of a ratio that occurs twice only the larger: 512x256 makes 256x128 pointless.
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

    Raises ValueError for more than 8 bits a channel, and what Pillow raises for a damaged file.
    """
    with Image.open(path) as file:
        if file.mode.startswith(("I", "F")):
            raise ValueError(f"more than 8 bits a channel (mode {file.mode})")
        image = ImageOps.exif_transpose(file)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        image = image.convert("RGB" if channels == 3 else "L")
        array = np.array(cover(image, *bucket), dtype=np.uint8)
    return torch.from_numpy(array.reshape(*bucket, channels)).permute(2, 0, 1).contiguous()
