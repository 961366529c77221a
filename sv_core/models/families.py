"""The families of flow models: one record with everything about each, and no other list of them.

Those that are neither in the paper nor trained here are in ``further_families``. Presets, checks,
caches, text, training, embedders of intervals and memory estimates all read these records.
docs/adding_a_family.md explains one. Records hold strings and numbers only: the functions that
search a network, or call ComfyUI, are in the rooms that use them, and take names of attributes and
classes from a record.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from ..errors import InvalidInput
from ..latent import SD_VAE, LatentSpec
from ..spectrum import FLUX_SPECTRUM, WAN_SPECTRUM
from .family import Family, Layout, Sampling, Size, Template, Text, TextEncoder
from .further_families import FURTHER

# fmt: off
_WAN21_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)
_WAN21_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)
_WAN22_MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557,
    -0.1382, 0.0542, 0.2813, 0.0891, 0.1570, -0.0098, 0.0375, -0.1825,
    -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502,
    -0.2055, -0.0322, 0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230,
    -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520, 0.3748,
    0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)
_WAN22_STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013,
    0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165, 0.8454, 0.4978,
    0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659,
    0.7069, 0.5338, 0.4889, 0.4917, 0.4069, 0.4999, 0.6866, 0.4093,
    0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887,
    0.3971, 1.0600, 0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)

# fmt: on


def _wan(kind: str, mean: tuple[float, ...], std: tuple[float, ...], downscale: int) -> LatentSpec:
    return LatentSpec(kind, len(mean), tuple(1 / s for s in std), mean, downscale)


CLIP_L = TextEncoder("CLIP-L", "text_model.encoder.layers.11.mlp.fc1.weight", 3072)
CLIP_G = TextEncoder("CLIP-G", "text_model.encoder.layers.31.mlp.fc1.weight")
_BIAS_OF_THE_LAST = "encoder.block.23.layer.0.SelfAttention.relative_attention_bias.weight"
T5_XXL = TextEncoder(
    "T5-XXL", "encoder.block.23.layer.1.DenseReluDense.wi_1.weight", 10240, lacks=_BIAS_OF_THE_LAST
)
UMT5_XXL = TextEncoder("UMT5-XXL", _BIAS_OF_THE_LAST)
QWEN_VL = TextEncoder("Qwen2.5-VL-7B", "model.layers.27.self_attn.k_proj.bias", 512)

SD = Family("SD", aliases=("sd",), latent=SD_VAE)

SDXL = Family(
    "SDXL", aliases=("sdxl",), latent=LatentSpec("sdxl", 4, scale=0.13025, shift=0.0, downscale=8)
)

SD35 = Family(
    "SD3.5",
    hosts=("SD3",),
    aliases=("sd3", "sd3.5-large"),
    latent=LatentSpec("sd3", 16, scale=1.5305, shift=0.0609, downscale=8),
    sampling=Sampling("normal", shift=3.0, cfg=4.5),
    template=Template("sd3.5_simple_example", 20, 4.01, scheduler="sgm_uniform"),
    time_embedding="t_embedder",
    text=Text("SD3", usable=(CLIP_L, CLIP_G, T5_XXL), needed=()),
    layout=Layout(
        "sd3",
        blocks={"joint_blocks": "second part"},
        width="hidden_size",
        context="context_embedder.in_features",
        pooled="y_embedder.mlp.0.in_features",
        # Two blocks, as the last one differs; the width is 64 times the depth given here.
        tiny={
            "depth": 1,
            "num_blocks": 2,
            "adm_in_channels": 24,
            "num_patches": 16,
            "pos_embed_max_size": 4,
            "context_embedder_config": {
                "target": "torch.nn.Linear",
                "params": {"in_features": 32, "out_features": 64},
            },
        },
        tiny_where_set={"x_block_self_attn_layers": [0]},
    ),
    size=Size(39_554_112, (212_999_680,) * 37 + (136_085_248,), 2432, 4, 4_212_224),
)

FLUX = Family(
    "Flux",
    hosts=("Flux",),
    aliases=("flux", "flux-dev"),
    latent=LatentSpec("flux", 16, scale=0.3611, shift=0.1159, downscale=8),
    sampling=Sampling("simple", shift=math.exp(1.15), cfg=1.0),
    spectrum=FLUX_SPECTRUM,
    template=Template("flux_dev_full_text_to_image", 20, 1.0),
    time_embedding="time_in",
    text=Text("FLUX", usable=(CLIP_L, T5_XXL), needed=(CLIP_L, T5_XXL)),
    layout=Layout(
        "flux",
        # A single block runs over text and picture together, text first.
        blocks={"double_blocks": "first part", "single_blocks": "last tokens"},
        width="hidden_size",
        context="params.context_in_dim",
        pooled="params.vec_in_dim",
        tiny={
            "hidden_size": 64,
            "num_heads": 1,
            "axes_dim": [8, 28, 28],
            "depth": 1,
            "depth_single_blocks": 1,
            "vec_in_dim": 24,
            "context_in_dim": 32,
        },
    ),
    size=Size(64_124_992, (339_831_296,) * 19 + (141_591_808,) * 38, 3072, 4, 4_786_176),
)

QWEN_IMAGE = Family(
    "Qwen-Image",
    hosts=("QwenImage",),
    aliases=("qwen_image", "qwen-image"),
    latent=_wan("qwen_image", _WAN21_MEAN, _WAN21_STD, 8),
    kind="one frame",
    sampling=Sampling(None, shift=math.exp(1.15), cfg=4.0),
    template=Template("image_qwen_image", 20, 4.0, shift=3.1),
    time_embedding="time_text_embed",
    text=Text("QWEN_IMAGE", usable=(QWEN_VL,), needed=(QWEN_VL,), literal=True),
    layout=Layout(
        "qwen-image",
        blocks={"transformer_blocks": "second part"},
        width="inner_dim",
        context="txt_in.in_features",
        tiny={
            "num_layers": 2,
            "num_attention_heads": 1,
            "attention_head_dim": 64,
            "axes_dims_rope": (8, 28, 28),
            "joint_attention_dim": 32,
        },
    ),
    size=Size(40_523_328, (339_831_296,) * 60, 3072, 4, 9_216_000),
)

# Also Wan2.1's 14B text to video, whose network and VAE are the same; wan21 is what its latents
# were called.
WAN22_14B = Family(
    "Wan2.2 14B",
    hosts=("WAN21",),
    aliases=("wan21", "wan2.2-14b", "Wan2.2"),
    latent=_wan("wan21", _WAN21_MEAN, _WAN21_STD, 8),
    kind="video",
    sampling=Sampling("simple", shift=5.0, cfg=3.5, sampler="uni_pc", rule="unipc"),
    spectrum=WAN_SPECTRUM,
    template=Template("video_wan2_2_14B_t2v", 20, 3.5, shift=5.0),
    boundary=0.875,  # of text-to-video; image-to-video files have 0.9
    time_embedding="time_embedding",
    text=Text("WAN", usable=(UMT5_XXL,), needed=(UMT5_XXL,)),
    layout=Layout(
        "wan",
        blocks={"blocks": "all"},
        width="dim",
        context="text_dim",
        tiny={"dim": 64, "num_heads": 1, "ffn_dim": 128, "num_layers": 1, "text_dim": 32},
    ),
    size=Size(232_719_424, (351_394_304,) * 40, 5120, 2.7, 4_792_320),
)

WAN22_5B = replace(
    WAN22_14B,
    name="Wan2.2 5B",
    hosts=("WAN22",),
    aliases=("wan22", "wan2.2-5b", "Wan2.2"),
    latent=_wan("wan22", _WAN22_MEAN, _WAN22_STD, 16),
    sampling=Sampling("simple", shift=8.0, cfg=5.0, sampler="uni_pc", rule="unipc"),
    spectrum=None,
    template=Template("video_wan2_2_5B_ti2v", 20, 5.0, "uni_pc", shift=8.0),
    boundary=None,
    size=Size(90_086_592, (163_656_704,) * 30, 3072, 14 / 3, 2_519_040),
)

# What only Wan2.1 has: a picture through CLIP, a camera's adapter behind it, 1.3B.
WAN21 = Family(
    "Wan2.1",
    hosts=("WAN21", "WAN21_Camera"),
    where=({"model_type": "i2v"}, {"model_type": "camera"}, {"dim": 1536}),
    kind="video",
    template=Template("image_to_video_wan", 20, 6.0, "uni_pc", shift=8.0),
    time_embedding=WAN22_14B.time_embedding,
)

FAMILIES = (SD, SDXL, FLUX, SD35, QWEN_IMAGE, WAN22_14B, WAN22_5B, WAN21, *FURTHER)
"""Every family, in the order of the menus; a name belongs to the first one that answers to it."""


def find(name: str | None) -> Family | None:
    """The family of a name, an alias or a cache's kind of latents; None for others."""
    return next((f for f in FAMILIES if name is not None and f.answers_to(name)), None)


