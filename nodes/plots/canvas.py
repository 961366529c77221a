"""An antialiased canvas to draw the plots on."""

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from . import colours

SUPERSAMPLING = 2
"""PIL draws without antialiasing, so the canvas is this much larger and is reduced at the end."""


class Canvas:
    """Draws with PIL in the pixels of the finished picture. Its font has ASCII characters only."""

    def __init__(self, width: int, height: int, colour: str = colours.BACKGROUND):
        self.image = Image.new("RGB", (width * SUPERSAMPLING, height * SUPERSAMPLING), colour)
        self.draw = ImageDraw.Draw(self.image)

    def line(self, points, colour: str, width: float = 2) -> None:
        scaled = [(x * SUPERSAMPLING, y * SUPERSAMPLING) for x, y in points]
        self.draw.line(scaled, colour, round(width * SUPERSAMPLING), joint="curve")

    def dashed(self, x0: float, x1: float, y: float, colour: str) -> None:
        for x in range(round(x0), round(x1), 14):
            self.line([(x, y), (min(x + 8, x1), y)], colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: str) -> None:
        self.draw.rectangle([v * SUPERSAMPLING for v in (x0, y0, x1, y1)], colour)

    def dot(self, x: float, y: float, radius: float, fill: str | None, ring: str | None) -> None:
        corners = [v * SUPERSAMPLING for v in (x - radius, y - radius, x + radius, y + radius)]
        self.draw.ellipse(corners, fill, ring, 2 * SUPERSAMPLING)

    def text(self, x: float, y: float, text: str, size: int, colour: str, anchor="la") -> None:
        font = ImageFont.load_default(size * SUPERSAMPLING)
        self.draw.text((x * SUPERSAMPLING, y * SUPERSAMPLING), text, colour, font, anchor)

    def tensor(self) -> Tensor:
        """The finished picture, (h, w, 3) in [0, 1]."""
        small = self.image.reduce(SUPERSAMPLING)
        values = torch.frombuffer(bytearray(small.tobytes()), dtype=torch.uint8)
        return values.view(small.height, small.width, 3).float() / 255
