"""Pictures from a backbone, by the samplers of sv_core."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Generator, Tensor

from sv_core.guidance import guided
from sv_core.meanflow import sample_meanflow
from sv_core.sampling import Callback, VelocityFn, sample_stable
from sv_core.schedules import shift, uniform_grid

from ..files import write_atomically
from ..networks.base import Backbone, Conditional

GUIDANCE = 2.0
STEPS = 30
SHIFT = 3.0
"""The time shift of SD3.5 and Wan, and so of the paper's grids."""


def native_grid(steps: int = STEPS, factor: float = SHIFT) -> Tensor:
    """The grid that the paper thins: uniform, shifted by 3 or by a family's own factor."""
    return shift(uniform_grid(steps), factor)


def start_noise(shape: Sequence[int], n: int, seed: int = 0) -> Tensor:
    """The same (n, *shape) Gaussian numbers for a seed, on any device."""
    return torch.randn(n, *shape, generator=Generator().manual_seed(seed))


def guided_velocity(
    backbone: Conditional, labels: Tensor, null: int, scale: float = GUIDANCE
) -> VelocityFn:
    """A sampler's velocity(x, t) for labels (b,), with classifier-free guidance."""

    def under(cond: Tensor) -> VelocityFn:
        return lambda x, t: backbone.velocity(x, t.to(x).expand(len(x)), cond)

    return guided(under(labels), under(torch.full_like(labels, null)), scale)


@torch.no_grad()
def sample(
    backbone: Conditional,
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


@torch.no_grad()
def sample_calls(backbone: Backbone, labels: Tensor, noise: Tensor, calls: int = 1) -> Tensor:
    """``sample`` for a network of average velocities, in so many calls over equal intervals.

    Guidance is what training has built into the network.
    """
    device = next(backbone.model.parameters()).device
    labels = labels.to(device)

    def u(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
        return backbone.average_velocity(x, r.expand(len(x)), t.expand(len(x)), labels)

    x = sample_meanflow(u, noise.to(device), uniform_grid(calls))
    return backbone.latent.from_model(x).cpu()


def write_grid(path: Path, images: Tensor, columns: int, zoom: int = 6) -> None:
    """Pictures (n, 1 or 3, h, w) in [0, 1], row by row, as one PNG enlarged without blur."""
    framed = torch.nn.functional.pad(images.clamp(0, 1), (0, 1, 0, 1), value=0.25)
    sheet = rearrange(framed, "(r k) c h w -> (r h) (k w) c", k=columns)
    pixels = np.kron((sheet * 255).round().byte().numpy(), np.ones((zoom, zoom, 1), np.uint8))
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels)
    write_atomically(path, lambda file: picture.save(file, "PNG"))
