"""Latent caches of noise for each family, with texts of unequal lengths."""

from pathlib import Path

import torch
from torch import Generator, Tensor

from sv_core.models.families import has_frames, latents
from training.caching.plan import settings_of
from training.config.prepare import PrepareConfig
from training.data.format import LATENTS, CacheFolder, Index, Shard
from training.data.text import write_text

LENGTHS = {"a cat": 3, "a cat on a mat": 5, "two cats": 7, "": 4}
"""Tokens of each caption; the empty one comes last."""
WIDTHS = {"sd3": (64, 64), "flux": (4096, 768), "qwen_image": (3584, 0), "wan": (4096, 0)}
"""Of the text and of the pooled vector that the models of ``circle_host`` take."""
_KINDS = {"wan": "wan21"}
_PICTURES, _HELD_OUT, _SIDE = 12, 2, 4


def write_cache(cache: Path, family: str) -> None:
    """Ten pictures to learn from and two held out, of three captions; for Wan three frames each."""
    draw = Generator().manual_seed(0)
    latent = latents(_KINDS.get(family, family))
    captions = sorted(LENGTHS.keys() - {""})
    pixels = (_SIDE * latent.downscale,) * 2
    frames = {"wan": 9}.get(family, 1)
    timed = has_frames(latent.kind)
    shape = (latent.channels, *([1 + (frames - 1) // 4] if timed else []), _SIDE, _SIDE)
    x = torch.randn(_PICTURES, 1, *shape, generator=draw)
    cache.mkdir()
    numbers = list(range(_PICTURES))
    settings = settings_of(PrepareConfig(), latent, "captions")
    index = Index(
        settings=settings,
        latent=latent,
        conditions=captions,
        buckets=[(frames, *pixels) if timed else pixels],
        paths=[f"{number}.png" for number in numbers],
        sizes=[1] * _PICTURES,
        mtimes=[1] * _PICTURES,
        condition=[number % len(captions) for number in numbers],
        held_out=[int(number >= _PICTURES - _HELD_OUT) for number in numbers],
        bucket=[0] * _PICTURES,
        aside={},
        complete=True,
    )
    folder = CacheFolder(cache, index)
    folder.write(LATENTS, 0, Shard(_raw(x, latent).half(), settings["vae"], numbers, {}, {}))
    folder.update()
    write_text(folder, [_text(family, LENGTHS[caption], draw) for caption in [*captions, ""]])


def _raw(x: Tensor, latent) -> Tensor:
    return latent.from_model(x[:, 0])[:, None]


def _text(family: str, length: int, draw: Generator) -> dict[str, Tensor]:
    width, pooled = WIDTHS[family]
    entry = {"context": torch.randn(length, width, generator=draw)}
    if pooled:
        entry["pooled"] = torch.randn(pooled, generator=draw)
    return entry
