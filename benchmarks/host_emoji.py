# ruff: noqa: TID251
"""The picture model in the host, as a bed; for ``host_pictures_methods.py`` and others."""

from pathlib import Path
from typing import Any

from host_beds import ROOT, Bed, Seam

import comfy.sample  # isort: skip  after host_beds, which starts the host
import comfy.sd
import torch

from models.emoji.attention import counting
from models.emoji.sheet import ASKED

CHECKPOINT = ROOT / "models" / "emoji.ckpt"
USUAL = tuple(ASKED)
"""On these, and seeds below 100, rules may be chosen."""
HELD_OUT = (
    "strawberry", "octopus", "birthday cake", "crescent moon", "banana", "mushroom", "tiger face",
    "soft ice cream", "wrapped present", "fox face", "unicorn face", "robot face", "helicopter",
    "avocado", "frog face", "volcano",
)  # fmt: skip
"""On these, and seeds from 101 on, claims are measured; nothing is chosen by them."""


class Emoji:
    """``models/emoji.ckpt`` as CheckpointLoaderSimple opens it, its equal text tokens folded.

    Of CLIP's 77 tokens all but a few are the same vector; models/emoji/train.py says why one that
    counts as many gives the same velocity. It makes a call four times as fast.
    """

    def __init__(self, checkpoint: Path = CHECKPOINT):
        self.patcher, self.clip, self.vae, _ = comfy.sd.load_checkpoint_guess_config(
            str(checkpoint), output_vae=True, output_clip=True
        )
        self.patcher.model.diffusion_model = Seam(self.patcher.model.diffusion_model)

    def _text(self, words: tuple[str, ...]) -> Any:
        said = [
            self.clip.encode_from_tokens(self.clip.tokenize(w), return_pooled=True) for w in words
        ]
        context, pooled = (torch.cat(parts) for parts in zip(*said, strict=True))
        return context, pooled

    def texts(self, words: tuple[str, ...], kept: int) -> list:
        """Positive and negative: the first ``kept`` tokens, the last of them for all the rest."""
        found = []
        for said in (words, ("",)):
            context, pooled = self._text(said)
            assert bool((context[:, kept:] == context[:, kept - 1 : kept]).all())
            found.append([[context[:, :kept], {"pooled_output": pooled}]])
        return found

    def bed(
        self,
        cfg: float,
        steps: int,
        words: tuple[str, ...],
        seed: int,
        others: tuple[str, ...] = (),
    ) -> Bed:
        """A picture of each word, the k-th from seed + k; ``others`` to calibrate on."""
        whole = self._text(words + others)[0]
        own = (whole != whole[:, -1:]).any(-1)  # the tokens that differ from the padding
        kept = 2 + int(own.any(0).nonzero().max())
        patcher = self.patcher.clone()
        options = patcher.model_options["transformer_options"]
        options["optimized_attention_override"] = counting(kept - 1, whole.shape[1] - kept + 1)
        empty = torch.zeros(1, 16, 8, 8)
        noise = torch.cat([comfy.sample.prepare_noise(empty, seed + k) for k in range(len(words))])
        name = f"emoji, cfg {cfg:g}, {steps} steps"
        bed = Bed(name, patcher, tuple(noise.shape), cfg, self.texts(words, kept), steps, noise)
        bed.others = self.texts(others or words, kept)
        return bed

    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """(b, 3, 64, 64) in [0, 1]."""
        return self.vae.decode(latents).movedim(-1, 1).clamp(0, 1)
