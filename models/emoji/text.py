"""A text encoder that only tells words apart, in the layout of CLIP-L: nothing in it is learnt.

python -m models.emoji.text FILE        the whole of it for training.prepare: 250 MB, nearly all 0

ComfyUI fixes a CLIP-L's sizes: 123 million numbers. Here they are views of a few thousand random
ones, so that a checkpoint that may keep views (not .safetensors) holds it in 100 KB.

context   each word piece k has the vector b[k : k + 768] of one random sequence b: any two are
          nearly orthogonal. Begin, end and padding are 0, and so are places: order says nothing.
pooled    the last layer's attention is uniform and passes values on, so that the end sees the mean
          of the words; the last norm makes that a vector of variance 1.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

LAYERS, WIDTH, INNER, WORDS, PLACES = 12, 768, 3072, 49408, 77
BEGIN = WORDS - 2
"""The number of the token that begins a text; the last one ends and pads it."""


def clip_l(seed: int = 0) -> dict[str, Tensor]:
    """Its tensors by the names of a CLIP-L's file, as views of small ones, in 16 bits."""
    sequence = torch.randn(WORDS + WIDTH, generator=torch.Generator().manual_seed(seed)).half()
    sequence[BEGIN:] = 0
    mirrored = torch.zeros(2 * WIDTH - 1, dtype=torch.float16)
    mirrored[WIDTH - 1] = 1
    zero, one = torch.zeros((), dtype=torch.float16), torch.ones((), dtype=torch.float16)
    # A mirror image twice is the thing itself: values and output of the last layer's attention.
    mirror = mirrored.as_strided((WIDTH, WIDTH), (1, 1))
    state = {
        "embeddings.token_embedding.weight": sequence.as_strided((WORDS, WIDTH), (1, 1)),
        "embeddings.position_embedding.weight": zero.expand(PLACES, WIDTH),
        "final_layer_norm.weight": one.expand(WIDTH),
        "final_layer_norm.bias": zero.expand(WIDTH),
    }
    for number in range(LAYERS):
        layer, last = f"encoder.layers.{number}.", number == LAYERS - 1
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            passes = last and name in ("v_proj", "out_proj")
            weight = mirror if passes else zero.expand(WIDTH, WIDTH)
            state[f"{layer}self_attn.{name}.weight"] = weight
            state[f"{layer}self_attn.{name}.bias"] = zero.expand(WIDTH)
        for name, n_out, n_in in (("fc1", INNER, WIDTH), ("fc2", WIDTH, INNER)):
            state[f"{layer}mlp.{name}.weight"] = zero.expand(n_out, n_in)
            state[f"{layer}mlp.{name}.bias"] = zero.expand(n_out)
        for name in ("layer_norm1", "layer_norm2"):
            state[f"{layer}{name}.weight"] = one.expand(WIDTH)
            state[f"{layer}{name}.bias"] = zero.expand(WIDTH)
    result = {f"text_model.{name}": value for name, value in state.items()}
    return result | {"text_projection.weight": mirror}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.emoji.text")
    parser.add_argument("file", metavar="FILE", type=Path, help="a .safetensors file to write")
    file = parser.parse_args(arguments).file
    save_file({name: value.contiguous() for name, value in clip_l().items()}, file)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
