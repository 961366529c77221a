"""Colour emoji as a folder for training.prepare: python -m models.emoji.render FONT FOLDER

One picture of 64 x 64 pixels for each emoji, on white, and beside it a .txt with its names, one a
line. FONT is Noto Color Emoji (Debian: fonts-noto-color-emoji), under the SIL Open Font License.
"""

import argparse
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SIZE = 64
GLYPH = 109
"""The one size in pixels that the font's bitmaps have; they are 136 wide and 128 high."""

BLOCKS = (  # code points, first and last: what can be told apart at 64 x 64
    (0x1F308, 0x1F308),  # rainbow
    (0x1F30A, 0x1F30D),  # wave, volcano, night sky, earth
    (0x1F319, 0x1F319),  # moon
    (0x1F31E, 0x1F31F),  # sun and star
    (0x1F32D, 0x1F353),  # plants and fruit
    (0x1F354, 0x1F37F),  # food and drink
    (0x1F380, 0x1F385),  # feasts
    (0x1F388, 0x1F388),
    (0x1F3A4, 0x1F3A8),  # stage, music and sport
    (0x1F3AA, 0x1F3C6),
    (0x1F400, 0x1F43E),  # animals
    (0x1F479, 0x1F480),  # ghosts and monsters
    (0x1F48E, 0x1F48E),
    (0x1F494, 0x1F49D),  # hearts
    (0x1F4A1, 0x1F4A9),
    (0x1F600, 0x1F631),  # faces
    (0x1F680, 0x1F682),  # traffic
    (0x1F68C, 0x1F68C),
    (0x1F691, 0x1F69C),
    (0x1F6A9, 0x1F6A9),
    (0x1F910, 0x1F917),  # more faces
    (0x1F950, 0x1F95E),  # more food
    (0x1F980, 0x1F98F),  # more animals
)
NAMES = {  # what people call these, where Unicode's own name is another
    "\U0001f431": "cat",
    "\U0001f60d": "smiling face with heart eyes",
    "\U0001f355": "pizza",
    "\U0001f697": "car",
    "\U0001f333": "tree",
    "\U0001f6a9": "flag",
    "\U0001f436": "dog",
    "\U0001f600": "smiling face",
}


def emoji(font: ImageFont.FreeTypeFont) -> Iterator[str]:
    """Those of BLOCKS that have a name and a picture of their own in the font."""
    for first, last in BLOCKS:
        for code in range(first, last + 1):
            character = chr(code)
            if unicodedata.name(character, "") and draw(character, font).getbbox():
                yield character


def captions(character: str) -> list[str]:
    """Unicode's name, in small letters, and what people say instead."""
    name = unicodedata.name(character).lower().replace("-", " ")
    return [name, NAMES[character]] if character in NAMES else [name]


def draw(character: str, font: ImageFont.FreeTypeFont) -> Image.Image:
    """A picture of the font's own size, transparent around."""
    canvas = Image.new("RGBA", (136, 128))
    ImageDraw.Draw(canvas).text((0, 0), character, font=font, embedded_color=True, anchor="lt")
    return canvas


def picture(character: str, font: ImageFont.FreeTypeFont, size: int = SIZE) -> Image.Image:
    """The emoji in the middle of a white square."""
    glyph = draw(character, font)
    glyph = glyph.crop(glyph.getbbox())
    square = Image.new("RGBA", (144, 144), "white")
    corner = ((144 - glyph.width) // 2, (144 - glyph.height) // 2)
    square.alpha_composite(glyph, corner)
    return square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)


def render(font_file: Path, folder: Path) -> int:
    """Write all pictures and captions; how many."""
    font = ImageFont.truetype(font_file, GLYPH)
    folder.mkdir(parents=True, exist_ok=True)
    count = 0
    for character in emoji(font):
        stem = folder / f"{ord(character):x}"
        picture(character, font).save(stem.with_suffix(".png"))
        stem.with_suffix(".txt").write_text("\n".join(captions(character)) + "\n")
        count += 1
    return count


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.emoji.render")
    parser.add_argument("font", metavar="FONT", type=Path, help="NotoColorEmoji.ttf")
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="where the pictures go")
    options = parser.parse_args(arguments)
    try:
        print(f"{render(options.font, options.folder)} pictures in {options.folder}")
    except OSError as e:
        print(f"error: {options.font} is no font that can be drawn ({e})", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
