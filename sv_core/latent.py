"""The affine map between latents and the values that a network works with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InvalidInput

LARGEST = 1e9
"""Of a scale or a shift: beyond it float32 has no latents left."""


def is_count(value: object) -> bool:
    """Whether it is a whole number of at least 1; for what a file says of itself."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return type(value) is not bool and isinstance(value, int | float) and abs(value) <= LARGEST


@dataclass(frozen=True)
class LatentSpec:
    """model = (latent - shift) * scale. ``downscale``: image pixels per latent cell, each way.

    ``kind`` is ``pixels`` (an image in [0, 1]) or an alias of the family whose VAE makes them, as
    files name it. ``scale`` and ``shift`` are one number, or one for each channel.
    """

    kind: str
    channels: int
    scale: float | tuple[float, ...]
    shift: float | tuple[float, ...]
    downscale: int

    def __post_init__(self) -> None:
        """Turn the lists of JSON into tuples. Raises InvalidInput for what maps no latents."""
        counts = (self.channels, self.downscale)
        if not isinstance(self.kind, str) or not all(is_count(count) for count in counts):
            raise InvalidInput(
                "latents need the name of their kind, and whole numbers of channels and of pixels "
                f"per cell, got {self.kind!r:.40}, {self.channels!r:.40}, {self.downscale!r:.40}"
            )
        for name in ("scale", "shift"):
            value = getattr(self, name)
            several = isinstance(value, list | tuple)
            if several:
                object.__setattr__(self, name, tuple(value))
            if several and len(value) != self.channels:
                raise InvalidInput(
                    f"the latents have {self.channels} channels, but their {name} has "
                    f"{len(value)} numbers: give one number, or one for each channel"
                )
            if not all(_is_number(x) for x in (value if several else (value,))):
                raise InvalidInput(
                    f"the latents' {name} must be numbers up to 1e9, got {value!r:.60}"
                )
        if 0 in (self.scale if isinstance(self.scale, tuple) else (self.scale,)):
            raise InvalidInput("the latents' scale must not be 0: it could not be undone")

    def to_model(self, latent: Tensor) -> Tensor:
        """(latent - shift) * scale, of (b, c, ...)."""
        return (latent - _along(self.shift, latent)) * _along(self.scale, latent)

    def std_to_model(self, std: Tensor) -> Tensor:
        """std * scale, for standard deviations (b, c, ...), which a shift does not change."""
        return std * _along(self.scale, std)

    def from_model(self, x: Tensor) -> Tensor:
        """x / scale + shift, of (b, c, ...)."""
        return x / _along(self.scale, x) + _along(self.shift, x)


def _along(value: float | tuple[float, ...], like: Tensor) -> float | Tensor:
    """A single number unchanged; one for each channel as (c, 1, ...), to broadcast to ``like``."""
    if not isinstance(value, tuple):
        return value
    return torch.tensor(value, dtype=like.dtype, device=like.device).view(
        -1, *[1] * (like.ndim - 2)
    )


def pixels(channels: int) -> LatentSpec:
    """Images in [0, 1], without a VAE; the network works with [-1, 1]."""
    return LatentSpec("pixels", channels, scale=2.0, shift=0.5, downscale=1)


SD_VAE = LatentSpec("sd", 4, scale=0.18215, shift=0.0, downscale=8)
"""The Stable Diffusion VAE (sd-vae-ft-ema/mse), which the published SiT checkpoints use."""


def alike(a: LatentSpec, b: LatentSpec) -> bool:
    """Whether two are the same up to rounding, such as that of statistics measured on a network."""

    def numbers(value: float | tuple[float, ...]) -> Tensor:
        values = value if isinstance(value, tuple) else (value,) * a.channels
        return torch.tensor(values, dtype=torch.float64)

    return a.channels == b.channels and all(
        torch.allclose(numbers(x), numbers(y), rtol=1e-4, atol=1e-5)
        for x, y in ((a.scale, b.scale), (a.shift, b.shift))
    )


def describe(latent: LatentSpec) -> str:
    """The kind, channels and scale as text, for messages."""
    scale = "of each channel's own" if isinstance(latent.scale, tuple) else f"{latent.scale:g}"
    return f"{latent.kind} latents of {latent.channels} channels (scale {scale})"