def of_host(classes: Iterable[str], config: Mapping[str, Any] | None = None) -> Family | None:
    """The family of ComfyUI's model, by the names of its class and its base classes in order.

    config: the host's, of the network; a family that asks for one of its entries goes first.
    """
    found = (
        family
        for name in classes
        for family in sorted(FAMILIES, key=lambda f: not f.where)
        if family.is_host(name, config or {})
    )
    return next(found, None)


def having(part: str) -> list[Family]:
    """The families whose record has a part such as ``text``."""
    return [family for family in FAMILIES if getattr(family, part) is not None]


def names(part: str, last: str = ", ") -> str:
    """The names of the families that have a part, as "A, B and C" for ``last`` " and "."""
    *first, end = [family.name for family in having(part)]
    return last.join([", ".join(first), end]) if first else end


def latents(name: str | None) -> LatentSpec:
    """The latents of a family's VAE. Raises InvalidInput for an unknown family."""
    family = find(name)
    if family is None or family.latent is None:
        raise InvalidInput(f"unknown family {name!r} (have: {names('latent')})")
    return family.latent


def spelled(name: str) -> str:
    """The name of the family that a name or an alias belongs to; other names unchanged."""
    family = find(name)
    return name if family is None else family.name


def has_frames(name: str | None) -> bool:
    """Whether latents of that family have an axis of frames; False for unknown ones."""
    family = find(name)
    return family is not None and family.frames


def is_moving(name: str | None) -> bool:
    """Whether that family makes videos; False for unknown ones."""
    family = find(name)
    return family is not None and family.moving


def stride(name: str | None) -> int:
    """Frames of a video for each one of the latent, after the first; 4 for unknown ones."""
    family = find(name)
    return Family.stride if family is None else family.stride
