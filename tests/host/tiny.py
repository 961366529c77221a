"""Tiny models with random weights, under the official file names, for real ComfyUI loader nodes.

Run inside a ComfyUI folder with that ComfyUI's interpreter:

    .venv/bin/python .../tests/host/tiny.py MODELS_DIR

Every file has exactly the keys and the widths that the loaders look for; only depths and free
widths are small. A tensor's values depend on its name and the file's seed alone (every host version
writes the same bytes) and are scaled so that samples keep a standard deviation near 1 and decoded
pictures fill the middle of 0..1. Text encoder files are empty: the pack `test_nodes` stands in.
"""

import json
import math
import re
import sys
import zlib
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from safetensors.torch import load_file, save_file

HOST = Path.cwd()
FILES = {  # path under models/ -> seed, gain of the last layer (measured)
    "checkpoints/sd3.5_large_fp8_scaled.safetensors": (1, 0.7),
    "diffusion_models/sd3.5_large.safetensors": (1, 0.7),  # the same model without its VAE
    "diffusion_models/flux1-dev.safetensors": (2, 0.6),
    "diffusion_models/qwen_image_fp8_e4m3fn.safetensors": (3, 0.6),
    "diffusion_models/wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors": (4, 0.6),
    "diffusion_models/wan2.2_t2v_low_noise_14B_fp8_scaled.safetensors": (5, 0.6),
    "diffusion_models/qwen_image_edit_fp8_e4m3fn.safetensors": (3, 0.6),
    "diffusion_models/wan2.2_i2v_high_noise_14B_fp8_scaled.safetensors": (4, 0.6),
    "diffusion_models/wan2.2_i2v_low_noise_14B_fp8_scaled.safetensors": (5, 0.6),
    "diffusion_models/wan2.2_ti2v_5B_fp16.safetensors": (6, 0.7),
    "vae/ae.safetensors": (7, 0.6),
    "vae/qwen_image_vae.safetensors": (7, 0.6),
    "vae/wan_2.1_vae.safetensors": (7, 0.6),
    "vae/wan2.2_vae.safetensors": (7, 0.6),
    "loras/my_first_lora.safetensors": (8, 1.0),  # for Flux
}
ONES = ("weight", "scale", "alpha", "beta", "running_var", "std-of-means")
LAST = ("final_layer.linear.", "proj_out.", "head.head.", "taesd_decoder.19.")
SMALL = {"width": 128, "height": 128, "length": 5, "frames_number": 5, "megapixels": 0.02}
NUMBERS = ("PrimitiveInt", "ResolutionSelector")
"""Nodes whose only purpose is a size."""
UNUSED_LORAS = (  # behind a switch that is off: the host asks only that the file be there
    "Qwen-Image-Lightning-8steps-V1.0.safetensors",
    "Qwen-Image-Edit-Lightning-4steps-V1.0-bf16.safetensors",
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_high_noise.safetensors",
    "wan2.2_t2v_lightx2v_4steps_lora_v1.1_low_noise.safetensors",
    "wan2.2_i2v_lightx2v_4steps_lora_v1_high_noise.safetensors",
    "wan2.2_i2v_lightx2v_4steps_lora_v1_low_noise.safetensors",
)
TEXT_ENCODERS = (
    "clip_l.safetensors",
    "t5xxl_fp16.safetensors",
    "qwen_2.5_vl_7b_fp8_scaled.safetensors",
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
)
SD35 = {
    "in_channels": 16,
    "patch_size": 2,
    "out_channels": 16,
    "depth": 2,
    "input_size": None,
    "adm_in_channels": 2048,
    "context_embedder_config": {
        "target": "torch.nn.Linear",
        "params": {"in_features": 4096, "out_features": 128},
    },
    "num_patches": 64**2,  # pictures up to 1024 x 1024
    "pos_embed_max_size": 64,
    "qk_norm": "rms",
    "pos_embed_scaling_factor": None,
    "x_block_self_attn_layers": [],
}
FLUX = {
    "image_model": "flux",
    "in_channels": 16,
    "out_channels": 16,
    "patch_size": 2,
    "vec_in_dim": 768,
    "context_in_dim": 4096,
    "hidden_size": 128,
    "num_heads": 1,
    "mlp_ratio": 4.0,
    "depth": 1,
    "depth_single_blocks": 1,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "qkv_bias": True,
    "guidance_embed": True,
}
QWEN_EDIT = {"num_layers": 1, "num_attention_heads": 1, "attention_head_dim": 128}
QWEN = {"image_model": "qwen_image", "in_channels": 64, "num_layers": 0}
WAN = {
    "image_model": "wan2.1",
    "model_type": "t2v",
    "dim": 128,
    "num_heads": 1,
    "ffn_dim": 256,
    "num_layers": 1,
    "patch_size": (1, 2, 2),
    "freq_dim": 256,
    "window_size": (-1, -1),
    "qk_norm": True,
    "cross_attn_norm": True,
    "eps": 1e-6,
}
WAN_14B = WAN | {"in_dim": 16, "out_dim": 16}
WAN_I2V = WAN | {"in_dim": 36, "out_dim": 16}  # and a first frame with its mask
WAN_5B = WAN | {"in_dim": 48, "out_dim": 48}
WIDTH = 128
STARTS = {  # what trainings begin with
    "sd3": SD35
    | {
        "num_patches": 16,
        "pos_embed_max_size": 4,
        "adm_in_channels": 64,
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": 64, "out_features": WIDTH},
        },
    },
    "flux": FLUX,
    "qwen_image": QWEN | {"num_layers": 2, "num_attention_heads": 1, "attention_head_dim": 128},
    "wan": WAN_14B,
}


