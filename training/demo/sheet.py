"""The demo's picture in colour: the words, each way's pictures, and beside them the differences."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..files import write_atomically

GAIN = 4
"""How much differences are amplified: without it many would be invisible."""
SIDE, GAP, LABEL, HEAD = 64, 6, 250, 74
INK, PALE, ACCENT = "#20252b", "#66707a", "#2f7f86"


class Strip(NamedTuple):
    """A way of sampling: its name, two lines below, and pictures (n, 3, 64, 64) of [0, 1]."""

    name: str
    first: str
    second: str
    images: Tensor


def difference(images: Tensor, reference: Tensor) -> Tensor:
    """White where they agree; otherwise darker by GAIN times the difference, channel by channel."""
    return 1 - (GAIN * (images - reference).abs()).clamp(0, 1)


def row_of(images: Tensor) -> Image.Image:
    """Pictures (n, 3, h, w) side by side."""
    canvas = torch.ones(3, SIDE, len(images) * (SIDE + GAP))
    for number, picture in enumerate(images):
        start = number * (SIDE + GAP)
        canvas[:, :, start : start + SIDE] = picture
    return Image.fromarray((canvas * 255).round().byte().movedim(0, -1).numpy())


def draw_words(draw: ImageDraw.ImageDraw, words: Sequence[str], left: int) -> None:
    """Each word above its column, its last part below the others."""
    font = ImageFont.load_default(13)
    for number, word in enumerate(words):
        head, _, tail = word.rpartition(" ")
        middle = left + number * (SIDE + GAP) + SIDE / 2
        draw.text((middle, HEAD - 34), head, PALE, font, anchor="mm")
        draw.text((middle, HEAD - 18), tail, PALE, font, anchor="mm")


def sheet(words: Sequence[str], strips: Sequence[Strip]) -> Image.Image:
    """All of it; the first strip is what the others are compared with."""
    width, tall = len(words) * (SIDE + GAP), SIDE + 2 * GAP
    second = LABEL + width + 30
    size = (second + width + GAP, HEAD + tall * len(strips) + GAP)
    image = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(image)
    pen.text((LABEL, 14), "the pictures", INK, ImageFont.load_default(18), anchor="lm")
    title = f"difference from the first row, {GAIN} times"
    pen.text((second, 14), title, INK, ImageFont.load_default(18), anchor="lm")
    draw_words(pen, words, LABEL)
    draw_words(pen, words, second)
    for number, strip in enumerate(strips):
        top = HEAD + number * tall
        colour = ACCENT if strip.name.startswith("forecast") else INK
        pen.text((14, top + 14), strip.name, colour, ImageFont.load_default(19), anchor="lm")
        pen.text((14, top + 37), strip.first, colour, ImageFont.load_default(15), anchor="lm")
        pen.text((14, top + 56), strip.second, PALE, ImageFont.load_default(15), anchor="lm")
        image.paste(row_of(strip.images), (LABEL, top))
        if number:
            image.paste(row_of(difference(strip.images, strips[0].images)), (second, top))
    return image


def write_sheet(path: Path, words: Sequence[str], strips: Sequence[Strip]) -> None:
    image = sheet(words, strips)
    write_atomically(path, lambda file: image.save(file, "PNG"))
