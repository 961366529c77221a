"""The autoencoder that turns pictures into latents, from one local file, without any hub."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sv_core.errors import InvalidInput
from sv_core.latent import SD_VAE, LatentSpec

from .checkpoint import read_weights

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


FAMILIES: dict[str, LatentSpec] = {
    "sd": SD_VAE,
    "sdxl": LatentSpec("sdxl", 4, scale=0.13025, shift=0.0, downscale=8),
    "sd3": LatentSpec("sd3", 16, scale=1.5305, shift=0.0609, downscale=8),
    "flux": LatentSpec("flux", 16, scale=0.3611, shift=0.1159, downscale=8),
    "qwen_image": _wan("qwen_image", _WAN21_MEAN, _WAN21_STD, 8),
    "wan21": _wan("wan21", _WAN21_MEAN, _WAN21_STD, 8),
    "wan22": _wan("wan22", _WAN22_MEAN, _WAN22_STD, 16),
}
"""What each family's own pipeline does to its latents. The weights do not say which it is.

wan21 is the VAE of Wan2.1 and of Wan2.2's 14B, wan22 that of Wan2.2's 5B.
"""

TIMED = ("qwen_image", "wan21", "wan22")
"""Families whose latents have a time axis, (c, f, h, w); a picture is one frame."""

MOVING = ("wan21", "wan22")
"""Those that make videos: 4 n + 1 frames become n + 1 of the latent."""

STRIDE = 4
"""Frames for each one of the latent, after the first."""


def alike(a: LatentSpec, b: LatentSpec) -> bool:
    """Whether two mean the same latents, up to the rounding of numbers read off a network."""

    def numbers(value: float | tuple[float, ...]) -> Tensor:
        values = value if isinstance(value, tuple) else (value,) * a.channels
        return torch.tensor(values, dtype=torch.float64)

    return a.channels == b.channels and all(
        torch.allclose(numbers(x), numbers(y), rtol=1e-4, atol=1e-5)
        for x, y in ((a.scale, b.scale), (a.shift, b.shift))
    )


def describe(latent: LatentSpec) -> str:
    """A latent's kind in words."""
    scale = "of each channel's own" if isinstance(latent.scale, tuple) else f"{latent.scale:g}"
    return f"{latent.kind} latents of {latent.channels} channels (scale {scale})"


# Names of the LDM layout, and of diffusers before attention was renamed -> names of today.
_RENAMED = (
    (r"^(first_stage_model|vae)\.", ""),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.down\.(\d+)\.block\.", r".down_blocks.\1.resnets."),
    (r"\.down\.(\d+)\.downsample\.", r".down_blocks.\1.downsamplers.0."),
    (r"\.up\.(\d+)\.block\.", r".up_blocks.\1.resnets."),
    (r"\.up\.(\d+)\.upsample\.", r".up_blocks.\1.upsamplers.0."),
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"(attentions\.0)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.0)\.(q|query)\.", r"\1.to_q."),
    (r"(attentions\.0)\.(k|key)\.", r"\1.to_k."),
    (r"(attentions\.0)\.(v|value)\.", r"\1.to_v."),
    (r"(attentions\.0)\.(proj_out|proj_attn)\.", r"\1.to_out.0."),
)


