"""Steps of the circle that need the host's code beside the pack ``test_nodes``, in one process.

    PYTHON circle_host.py COMFY STEP [STEP ...]

A step is a JSON list: ["start", FAMILY, FILE, OTHER ...] writes a model of random weights, with the
tensors of OTHER (a VAE) in the same file; ["training.prepare", ...] and ["training.finetune", ...]
are these commands, with stand-ins for text encoders and with small Flux and Qwen files understood.
"""

import importlib
import json
import logging
import math
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMFY = Path(sys.argv[1])
# In place of this folder, whose names would hide the host's.
sys.path[0] = str(COMFY)

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from training.networks.comfy.host import open_host  # noqa: E402

torch.set_num_threads(1)
open_host(COMFY, torch.device("cpu"))


def neighbour(name: str):
    """A module of this folder, which is not on the path."""
    place = HERE / name / "__init__.py" if (HERE / name).is_dir() else HERE / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = neighbour("tiny")
neighbour("test_nodes")  # to import it is to put the stand-ins in place

WIDTH = 128
SD3 = tiny.SD35 | {
    "num_patches": 16,
    "pos_embed_max_size": 4,
    "adm_in_channels": 64,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 64, "out_features": WIDTH},
    },
}
QWEN = tiny.QWEN | {"num_layers": 2, "num_attention_heads": 1, "attention_head_dim": 128}
CONFIGS = {"sd3": SD3, "flux": tiny.FLUX, "qwen_image": QWEN, "wan": tiny.WAN_14B}


def as_dit(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """SD3.5 as transformers are begun with: places by sines, gates and output 0."""
    from comfy.ldm.modules.diffusionmodules.mmdit import get_2d_sincos_pos_embed

    draw = torch.Generator().manual_seed(0)
    for name, value in state.items():
        if name == "pos_embed":
            side = math.isqrt(value.shape[1])
            value.copy_(torch.from_numpy(get_2d_sincos_pos_embed(WIDTH, side))[None])
        elif "adaLN" in name or name.startswith("final_layer.linear") or name.endswith("bias"):
            value.zero_()
        elif value.ndim > 1:
            value.copy_(torch.randn(value.shape, generator=draw) / value[0].numel() ** 0.5)
    return state


def start(family: str, path: str, *others: str) -> int:
    state = tiny.diffusion_model(CONFIGS[family], seed=1, gain=0.7)
    if family == "sd3":
        state = as_dit(state)
    if others:
        state = {f"model.diffusion_model.{k}": v for k, v in state.items()}
    for other in others:
        state |= {f"first_stage_model.{k}": v for k, v in load_file(other).items()}
    save_file(state, path)
    return 0


def main() -> int:
    logging.getLogger().setLevel(logging.WARNING)
    for step in map(json.loads, sys.argv[2:]):
        name, *arguments = step
        if name == "start":
            code = start(*arguments)
        else:
            code = importlib.import_module(name).main(arguments)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
