"""The numbers of the word pieces in all captions: python -m models.emoji.words PICTURES FILE.json

CLIP's tokenizer is a table of 49,408 pieces that only ComfyUI has. With the few that the captions
need, the demo reads words without it. Run it with ComfyUI's own Python.
"""

import argparse
import json
from pathlib import Path

import torch

from training.networks.comfy.folder import find
from training.networks.comfy.host import open_host

from .text import BEGIN


def words_of(pictures: Path) -> list[str]:
    """Every word of the captions beside the pictures, once, in order."""
    texts = [file.read_text("utf-8") for file in pictures.glob("*.txt")]
    return sorted({word for text in texts for word in text.split()})


def pieces(words: list[str], comfy: str | None) -> dict[str, list[int]]:
    """A text's pieces are those of its words, one after the other."""
    open_host(find(comfy), torch.device("cpu"))
    from comfy.sd1_clip import SDTokenizer

    tokenizer = SDTokenizer()
    found = {word: [t[0] for t in tokenizer.tokenize_with_weights(word)[0]] for word in words}
    return {word: [t for t in tokens if t < BEGIN] for word, tokens in found.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.emoji.words")
    parser.add_argument("pictures", metavar="PICTURES", type=Path, help="of models.emoji.render")
    parser.add_argument("file", metavar="FILE", type=Path, help="a .json file to write")
    parser.add_argument("--comfy", help="ComfyUI's folder, where it is not found")
    options = parser.parse_args(arguments)
    table = pieces(words_of(options.pictures), options.comfy)
    options.file.write_text(json.dumps(table) + "\n", "utf-8")
    print(f"{len(table)} words in {options.file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
