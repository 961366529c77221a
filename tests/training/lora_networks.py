"""ComfyUI's own networks, small, in every way of storing them, with additions by chance."""

import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import folder_paths
import torch

from tests.host import tiny
from tests.training.in_comfy import NEW, WORK
from training import lora

FOLDER = WORK / "loras"
FOLDER.mkdir()
folder_paths.add_model_folder_path("loras", str(FOLDER), is_default=True)
BF16, FP8 = torch.bfloat16, torch.float8_e4m3fn
CPU = torch.device("cpu")
SMALL = {  # two blocks of a kind at least, and widths that a CPU runs in milliseconds
    "sd35": tiny.SD35,
    "flux": tiny.FLUX | {"depth_single_blocks": 2} | ({"txt_ids_dims": []} if NEW else {}),
    "qwen": tiny.QWEN | {"num_layers": 2, "num_attention_heads": 1},
    "wan": tiny.WAN_14B | {"num_layers": 2},
}


CONTEXT = {"sd35": 4096, "flux": 4096, "qwen": 3584, "wan": 4096}
POOLED = {"sd35": 2048, "flux": 768}


def build(
    family: str,
    dtype: torch.dtype,
    compute: torch.dtype,
    rounded: torch.dtype | None = None,
    **changes: int,
):
    """A patcher over the host's own class with random weights, ``rounded`` to another dtype."""
    config = comfy.model_detection.model_config_from_unet_config(SMALL[family] | changes, {})
    config.set_inference_dtype(dtype, compute if compute != dtype else None)
    model = config.get_model({}, device="cpu")
    for name, value in model.diffusion_model.state_dict().items():  # the parameters themselves
        value.copy_(tiny.fill(name, value, 1, 0.7).to(rounded or dtype))
    model.diffusion_model.requires_grad_(False)
    return comfy.model_patcher.ModelPatcher(model, CPU, CPU)


def build_scaled(family: str):
    """The same from a file with scaled fp8 weights, through the host's loader."""
    config, gain = {"sd35": (tiny.SD35, 0.7), "wan": (tiny.WAN_14B | {"num_layers": 2}, 0.6)}[
        family
    ]
    whole = tiny.diffusion_model(config, 1, gain)
    file = {"scaled_fp8": torch.zeros(0, dtype=FP8)}
    for name, value in whole.items():
        file[name] = value
        layer = name.removesuffix(".weight")
        if "block" in name and layer != name and value.ndim == 2:
            scale = value.abs().max() / 448
            file[name], file[f"{layer}.scale_weight"] = (value / scale).to(FP8), scale
    return comfy.sd.load_diffusion_model_state_dict(file)


def call(patcher, family: str, compute: torch.dtype, size: int = 8) -> torch.Tensor:
    """v of the same inputs, as training calls the network."""
    generator = torch.Generator().manual_seed(5)
    frames = {"qwen": (1,), "wan": (2,)}.get(family, ())
    shape = (2, 16, *frames, size, size)
    x = torch.randn(shape, generator=generator).to(BF16).to(compute)
    options = {
        "context": torch.randn(2, 7, CONTEXT[family], generator=generator).to(BF16).to(compute)
    }
    if family in POOLED:
        options["y"] = torch.randn(2, POOLED[family], generator=generator).to(BF16).to(compute)
    if family == "flux":
        options["guidance"] = torch.full((2,), 3.5)
    t = patcher.model.model_sampling.timestep(torch.tensor([0.3, 0.8])).float()
    return patcher.model.diffusion_model(x, t, transformer_options={}, **options)


def train_by_chance(network, **options) -> list[str]:
    """Additions of about the base's size."""
    names = lora.inject(network, rank=4, alpha=6.0, **options)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for a in lora.adapters(network).values():
            a.lora_B.copy_(torch.randn(a.lora_B.shape, generator=generator) * 0.5)
    return names


def gradients(patcher, family: str, compute: torch.dtype) -> dict[str, torch.Tensor]:
    network = patcher.model.diffusion_model
    network.zero_grad()
    call(patcher, family, compute).float().square().mean().backward()
    return {n: p.grad.clone() for n, p in network.named_parameters() if p.requires_grad}


def note(label, figure):
    print(f"  {label}: {figure}")
