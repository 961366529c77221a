"""A workflow's card for the templates browser: the model, its steps, and the calls that are left.

A card shows no picture of the model's, because none was made here: two bars, true to scale.
"""

import colorsys
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SIZE = (800, 600)
LEFT, RIGHT = 60, 740


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


def draw_card(card: Card) -> Image.Image:
    image = Image.new("RGB", SIZE, colour(card.hue, 0.13))
    draw = ImageDraw.Draw(image)
    white, pale = (255, 255, 255), colour(card.hue, 0.78)
    draw.rectangle((0, 0, SIZE[0], 14), colour(card.hue, 0.6, 0.8))
    draw.text((LEFT, 54), card.title, white, fitting_font(card.title, 76))
    draw.text((LEFT, 158), card.setting, pale, fitting_font(card.setting, 34))
    draw.text((LEFT, 240), f"{card.steps} steps", pale, ImageFont.load_default(40))
    draw_bar(draw, 294, card.steps, card.steps, colour(card.hue, 0.32))
    draw.text((LEFT, 378), f"{card.calls} model calls", white, ImageFont.load_default(40))
    draw_bar(draw, 432, card.calls, card.steps, colour(card.hue, 0.62, 0.8))
    draw.text((LEFT, 528), "Fewer Calls (Stable Velocity)", pale, ImageFont.load_default(28))
    return image
