"""From a backbone to pictures, through the very samplers that ship."""

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Generator, Tensor

from sv_core.errors import InvalidInput
from sv_core.guidance import guided
from sv_core.meanflow import sample_meanflow
from sv_core.sampling import Callback, VelocityFn, sample_forecast, sample_stable
from sv_core.schedules import shift, uniform_grid

from .backbones.base import Backbone
from .checkpoint import write_atomically
from .codec import open_vae
from .data import Dataset
from .host_codec import HostVae
from .shards import fingerprint
from .vae import Vae

CPU = torch.device("cpu")
GUIDANCE = 2.0
STEPS = 30
CALLS = 14
SHEETS = ((16, (10, 10, 100)), (32, (10, 4, 8)), (math.inf, (4, 1, 1)))
"""Latent cells on the longer side, at most -> conditions shown, pictures of each, at a time."""
SHIFT = 3.0
"""The time shift of SD3.5 and Wan, and so of the paper's grids."""


def native_grid(steps: int = STEPS, factor: float = SHIFT) -> Tensor:
    """The grid that the paper thins: uniform, shifted by 3 or by a family's own factor."""
    return shift(uniform_grid(steps), factor)


def start_noise(shape: Sequence[int], n: int, seed: int = 0) -> Tensor:
    """The same (n, *shape) Gaussian numbers for a seed, on any device."""
    return torch.randn(n, *shape, generator=Generator().manual_seed(seed))


def guided_velocity(
    backbone: Backbone, labels: Tensor, null: int, scale: float = GUIDANCE
) -> VelocityFn:
    """A sampler's velocity(x, t) for labels (b,), with classifier-free guidance."""

    def under(cond: Tensor) -> VelocityFn:
        return lambda x, t: backbone.velocity(x, t.to(x).expand(len(x)), cond)

    return guided(under(labels), under(torch.full_like(labels, null)), scale)


@torch.no_grad()
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


@torch.no_grad()
def sample_calls(backbone: Backbone, labels: Tensor, noise: Tensor, calls: int = 1) -> Tensor:
    """``sample`` for a network of average velocities, in so many calls over equal intervals.

    What guidance there is was built in by training.
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


class Preview:
    """Pictures of a run as it goes: a row per class (the first ten), the same noise every time.

    With ``calls`` they are made of average velocities: all rows in so many calls, then again in the
    next number of them.
    """

    def __init__(
        self,
        data: Dataset,
        vae: Path | None = None,
        calls: tuple[int, ...] = (),
        comfy: str | None = None,
        device: torch.device = CPU,
    ):
        """Without a VAE latents are shown in false colours: their first three channels.

        One that only ComfyUI knows is opened through that of the folder ``comfy``, on ``device``,
        where the network is, too. Raises InvalidInput, in one sentence, for a VAE that is not the
        data's.
        """
        self.data, self.calls = data, calls
        self.vae: Vae | HostVae | None = None
        if vae is not None and data.latent.kind != "pixels":
            if fingerprint(vae) != data.identity.get("vae"):
                raise InvalidInput(
                    f"run.vae = {vae} is not the VAE that the cache was made with: name that one"
                )
            self.vae = open_vae(vae, data.latent, comfy, device)

    def write(self, backbone: Backbone, path: Path | None) -> None:
        """Sample, and write the PNG unless ``path`` is None.

        Half of a pair of experts makes no pictures alone, and none are written.
        """
        if backbone.span != (0.0, 1.0):
            return
        shape = self.data.shapes[0]
        # Of large pictures fewer, and fewer at a time: activations fill the memory.
        rows, columns, chunk = next(sizes for most, sizes in SHEETS if max(shape[-2:]) <= most)
        classes = torch.arange(min(self.data.num_classes, rows))
        labels = classes.repeat_interleave(columns)
        noise = start_noise(shape, len(labels))
        latents = [
            make(y, z)
            for make in self._ways(backbone)
            for y, z in zip(labels.split(chunk), noise.split(chunk), strict=True)
        ]
        if path is not None:
            images = self._pictures(torch.cat(latents))
            write_grid(path, images, columns, max(1, 48 // images.shape[-1]))

    def _ways(self, backbone: Backbone) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """Latents from labels and noise, one way for each block of rows."""
        if self.calls:
            return [partial(sample_calls, backbone, calls=n) for n in self.calls]
        null, ts = self.data.num_classes, native_grid(factor=max(SHIFT, backbone.shift))
        forecast = partial(sample_forecast, calls=CALLS)
        return [lambda labels, noise: sample(backbone, labels, null, noise, ts, sampler=forecast)]

    @torch.no_grad()
    def _pictures(self, latents: Tensor) -> Tensor:
        if self.data.latent.kind == "pixels":
            return latents
        if self.vae is None:
            shown = (self.data.latent.to_model(latents)[:, :3] / 4 + 0.5).clamp(0, 1)
        else:
            shown = torch.cat([self.vae.decode(one) for one in latents.split(1)])
            if isinstance(self.vae, HostVae):
                self.vae.rest()
        return shown if shown.ndim == 4 else shown[:, :, shown.shape[2] // 2]  # a video's middle
