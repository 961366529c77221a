"""From a backbone to pictures, through the very samplers that ship."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Generator, Tensor

from sv_core.guidance import guided
from sv_core.sampling import Callback, VelocityFn, sample_stable
from sv_core.schedules import shift, uniform_grid

from .backbones.base import Backbone
from .checkpoint import write_atomically
from .data import Dataset
from .shards import fingerprint
from .vae import load as load_vae

GUIDANCE = 2.0
STEPS = 30
SHIFT = 3.0
"""The time shift of SD3.5 and Wan, and so of the paper's grids."""


def native_grid(steps: int = STEPS) -> Tensor:
    """The grid that the paper thins: uniform, shifted by 3."""
    return shift(uniform_grid(steps), SHIFT)


def start_noise(backbone: Backbone, size: int, n: int, seed: int = 0) -> Tensor:
    """The same (n, c, size, size) Gaussian numbers for a seed, on any device."""
    generator = Generator().manual_seed(seed)
    return torch.randn(n, backbone.latent.channels, size, size, generator=generator)


def guided_velocity(
    backbone: Backbone, labels: Tensor, null: int, scale: float = GUIDANCE
) -> VelocityFn:
    """A sampler's velocity(x, t) for labels (b,), with classifier-free guidance."""

    def under(cond: Tensor) -> VelocityFn:
        return lambda x, t: backbone.velocity(x, t.to(x).expand(len(x)), cond)

    return guided(under(labels), under(torch.full_like(labels, null)), scale)


@torch.inference_mode()
def sample(
    backbone: Backbone,
    labels: Tensor,
    null: int,
    noise: Tensor,
    ts: Tensor,
    scale: float = GUIDANCE,
    sampler: Callable[..., Tensor] = sample_stable,
    callback: Callback | None = None,
) -> Tensor:
    """Latents (b, c, h, w) as the data has them, from noise on the grid ts.

    ``sampler`` is any of ``sv_core.sampling``; ``callback`` sees its calls of the network.
    """
    device = next(backbone.model.parameters()).device
    velocity = guided_velocity(backbone, labels.to(device), null, scale)
    x = sampler(velocity, noise.to(device), ts, callback=callback)
    return backbone.latent.from_model(x).cpu()


def write_grid(path: Path, images: Tensor, columns: int, zoom: int = 6) -> None:
    """Pictures (n, 1 or 3, h, w) in [0, 1], row by row, as one PNG enlarged without blur."""
    framed = torch.nn.functional.pad(images.clamp(0, 1), (0, 1, 0, 1), value=0.25)
    sheet = rearrange(framed, "(r k) c h w -> (r h) (k w) c", k=columns)
    pixels = np.kron((sheet * 255).round().byte().numpy(), np.ones((zoom, zoom, 1), np.uint8))
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    write_atomically(path, lambda file: picture.save(file, "PNG"))


class Preview:
    """Pictures of a run as it goes: a row per class (the first ten), the same noise every time."""

    def __init__(self, data: Dataset, vae: Path | None = None):
        """Without a VAE latents are shown in false colours: their first three channels.

        Raises ValueError, in one sentence, for a VAE that is not the data's.
        """
        self.data, self.vae = data, None
        if vae is not None and data.latent.kind != "pixels":
            if fingerprint(vae) != data.identity.get("vae"):
                raise ValueError(
                    f"run.vae = {vae} is not the VAE that the cache was made with: name that one"
                )
            self.vae = load_vae(vae, data.latent.kind)

    def write(self, backbone: Backbone, path: Path | None) -> None:
        """Sample, and write the PNG unless ``path`` is None."""
        side = max(self.data.shape[1:])
        columns = 10 if side <= 16 else 4
        classes = torch.arange(min(self.data.num_classes, 10))
        labels = classes.repeat_interleave(columns)
        noise = start_noise(backbone, side, len(labels))
        chunk = 100 if side <= 16 else 2 * columns  # activations, not pictures, fill the memory
        images = [
            self._picture(sample(backbone, y, self.data.num_classes, z, native_grid()))
            for y, z in zip(labels.split(chunk), noise.split(chunk), strict=True)
        ]
        if path is not None:
            zoom = max(1, 48 // images[0].shape[-1])
            write_grid(path, torch.cat(images), columns, zoom)

    @torch.inference_mode()
    def _picture(self, latents: Tensor) -> Tensor:
        if self.data.latent.kind == "pixels":
            return latents
        if self.vae is not None:
            return torch.cat([self.vae.decode(one) for one in latents.split(1)])
        return (self.data.latent.to_model(latents)[:, :3] / 4 + 0.5).clamp(0, 1)
