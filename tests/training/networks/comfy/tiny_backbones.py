"""ComfyUI's families as backbones, tiny, and their files as people store them."""

import json

import torch
from safetensors.torch import load_file, save_file

from sv_core.models.families import FLUX
from tests.host import tiny as tiny_files
from tests.training.in_comfy import HOST, MODELS, NEW, WORK
from training.networks.comfy import backbone as comfy_backbone
from training.networks.comfy import load as comfy_load
from training.networks.comfy import self_check
from training.networks.comfy.file import ModelFile

OUT = WORK / "backbones"
OUT.mkdir()


DIFFUSION = MODELS / "diffusion_models"
WAN_FILE = DIFFUSION / "wan2.2_t2v_high_noise_14B_fp8_scaled.safetensors"
FILES = {
    "sd3": MODELS / "checkpoints/sd3.5_large_fp8_scaled.safetensors",
    "flux": DIFFUSION / "flux1-dev.safetensors",
    "qwen": DIFFUSION / "qwen_image_fp8_e4m3fn.safetensors",
    "wan": WAN_FILE,
    "wan 5B": DIFFUSION / "wan2.2_ti2v_5B_fp16.safetensors",
}


_LOADED = {}
STEP = 0.016


def backbone(name):
    """A family's tiny file, loaded once; older ComfyUI sees in every Flux file the full width."""
    if name not in _LOADED:
        if name == "flux" and not NEW:
            config = HOST.detection.model_config_from_unet_config(dict(tiny_files.FLUX), {})
            config.set_inference_dtype(torch.float32, None)
            base = config.get_model({}, "", device=torch.device("cpu"))
            self_check.fill(base.diffusion_model)
            file = ModelFile(FILES[name], "", {}, {}, {}, None, torch.float32)
            _LOADED[name] = comfy_backbone.wrap(base, FLUX, file, HOST, {})
        else:
            _LOADED[name] = comfy_load.load(FILES[name], HOST)
    return _LOADED[name]


def small(name, dtype=torch.float32, recompute=False):
    """A network of the family with two texts, by the classes of the host."""
    return self_check.tiny(backbone(name), HOST, dtype, recompute)


def texts_for(one):
    """Two texts of different lengths of the widths that a loaded network takes."""
    return self_check._Texts(one, torch.float32)


def variant(source, name, change):
    """A file like another with changed tensors."""
    path = OUT / f"{name}.safetensors"
    if not path.exists():
        save_file(change(load_file(source)), path, metadata={"who": "the user"})
    return path


def stored(dtype):
    return lambda state: {
        k: v.to(dtype if v.ndim > 1 or dtype.itemsize > 1 else torch.bfloat16)
        for k, v in state.items()
    }


def scaled(style):
    def change(state):
        result = {}
        for k, v in state.items():
            if v.ndim == 2 and k.endswith("weight"):
                layer = k.removesuffix("weight")
                scale = v.float().abs().amax() / 448 * 1.5
                result[k] = (v.float() / scale).to(torch.float8_e4m3fn)
                said = {"old": "scale_weight", "new": "weight_scale", "unsaid": "scale_weight"}
                result[layer + said[style]] = scale
                if style == "new":
                    conf = json.dumps({"format": "float8_e4m3fn"}).encode()
                    result[layer + "comfy_quant"] = torch.tensor(list(conf), dtype=torch.uint8)
            else:
                result[k] = v
        if style == "old":
            result["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        return result

    return change


VARIANTS = {
    "bf16": stored(torch.bfloat16),
    "fp16": stored(torch.float16),
    "fp8": stored(torch.float8_e4m3fn),
    "scaled fp8": scaled("old"),
} | ({"new scaled fp8": scaled("new")} if NEW else {})


SOURCES = {"wan": WAN_FILE, "sd3": DIFFUSION / "sd3.5_large.safetensors"} | (
    {"flux": FILES["flux"]} if NEW else {}
)


def velocity_of(one):
    one = one.reading(texts_for(one))
    frames = (1,) if one.family.frames else ()
    shape = (2, one.latent.channels, *frames, 4, 4)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(8))
    with torch.no_grad():
        return one.velocity(x, torch.tensor([0.3, 0.8]), torch.tensor([0, 1]))


def plain_tensors(module):
    """What is in memory, also inside the host's quantised tensors."""
    for p in module.parameters():
        if hasattr(p, "__tensor_flatten__"):
            yield from (getattr(p, name) for name in p.__tensor_flatten__()[0])
        else:
            yield p


def saved(one, name):
    path = OUT / f"saved {name}.safetensors"
    tensors = {k: v.contiguous() for k, v in one.weights().items()}
    save_file(tensors, path, metadata=one.metadata())
    return path
