"""The autoencoder that turns pictures into latents, from one local file, without any hub."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec
from sv_core.models import families

from ..files import read_weights

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
    family = families.spelled(family)
    if families.has_frames(family):
        raise InvalidInput(
            f"a VAE of family {family} is read through ComfyUI only, not here: {path}"
        )
    try:
        # Its module inside diffusers changes; the package exports it, undeclared in its types.
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
    latent = families.latents(family)
    has = (config["latent_channels"], 2 ** (len(config["block_out_channels"]) - 1))
    if has != (latent.channels, latent.downscale):
        fitting = [
            f.name
            for f in families.having("latent")
            if not f.frames and f.latent and has == (f.latent.channels, f.latent.downscale)
        ]
        raise InvalidInput(
            f"{path} makes latents of {has[0]} channels, {has[1]} times smaller than the picture; "
            f"family {family} has {latent.channels} and {latent.downscale}"
            + (f": use {' or '.join(fitting)}" if fitting else "")
        )
    return Vae(model, latent)


def _current_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename tensors of any of the three layouts to today's; others than the VAE's are left out."""
    # A whole checkpoint holds other networks too: then only tensors with the VAE's prefix count.
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
