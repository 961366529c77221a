"""The emoji model without ComfyUI: its network, text encoder and autoencoder, in torch.

The text encoder is one in which nothing was learnt (models/emoji/text.py), so that what twelve
layers make of a text can be written in a few lines here.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sv_core.errors import InvalidInput
from sv_core.models.families import SD35, latents
from sv_core.models.mmdit import MMDiT, from_state_dict

PLACES = 77
"""Tokens of every text: begin, its word pieces, end, and padding up to here."""
BLOCKS = (3, 4, 5, 8, 9, 10, 13, 14, 15, 18)
LARGER = (7, 12, 17)
"""Numbers of a TAESD decoder's blocks, and of the layers before which it doubles the size."""
EMBEDDING = "clip_l.transformer.text_model.embeddings.token_embedding.weight"


def part(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint below a prefix. Raises InvalidInput when there are none."""
    found = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
    if not found:
        raise InvalidInput(f"this is not the emoji model's checkpoint: it has no {prefix}...")
    return found


class Words:
    """Texts as the network takes them, from a table of word pieces and a table of vectors."""

    def __init__(self, table: Mapping[str, Sequence[int]], vectors: Tensor):
        self._table, self._vectors = table, vectors

    def _pieces(self, text: str) -> list[int]:
        unknown = [word for word in text.lower().split() if word not in self._table]
        if unknown:
            raise InvalidInput(
                f"the emoji model has never seen the word {unknown[0]!r}: use words of the names "
                f"that it learnt, such as red apple, rocket or grinning face"
            )
        return [piece for word in text.lower().split() for piece in self._table[word]]

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor, Tensor]:
        """(context (b, n, 4096), pooled (b, 2048), how many tokens each of the n stands for).

        Begin, end and padding are 0 and equal, so one stands for all. The last layer's attention
        is uniform over the tokens up to the end, which sees the mean of their normalised vectors.
        """
        pieces = [self._pieces(text) for text in texts]
        count = 2 + max(len(p) for p in pieces)
        context, pooled = torch.zeros(len(texts), count, 4096), torch.zeros(len(texts), 2048)
        for row, own in enumerate(pieces):
            vectors = self._vectors[own].float()
            context[row, 1 : 1 + len(own), : vectors.shape[1]] = vectors
            seen = F.layer_norm(vectors, vectors.shape[1:]).sum(0) / (len(own) + 2)
            pooled[row, : len(seen)] = F.layer_norm(seen, seen.shape)
        times = torch.ones(count)
        times[-1] = PLACES - count + 1
        return context, pooled, times


class Decoder(nn.Module):
    """A TAESD's decoder: latents (b, 16, h, w) as files have them -> (b, 3, 8 h, 8 w) of [0, 1]."""

    def __init__(self, state: Mapping[str, Tensor]):
        super().__init__()
        self._state = {k: v.float() for k, v in state.items()}

    def _conv(self, x: Tensor, name: str) -> Tensor:
        bias = self._state.get(f"{name}.bias")
        return F.conv2d(x, self._state[f"{name}.weight"], bias, padding=1)

    def _block(self, x: Tensor, number: int) -> Tensor:
        inner = F.relu(self._conv(x, f"{number}.conv.0"))
        inner = F.relu(self._conv(inner, f"{number}.conv.2"))
        return F.relu(x + self._conv(inner, f"{number}.conv.4"))

    def forward(self, latents: Tensor) -> Tensor:
        x = F.relu(self._conv(torch.tanh(latents / 3) * 3, "1"))
        for number in sorted((*BLOCKS, *LARGER)):
            if number in LARGER:
                x = self._conv(F.interpolate(x, scale_factor=2.0), str(number))
            else:
                x = self._block(x, number)
        return self._conv(x, "19").clamp(0, 1)


class PictureModel:
    """What ``training.sampling.pictures.sample`` asks of a network, for a list of texts.

    A picture's condition is its text's number in that list.
    """

    latent = latents(SD35.name)

    def __init__(self, model: MMDiT, words: Words, decoder: Decoder, texts: Sequence[str]):
        self.model, self.decode = model, decoder
        self._context, self._pooled, self._times = words.encode(texts)

    def velocity(self, x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return self.model(x_t, t, self._context[cond], self._pooled[cond], self._times)


def load(checkpoint: Path, table: Path, texts: Sequence[str]) -> PictureModel:
    """Raises InvalidInput for a file that is not there or is another model's."""
    if not checkpoint.is_file() or not table.is_file():
        raise InvalidInput(
            f"{checkpoint} is not here: it comes with a clone of the repository, not with an "
            f"installation from a registry (python dev.py demo --train needs no file)"
        )
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    words = Words(json.loads(table.read_text("utf-8")), part(state, "text_encoders.")[EMBEDDING])
    decoder = Decoder(part(state, "first_stage_model.taesd_decoder."))
    model = from_state_dict(part(state, "model.diffusion_model."))
    return PictureModel(model, words, decoder, texts)
