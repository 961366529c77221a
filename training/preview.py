"""From a backbone to pictures, through the very samplers that ship."""

from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Generator, Tensor

from sv_core.guidance import guided
from sv_core.sampling import VelocityFn, sample_stable
from sv_core.schedules import shift, uniform_grid

from .backbones.base import Backbone
from .checkpoint import write_atomically

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
) -> Tensor:
    """Latents (b, c, h, w) as the data has them, from noise on the grid ts. [StableVS, noise 0]"""
    device = next(backbone.model.parameters()).device
    velocity = guided_velocity(backbone, labels.to(device), null, scale)
    return backbone.latent.from_model(sample_stable(velocity, noise.to(device), ts)).cpu()


def write_grid(path: Path, images: Tensor, columns: int, zoom: int = 6) -> None:
    """Pictures (n, 1 or 3, h, w) in [0, 1], row by row, as one PNG enlarged without blur."""
    framed = torch.nn.functional.pad(images.clamp(0, 1), (0, 1, 0, 1), value=0.25)
    sheet = rearrange(framed, "(r k) c h w -> (r h) (k w) c", k=columns)
    pixels = np.kron((sheet * 255).round().byte().numpy(), np.ones((zoom, zoom, 1), np.uint8))
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    write_atomically(path, lambda file: picture.save(file, "PNG"))


def preview(backbone: Backbone, num_classes: int, size: int, path: Path, columns: int = 10) -> None:
    """One row per class (the first ten), the same noise every time, so that progress is visible."""
    classes = torch.arange(min(num_classes, 10))
    labels = classes.repeat_interleave(columns)
    noise = start_noise(backbone, size, len(labels))
    write_grid(path, sample(backbone, labels, num_classes, noise, native_grid()), columns)
