"""An SD3.5 that has learnt nothing yet, as ComfyUI loads it: python -m models.emoji.start FILE

Sines for places, outputs and gates 0, everything else random and a function of the seed. With
``--begin CHECKPOINT`` the network of a packed file instead.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.networks.comfy.folder import find
from training.networks.comfy.host import Host, open_host

MODEL = "model.diffusion_model."
DEPTH = 3
SIDE = 16
"""Tokens a side of the largest picture: 256 pixels."""


def shape(depth: int) -> dict:
    """What ComfyUI finds out from such a file: SD3.5, so many blocks, 64 times as wide."""
    return {
        "in_channels": 16,
        "patch_size": 2,
        "out_channels": 16,
        "depth": depth,
        "input_size": None,
        "adm_in_channels": 2048,
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": 4096, "out_features": 64 * depth},
        },
        "num_patches": SIDE**2,
        "pos_embed_max_size": SIDE,
        "qk_norm": "rms",
        "pos_embed_scaling_factor": None,
        "x_block_self_attn_layers": [],
    }


def begin(host: Host, depth: int = DEPTH, seed: int = 0) -> dict[str, Tensor]:
    """The tensors of the network, by the names in a file of its own."""
    from comfy.ldm.modules.diffusionmodules.mmdit import get_2d_sincos_pos_embed

    config = host.detection.model_config_from_unet_config(shape(depth), {})
    config.set_inference_dtype(torch.float32, None)
    shapes = config.get_model({}, device="meta").diffusion_model.state_dict()
    draw = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in shapes.items():
        if name == "pos_embed":
            places = get_2d_sincos_pos_embed(64 * depth, SIDE)
            state[name] = torch.from_numpy(places).float()[None]
        elif like.ndim == 1 and name.endswith("weight"):
            state[name] = torch.ones(like.shape)
        elif "adaLN" in name or name.startswith("final_layer.linear") or like.ndim == 1:
            state[name] = torch.zeros(like.shape)
        else:
            value = torch.randn(like.shape, generator=draw)
            state[name] = value / value[0].numel() ** 0.5
    return state


def taken(checkpoint: Path) -> dict[str, Tensor]:
    """The network of a packed file, by the same names, in 32 bits."""
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    network = {k.removeprefix(MODEL): v for k, v in state.items() if k.startswith(MODEL)}
    return {name: value.float() for name, value in network.items()}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m models.emoji.start")
    parser.add_argument("file", metavar="FILE", type=Path, help="a .safetensors file to write")
    parser.add_argument("--depth", type=int, default=DEPTH)
    parser.add_argument("--begin", metavar="CHECKPOINT", type=Path, help="go on from this")
    parser.add_argument("--comfy", help="ComfyUI's folder, where it is not found")
    options = parser.parse_args(arguments)
    if options.begin:
        state = taken(options.begin)
    else:
        state = begin(open_host(find(options.comfy), torch.device("cpu")), options.depth)
    save_file({MODEL + name: value for name, value in state.items()}, options.file)
    print(f"{sum(v.numel() for v in state.values()) / 1e6:.1f} million numbers in {options.file}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
