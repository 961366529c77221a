"""A workflow's card for the templates browser: the model, its steps, and the calls that are left.

Two bars, true to scale. The large models' pictures were not made here, so their cards show none;
that of models/emoji has a row of its own.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = (800, 600)
LEFT, RIGHT = 60, 740
SHEET = Path(__file__).resolve().parents[2] / "models/emoji/sheet.png"
CELL, SIDE = (288, 160), 128
"""In that sheet: the step from one pair to the next, and the side of a picture."""
SHOWN = ((0, 0), (1, 0), (0, 2), (3, 1), (1, 3))
"""Columns and rows of the card's pictures."""


@dataclass(frozen=True)
class Card:
    title: str
    steps: int
    calls: int
    setting: str
    hue: int
    """Of the whole card, in degrees: neighbours in the browser are told apart by it."""


def colour(hue: int, light: float, strength: float = 0.55) -> tuple[int, int, int]:
    r, g, b = colorsys.hls_to_rgb(hue / 360, light, strength)
    return round(255 * r), round(255 * g), round(255 * b)


def fitting_font(text: str, size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font, as large as the card's width allows."""
    while (font := ImageFont.load_default(size)).getlength(text) > RIGHT - LEFT:
        size -= 2
    return font


def draw_bar(draw: ImageDraw.ImageDraw, top: int, count: int, of: int, fill: tuple) -> None:
    """``count`` blocks, on a line that holds ``of``."""
    width = (RIGHT - LEFT) / of
    for i in range(count):
        x = LEFT + i * width
        draw.rounded_rectangle((x, top, x + 0.8 * width, top + 56), 5, fill)


def drawn_by_emoji() -> list[Image.Image]:
    """Pictures that the model drew: of each pair in its sheet the left one."""
    sheet = Image.open(SHEET).convert("RGB")
    corners = [(CELL[0] * column, CELL[1] * row) for column, row in SHOWN]
    return [sheet.crop((x, y, x + SIDE, y + SIDE)) for x, y in corners]


def draw_row(image: Image.Image, pictures: Sequence[Image.Image]) -> None:
    """Side by side on white, at the foot of the card."""
    top = SIZE[1] - SIDE - 24
    image.paste((255, 255, 255), (0, top - 24, *SIZE))
    free = (RIGHT - LEFT - len(pictures) * SIDE) / (len(pictures) - 1)
    for number, picture in enumerate(pictures):
        image.paste(picture, (round(LEFT + number * (SIDE + free)), top))


def draw_card(card: Card, pictures: Sequence[Image.Image] = ()) -> Image.Image:
    image = Image.new("RGB", SIZE, colour(card.hue, 0.13))
    draw = ImageDraw.Draw(image)
    white, pale = (255, 255, 255), colour(card.hue, 0.78)
    draw.rectangle((0, 0, SIZE[0], 14), colour(card.hue, 0.6, 0.8))
    up, line = (30, 118) if pictures else (0, 138)
    draw.text((LEFT, 54 - up), card.title, white, fitting_font(card.title, 76))
    draw.text((LEFT, 158 - 1.4 * up), card.setting, pale, fitting_font(card.setting, 34))
    top, font = 240 - 2 * up, ImageFont.load_default(40)
    draw.text((LEFT, top), f"{card.steps} steps", pale, font)
    draw_bar(draw, top + 54, card.steps, card.steps, colour(card.hue, 0.32))
    draw.text((LEFT, top + line), f"{card.calls} model calls", white, font)
    draw_bar(draw, top + line + 54, card.calls, card.steps, colour(card.hue, 0.62, 0.8))
    if pictures:
        draw_row(image, pictures)
    else:
        draw.text((LEFT, 528), "Fewer Calls (Stable Velocity)", pale, ImageFont.load_default(28))
    return image