def fill(name: str, like: torch.Tensor, seed: int, gain: float) -> torch.Tensor:
    """Random values for one tensor: norms 1, biases small, weights N(0, 1 / fan-in)."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()) + seed)
    if like.ndim == 1 and name.endswith(ONES):
        return torch.ones(like.shape)
    value = torch.randn(like.shape, generator=generator)
    value *= 0.02 if like.ndim == 1 else math.prod(like.shape[1:]) ** -0.5
    return value * gain if name.startswith(LAST) else value


def diffusion_model(config: dict, seed: int, gain: float) -> dict[str, torch.Tensor]:
    """The state dict of the host's own class for this configuration, under the file's keys."""
    import comfy.model_detection
    from comfy.ldm.flux.model import FluxParams

    if config is FLUX and "txt_ids_dims" in FluxParams.__dataclass_fields__:  # newer hosts
        config = config | {"txt_ids_dims": []}
    model_config = comfy.model_detection.model_config_from_unet_config(dict(config), {})
    model_config.set_inference_dtype(torch.float32, None)
    shapes = model_config.get_model({}, device="meta").diffusion_model.state_dict()
    # Newer hosts rename Flux's `_norm.scale` while they load it; the file keeps the official name.
    official = re.compile(r"(\.norm\.(query|key)_norm)\.weight$")
    names = {official.sub(r"\1.scale", name): like for name, like in shapes.items()}
    return {name: fill(name, like, seed, gain) for name, like in names.items()}


def autoencoder(channels: int, seed: int, gain: float) -> dict[str, torch.Tensor]:
    """A tiny autoencoder (TAESD) that VAELoader recognises; of a video it decodes one frame."""
    from comfy.taesd.taesd import TAESD

    result = {}
    for name, like in TAESD(latent_channels=channels).state_dict().items():
        scalar = name.startswith("vae_")
        result[name] = like if scalar else fill(name, like, seed, gain)
    result["taesd_decoder.19.bias"] += 0.75  # pictures centre on mid-grey
    result["taesd_encoder.14.weight"] *= 6  # latents of standard deviation 1
    return result


def lora(seed: int, gain: float) -> dict[str, torch.Tensor]:
    """An addition to one layer of the tiny Flux, of about that layer's own size."""
    width, rank = FLUX["hidden_size"], 4
    layer = "diffusion_model.double_blocks.0.img_attn.qkv"
    shapes = {"lora_A": (rank, width), "lora_B": (3 * width, rank)}
    names = {f"{layer}.{name}.weight": torch.empty(shape) for name, shape in shapes.items()}
    return {name: fill(name, like, seed, gain) for name, like in names.items()}


