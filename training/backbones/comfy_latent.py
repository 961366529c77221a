"""What the latents of a ComfyUI family are, read off ComfyUI by trying it."""

from typing import Any

import torch
from torch import Tensor

from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec

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
