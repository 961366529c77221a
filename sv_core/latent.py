"""What a network's numbers mean outside it: the affine map between latents and model space."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class LatentSpec:
    """model = (latent - shift) * scale. ``downscale``: image pixels per latent cell, each way.

    ``kind`` says what the latents are: ``pixels`` (an image in [0, 1]) or the VAE's family.
    """

    kind: str
    channels: int
    scale: float
    shift: float
    downscale: int

    def to_model(self, latent: Tensor) -> Tensor:
        """(latent - shift) * scale."""
        return (latent - self.shift) * self.scale

    def from_model(self, x: Tensor) -> Tensor:
        """x / scale + shift."""
        return x / self.scale + self.shift


def pixels(channels: int) -> LatentSpec:
    """Images in [0, 1] as they are; the network sees [-1, 1]."""
    return LatentSpec("pixels", channels, scale=2.0, shift=0.5, downscale=1)


SD_VAE = LatentSpec("sd", 4, scale=0.18215, shift=0.0, downscale=8)
"""The Stable Diffusion VAE (sd-vae-ft-ema/mse), which the published SiT checkpoints use."""
