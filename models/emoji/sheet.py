"""What a packed model draws: python -m models.emoji.sheet CHECKPOINT PICTURES OUT

OUT/sheet.png: the asked words, each beside the training picture that is nearest in pixels, and
OUT/names.json: for each word the nearest picture's name, and whether that is the asked one.
Run it with ComfyUI's own Python.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from training.networks.comfy.folder import find
from training.networks.comfy.host import open_host

from .vae import load_pictures

ASKED = {  # word -> the code points that it may mean
    "grinning face": (0x1F600,),
    "red apple": (0x1F34E,),
    "rainbow": (0x1F308,),
    "cat face": (0x1F431,),
    "rocket": (0x1F680,),
    "sunflower": (0x1F33B,),
    "smiling face with heart eyes": (0x1F60D,),
    "pizza": (0x1F355,),
    "blue heart": (0x1F499,),
    "automobile": (0x1F697,),
    "tree": (0x1F333,),
    "ghost": (0x1F47B,),
    "penguin": (0x1F427,),
    "hamburger": (0x1F354,),
    "guitar": (0x1F3B8,),
    "flag": (0x1F6A9,),
}

BATCH = 32


class Model:
    """A checkpoint, as CheckpointLoaderSimple opens it."""

    def __init__(self, path: Path, comfy: str | None):
        host = open_host(find(comfy), torch.device("cpu"))
        self.network, self.clip, self.vae, _ = host.sd.load_checkpoint_guess_config(str(path))
        self._empty = self._text([""])

    def _text(self, words: list[str]) -> Any:
        """The conditioning of a batch, a text for each picture."""
        said = [self.clip.encode_from_tokens(self.clip.tokenize(w), return_pooled=True)
                for w in words]  # fmt: skip
        context, pooled = (torch.cat(parts) for parts in zip(*said, strict=True))
        return [[context, {"pooled_output": pooled}]]

    def draw(self, words: list[str], seeds: list[int], steps: int = 30, cfg: float = 3.0) -> Tensor:
        """Pictures (b, 3, 64, 64) of [0, 1], as KSampler with euler and simple makes them."""
        import comfy.sample

        empty = torch.zeros(1, 16, 8, 8)
        noise = torch.cat([comfy.sample.prepare_noise(empty, seed) for seed in seeds])
        latents = comfy.sample.sample(
            self.network, noise, steps, cfg, "euler", "simple", self._text(words), self._empty,
            torch.zeros_like(noise), seed=seeds[0], disable_pbar=True,
        )  # fmt: skip
        with torch.no_grad():
            return self.vae.decode(latents).movedim(-1, 1).clamp(0, 1)


def draw_all(model: Model, words: list[str]) -> Tensor:
    """A picture of each, the k-th with seed k, a batch at a time."""
    starts = range(0, len(words), BATCH)
    parts = [words[start : start + BATCH] for start in starts]
    return torch.cat(
        [model.draw(w, list(range(i, i + len(w)))) for i, w in zip(starts, parts, strict=True)]
    )


def nearest(picture: Tensor, pictures: Tensor) -> int:
    """Which of (n, 3, h, w) has the least squared difference."""
    return int((pictures - picture).square().flatten(1).sum(1).argmin())


def sheet(pairs: list[tuple[Tensor, Tensor]], columns: int = 4, zoom: int = 2) -> Image.Image:
    """Each pair side by side, the pairs in a grid."""
    cells = [F.pad(torch.cat(pair, 2), (0, 16, 0, 16), value=1.0) for pair in pairs]
    cells += [torch.ones_like(cells[0])] * (-len(cells) % columns)
    rows = [torch.cat(cells[i : i + columns], 2) for i in range(0, len(cells), columns)]
    grid = torch.cat(rows, 1)
    image = Image.fromarray((grid * 255).round().byte().movedim(0, -1).numpy())
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.emoji.sheet")
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--comfy", help="ComfyUI's folder, where it is not found")
    parser.add_argument("--all", action="store_true", help="every caption, for the share only")
    options = parser.parse_args(arguments)
    files = sorted(options.pictures.glob("*.png"))
    pictures, codes = load_pictures(options.pictures), [int(f.stem, 16) for f in files]
    captions = [f.with_suffix(".txt").read_text().splitlines() for f in files]
    asked = ASKED
    if options.all:
        asked = {c[0]: (code,) for c, code in zip(captions, codes, strict=True)}
    model = Model(options.checkpoint, options.comfy)
    options.out.mkdir(parents=True, exist_ok=True)
    pairs, said = [], {}
    drawn = draw_all(model, list(asked))
    for picture, (word, right) in zip(drawn, asked.items(), strict=True):
        found = nearest(picture, pictures)
        pairs.append((picture, pictures[found]))
        error = float((picture - pictures[found]).square().mean())
        said[word] = {"nearest": captions[found][0], "right": codes[found] in right, "mse": error}
    share = sum(s["right"] for s in said.values())
    name = "all" if options.all else "names"
    (options.out / f"{name}.json").write_text(json.dumps(said, indent=1) + "\n")
    sheet(pairs, 12 if options.all else 4, 1 if options.all else 2).save(
        options.out / ("all.png" if options.all else "sheet.png")
    )
    print(f"{share} of {len(said)} are nearest to a picture of the word that was asked")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