class Vae(NamedTuple):
    """A loaded autoencoder and what its latents are."""

    model: Any  # diffusers' AutoencoderKL, which is imported only where one is read
    latent: LatentSpec

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images (b, 3, h, w) in [0, 1] -> the posterior's mean and std, each (b, c, h/8, w/8)."""
        posterior = self.model.encode(images * 2 - 1).latent_dist
        return posterior.mean, posterior.std

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (b, c, h, w) -> images (b, 3, 8h, 8w) in [0, 1]."""
        return (self.model.decode(latents).sample / 2 + 0.5).clamp(0, 1)


def load(path: Path, family: str) -> Vae:
    """The AutoencoderKL in a file of the diffusers or the LDM layout (also inside a checkpoint).

    Raises InvalidInput, in one sentence, when diffusers is missing, the file is damaged or no VAE,
    its channels are not the family's, or the family is one that only ComfyUI reads.
    """
    if family in TIMED:
        raise InvalidInput(
            f"a VAE of family {family} is read through ComfyUI only, not here: {path}"
        )
    try:
        # Its place inside diffusers moves; the package exports it, but its types do not say so.
        from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage]
    except ImportError as e:
        raise InvalidInput(
            f"reading a VAE needs the package diffusers ({e}): pip install diffusers, or leave "
            f"out vae to cache plain pixels"
        ) from e
    state = _current_names(read_weights(path)[0])
    try:
        config = _config(state)
    except KeyError as e:
        raise InvalidInput(
            f"{path} holds no AutoencoderKL ({e} is missing): name the VAE's own file"
        ) from e
    model = AutoencoderKL(**config).eval().requires_grad_(False)
    wanted = model.state_dict()
    wrong = [k for k, v in wanted.items() if k not in state or state[k].shape != v.shape]
    if wrong:
        raise InvalidInput(
            f"{path} is not a whole AutoencoderKL: {wrong[0]} is missing or of another shape"
        )
    model.load_state_dict({k: state[k] for k in wanted})
    latent = FAMILIES[family]
    has = (config["latent_channels"], 2 ** (len(config["block_out_channels"]) - 1))
    if has != (latent.channels, latent.downscale):
        fitting = [
            name
            for name, f in FAMILIES.items()
            if name not in TIMED and has == (f.channels, f.downscale)
        ]
        raise InvalidInput(
            f"{path} makes latents of {has[0]} channels, {has[1]} times smaller than the picture; "
            f"family {family} has {latent.channels} and {latent.downscale}"
            + (f": use {' or '.join(fitting)}" if fitting else "")
        )
    return Vae(model, latent)


def _current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Any of the three namings -> today's. Keys that are not an autoencoder's are left out."""
    # A whole checkpoint holds other networks too: then only what has the VAE's prefix counts.
    inside = [k for k in state if re.match(_RENAMED[0][0], k)]
    depth = 1 + max(
        (int(m[1]) for k in state if (m := re.search(r"decoder\.up\.(\d+)\.", k))), default=0
    )
    renamed = {}
    for key in inside or state:
        name = key
        for pattern, new in _RENAMED:
            name = re.sub(pattern, new, name)
        if "decoder.up." in key:  # LDM counts these from the picture, diffusers from the latent
            name = re.sub(r"up_blocks\.(\d+)", lambda m: f"up_blocks.{depth - 1 - int(m[1])}", name)
        value = state[key]
        if "attentions.0.to_" in name and value.ndim == 4:  # a 1x1 convolution is a linear map
            value = value[:, :, 0, 0]
        renamed[name] = value
    return renamed


def _config(state: Mapping[str, Tensor]) -> dict:
    """AutoencoderKL's settings, from the shapes. Raises KeyError naming what is missing."""
    depth = _count(state, r"encoder\.down_blocks\.(\d+)\.")
    widths = [
        state[f"encoder.down_blocks.{i}.resnets.0.conv2.weight"].shape[0] for i in range(depth)
    ]
    conv_in, conv_out = state["encoder.conv_in.weight"], state["encoder.conv_out.weight"]
    return {
        "in_channels": conv_in.shape[1],
        "out_channels": state["decoder.conv_out.weight"].shape[0],
        "block_out_channels": widths,
        "down_block_types": ["DownEncoderBlock2D"] * depth,
        "up_block_types": ["UpDecoderBlock2D"] * depth,
        "layers_per_block": _count(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\."),
        "latent_channels": conv_out.shape[0] // 2,  # mean and log variance
        "use_quant_conv": "quant_conv.weight" in state,
        "use_post_quant_conv": "post_quant_conv.weight" in state,
        "mid_block_add_attention": "encoder.mid_block.attentions.0.to_q.weight" in state,
    }


def _count(names: Iterable[str], pattern: str) -> int:
    found = [int(m[1]) for name in names if (m := re.match(pattern, name))]
    if not found:
        raise KeyError(pattern.replace("\\", "").split("(")[0] + "0")
    return 1 + max(found)
