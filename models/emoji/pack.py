"""One file for CheckpointLoaderSimple: python -m models.emoji.pack WEIGHTS VAE FILE.ckpt

The trained network, the autoencoder and the text encoder, in 16 bits. ComfyUI fixes the text
encoder's 123 million numbers, 250 MB where every number is written down; here they are views of few
(see text.py), which .safetensors cannot say and PyTorch's own format can. It holds tensors only:
``torch.load(..., weights_only=True)`` reads it, as ComfyUI does.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training.files import write_atomically

from .start import MODEL
from .text import clip_l

VAE, TEXT = "first_stage_model.", "text_encoders.clip_l."


def packed(weights: dict[str, Tensor], vae: dict[str, Tensor]) -> dict[str, Tensor]:
    """The whole checkpoint; ``weights`` with or without the prefix of a checkpoint."""
    network = {k.removeprefix(MODEL): v for k, v in weights.items() if not k.startswith(VAE)}
    state = {MODEL + k: v.half() for k, v in network.items()}
    state |= {VAE + k: v.half() for k, v in vae.items()}
    return state | {f"{TEXT}transformer.{k}": v for k, v in clip_l().items()}


def write(path: Path, state: dict[str, Tensor]) -> None:
    """As a checkpoint of PyTorch's own, in which what views share is there once."""
    write_atomically(path, lambda file: torch.save({"state_dict": state}, file))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.emoji.pack")
    parser.add_argument("weights", metavar="WEIGHTS", type=Path, help="of training.finetune")
    parser.add_argument("vae", metavar="VAE", type=Path, help="of models.emoji.vae")
    parser.add_argument("file", metavar="FILE", type=Path, help="the .ckpt to write")
    options = parser.parse_args(arguments)
    state = packed(load_file(options.weights), load_file(options.vae))
    write(options.file, state)
    print(f"{options.file.stat().st_size / 2**20:.1f} MiB in {options.file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
