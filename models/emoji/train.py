"""training.finetune for this model, four times as fast and the same to rounding.

python -m models.emoji.train CONFIG [--set k=v]... [--resume]     as training.finetune

CLIP-L's context is 77 tokens, and of these captions' all but the first few are the same vector (0),
at no place in particular: SD3.5 adds places to the picture's tokens only. Equal tokens stay equal
in every block, and n equal keys count in a softmax as one whose logit is larger by log n. So the
equal ones are folded into one for training. Sampling in ComfyUI sees all 77, and the same velocity.
"""

import sys

from torch import Tensor

from training import finetune
from training.data.text import TextTable
from training.networks.comfy.backbone import ComfyBackbone
from training.networks.comfy.texts import Entry, Texts

from .attention import counting


class Folded:
    """Texts whose last tokens, equal to each other, are there once; ``times`` says how many."""

    def __init__(self, texts: Texts, count: int):
        self._entries = [dict(texts[k]) for k in range(count)]
        contexts = [entry["context"] for entry in self._entries]
        kept = 1 + max(_own(context) for context in contexts)
        self.times = len(contexts[0]) - kept + 1
        for entry in self._entries:
            entry["context"] = entry["context"][:kept].clone()

    def __getitem__(self, k: int) -> Entry:
        return self._entries[k]


def _own(context: Tensor) -> int:
    """How many tokens (L, D) come before those that are as the last one."""
    others = (context != context[-1]).any(-1).nonzero()
    return int(others[-1]) + 1 if len(others) else 0


def fold() -> None:
    """From now on the texts of a cache are folded for every ComfyBackbone."""
    reading, inputs = ComfyBackbone.reading, ComfyBackbone.inputs

    def folded_reading(self: ComfyBackbone, texts: Texts) -> ComfyBackbone:
        of_cache = isinstance(texts, TextTable)  # and not of a self-check
        return reading(self, Folded(texts, len(texts)) if of_cache else texts)

    def folded_inputs(self: ComfyBackbone, x: Tensor, t: Tensor, entry: Entry):
        arguments, options = inputs(self, x, t, entry)
        if isinstance(self.texts, Folded) and not x.is_meta:
            said = options["transformer_options"]
            last = entry["context"].shape[1] - 1
            inner = said.get("optimized_attention_override")
            said["optimized_attention_override"] = counting(last, self.texts.times, inner)
        return arguments, options

    ComfyBackbone.reading, ComfyBackbone.inputs = folded_reading, folded_inputs


def main(arguments: list[str] | None = None) -> int:
    fold()
    return finetune.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