def build(path: str, seed: int, gain: float) -> dict[str, torch.Tensor]:
    """The tensors of one file of FILES."""
    name = Path(path).name
    if path.startswith("loras/"):
        return lora(seed, gain)
    if path.startswith("checkpoints/"):
        model = diffusion_model(SD35, seed, gain)
        vae = autoencoder(16, *FILES["vae/ae.safetensors"])
        parts = {"model.diffusion_model.": model, "first_stage_model.": vae}
        return {prefix + k: v for prefix, part in parts.items() for k, v in part.items()}
    if path.startswith("vae/"):
        return autoencoder(48 if name.startswith("wan2.2") else 16, seed, gain)
    if name.startswith("qwen_image_edit"):
        return diffusion_model(QWEN | QWEN_EDIT, seed, gain)
    if name.startswith("qwen"):  # its widths are fixed: halve the 160 MB
        return {k: v.bfloat16() for k, v in diffusion_model(QWEN, seed, gain).items()}
    if name.startswith("wan"):
        wan = WAN_5B if "5B" in name else WAN_I2V if "i2v" in name else WAN_14B
        return diffusion_model(wan, seed, gain)
    return diffusion_model(FLUX if name.startswith("flux") else SD35, seed, gain)


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
    """Write what a training of the family begins with, with the tensors of ``others`` (a VAE)."""
    state = diffusion_model(STARTS[family], seed=1, gain=0.7)
    if family == "sd3":
        state = as_dit(state)
    if others:
        state = {f"model.diffusion_model.{k}": v for k, v in state.items()}
    for other in others:
        state |= {f"first_stage_model.{k}": v for k, v in load_file(other).items()}
    save_file(state, path)
    return 0


def shrink(prompt: dict) -> dict:
    """An API-format prompt at a size that a CPU samples in a second."""
    result = json.loads(json.dumps(prompt))
    for node in result.values():
        for name in SMALL.keys() & node["inputs"].keys():
            value = node["inputs"][name]
            if not isinstance(value, list):
                node["inputs"][name] = min(value, SMALL[name])
            elif result[value[0]]["class_type"] in NUMBERS:
                node["inputs"][name] = SMALL[name]
    return result


def save(path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata | {"stable_velocity": "random test weights"})


def write(models: Path) -> None:
    """Every file of FILES, and stand-ins for what is only named."""
    for path, (seed, gain) in FILES.items():
        save(models / path, build(path, seed, gain), {})
    write_stand_ins(models, TEXT_ENCODERS, UNUSED_LORAS)


def write_newer(models: Path, newer: ModuleType) -> None:
    """The same of tiny_newer.py, as far as this host knows the families."""
    for path, seed, gain, shapes in newer.known_here():
        state, metadata = shapes()
        filled = {
            name: fill(name, like, seed, gain).to(like.dtype) if like.is_floating_point() else like
            for name, like in state.items()
        }
        save(models / path, filled, metadata)
    write_stand_ins(models, newer.TEXT_ENCODERS, newer.UNUSED_LORAS)


def write_stand_ins(models: Path, text_encoders: Iterable[str], loras: Iterable[str]) -> None:
    for folder, names in (("text_encoders", text_encoders), ("loras", loras)):
        for name in names:
            save(models / folder / name, {"stand_in": torch.zeros(1)}, {})


def main() -> int:
    if len(sys.argv) != 2 or not (HOST / "comfy").is_dir():
        print(__doc__.strip(), file=sys.stderr)
        return 2
    newer = import_module("tiny_newer")  # beside this file
    sys.path[0] = str(HOST)  # in place of this folder, whose names would hide the host's
    from comfy.cli_args import args

    args.cpu = True
    write(Path(sys.argv[1]))
    write_newer(Path(sys.argv[1]), newer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
