"""What ComfyUI does not say about its families: where their blocks and widths are, how small.

A family is found by the name of the host's class for the whole model. Everything else (timestep,
conditioning, latent format, time shift) is asked of the host, never written down here.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec

Tokens = Callable[[Any, int], Tensor]
"""A block's output and the number of image tokens -> those tokens (b, n, width)."""


@dataclass(frozen=True)
class Family:
    """One architecture. ``blocks``: its lists of blocks, in the order of running.

    ``preset`` is what the nodes and the files of interval embedders call it; ``context`` and
    ``pooled`` are the widths of the text that it takes (pooled 0: takes none); ``tiny`` is what to
    change in a file's configuration for a network of the same kind that computes in milliseconds;
    ``kind`` says what its latents are: ``pictures`` (b, c, h, w), pictures as videos of
    ``one frame`` (b, c, 1, h, w), or ``video``.
    """

    name: str
    title: str
    preset: str
    blocks: Mapping[str, Tokens]
    width: Callable[[Any], int]
    context: Callable[[Any], int]
    pooled: Callable[[Any], int]
    tiny: Callable[[Mapping[str, Any]], dict[str, Any]]
    kind: str = "pictures"

    @property
    def frames(self) -> bool:
        """Whether its latents have an axis of frames."""
        return self.kind != "pictures"


def _tiny_sd3(config: Mapping[str, Any]) -> dict[str, Any]:
    # Two blocks, as the last one differs; the width is 64 times the depth that is said.
    dual = config.get("x_block_self_attn_layers")
    return {
        "depth": 1,
        "num_blocks": 2,
        "adm_in_channels": 24,
        "num_patches": 16,
        "pos_embed_max_size": 4,
        "context_embedder_config": {
            "target": "torch.nn.Linear",
            "params": {"in_features": 32, "out_features": 64},
        },
        "x_block_self_attn_layers": [0] if dual else [],
    }


def _tiny_flux(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": 64,
        "num_heads": 1,
        "axes_dim": [8, 28, 28],
        "depth": 1,
        "depth_single_blocks": 1,
        "vec_in_dim": 24,
        "context_in_dim": 32,
    }


def _tiny_qwen(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "num_layers": 2,
        "num_attention_heads": 1,
        "attention_head_dim": 64,
        "axes_dims_rope": (8, 28, 28),
        "joint_attention_dim": 32,
    }


def _tiny_wan(config: Mapping[str, Any]) -> dict[str, Any]:
    return {"dim": 64, "num_heads": 1, "ffn_dim": 128, "num_layers": 1, "text_dim": 32}


def _second(out: Any, _: int) -> Tensor:
    return out[1]


SD3 = Family(
    "sd3",
    "SD3.5",
    "SD3.5",
    {"joint_blocks": _second},
    width=lambda m: m.hidden_size,
    context=lambda m: m.context_embedder.in_features,
    pooled=lambda m: m.y_embedder.mlp[0].in_features,
    tiny=_tiny_sd3,
)
FLUX = Family(
    "flux",
    "Flux",
    "Flux",
    # A single block runs over text and picture together, text first.
    {"double_blocks": lambda out, _: out[0], "single_blocks": lambda out, n: out[:, -n:]},
    width=lambda m: m.hidden_size,
    context=lambda m: m.params.context_in_dim,
    pooled=lambda m: m.params.vec_in_dim or 0,
    tiny=_tiny_flux,
)
QWEN = Family(
    "qwen_image",
    "Qwen-Image",
    "Qwen-Image",
    {"transformer_blocks": _second},
    width=lambda m: m.inner_dim,
    context=lambda m: m.txt_in.in_features,
    pooled=lambda m: 0,
    tiny=_tiny_qwen,
    kind="one frame",
)
WAN = Family(
    "wan",
    "Wan",
    "Wan2.2",
    {"blocks": lambda out, _: out},
    width=lambda m: m.dim,
    context=lambda m: m.text_dim,
    pooled=lambda m: 0,
    tiny=_tiny_wan,
    kind="video",
)
FAMILIES = {"SD3": SD3, "Flux": FLUX, "QwenImage": QWEN, "WAN21": WAN, "WAN22": WAN}
"""By the name of the host's class."""

BOUNDARY = 0.875
"""The noise level at which Wan2.2's text-to-video experts hand over."""


def span_of(path: Path, family: Family, expert: str | None) -> tuple[float, float]:
    """The noise levels that a file is for, by what the user says, else by its official name.

    Raises InvalidInput, in one sentence, for an expert of a family that has none.
    """
    if expert is not None and family is not WAN:
        raise InvalidInput(
            f"comfy.expert = {expert} is for Wan2.2's 14B files, and {path} is of {family.title}: "
            f"leave it out"
        )
    said = re.search(r"(high|low)[_-]?noise", path.name.lower()) if family is WAN else None
    expert = expert or (said and said[1])
    return {"high": (BOUNDARY, 1.0), "low": (0.0, BOUNDARY)}.get(expert or "", (0.0, 1.0))


_NARROW = {128: 16, 48: 16, 64: 32}
"""Image pixels per latent cell by channels, where an older ComfyUI does not say so; else 8."""


def latent_of(form: Any) -> LatentSpec:
    """(latent - shift) * scale per channel, as ``form`` (a latent format of ComfyUI's) does it.

    Raises InvalidInput, in one sentence, for one that does anything else.
    """
    channels = form.latent_channels
    trailing = [2] * form.latent_dimensions

    def apply(x: Tensor) -> Tensor:
        return form.process_in(x.clone())

    def filled(value: float) -> Tensor:
        return apply(torch.full((1, channels, *trailing), value, dtype=torch.float64))

    at_zero, slope = filled(0.0), filled(1.0) - filled(0.0)
    x = torch.randn((2, channels, *trailing), generator=torch.Generator().manual_seed(0)).double()
    if at_zero.shape[1] != channels or not torch.allclose(apply(x), slope * x + at_zero):
        raise InvalidInput(
            f"latents of the kind that ComfyUI calls {type(form).__name__} are not scaled channel "
            f"by channel: this network cannot be trained here"
        )
    scale = slope[0].flatten(1)[:, 0]
    shift = -at_zero[0].flatten(1)[:, 0] / scale
    return LatentSpec(
        type(form).__name__.lower(),
        channels,
        scale=_numbers(scale),
        shift=_numbers(shift),
        downscale=getattr(form, "spacial_downscale_ratio", _NARROW.get(channels, 8)),
    )


def _numbers(values: Tensor) -> float | tuple[float, ...]:
    """One number where all channels have the same; without float64's last digits."""
    numbers = tuple(float(f"{v:.9g}") + 0.0 for v in values.tolist())
    return numbers[0] if len(set(numbers)) == 1 else numbers
