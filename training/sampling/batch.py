"""Many samples of one checkpoint, made in batches, with any sampler."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Generator, Tensor

from sv_core.guidance import guided
from sv_core.meanflow import sample_meanflow
from sv_core.sampling import VelocityFn, sample_euler, sample_ode, sample_stable
from sv_core.schedules import regime_split, shift, uniform_grid

from ..networks.sit import SiTBackbone
from ..rng import generator
from .integrators import sample_heun, sample_sde
from .parts import read_part
from .pictures import write_grid

GRID = "grid.png"
SHOWN = 64
"""How many pictures the grid shows: the first ones."""

SamplerFn = Callable[[VelocityFn, Tensor, Tensor, Generator], Tensor]
MEANFLOW = "meanflow"
"""One average velocity per step. Not among SAMPLERS: these are functions of a velocity."""
SAMPLERS: dict[str, SamplerFn] = {
    "euler": lambda v, x, ts, g: sample_euler(v, x, ts),
    "heun": lambda v, x, ts, g: sample_heun(v, x, ts),
    "ode": lambda v, x, ts, g: sample_ode(v, x, ts),
    "stable": lambda v, x, ts, g: sample_stable(v, x, ts),
    "sde": lambda v, x, ts, g: sample_sde(v, x, ts, generator=g),
}
"""``stable`` runs on the paper's thinned grid, the others on all ``steps``."""


@dataclass(frozen=True)
class Order:
    """Everything that the pictures depend on, beside the checkpoint."""

    n: int
    classes: list[int]
    sampler: str
    steps: int
    shift: float
    split: float
    low_steps: int
    guidance: float
    interval: tuple[float, float]
    seed: int
    batch: int

    def grid(self) -> Tensor:
        """The times of the network's calls, and 0."""
        ts = shift(uniform_grid(self.steps), self.shift)
        return regime_split(ts, self.split, self.low_steps) if self.sampler == "stable" else ts


class Studio:
    """The network, and the VAE where there is one, on their device."""

    def __init__(self, backbone: SiTBackbone, decode: Callable[[Tensor], Tensor], bf16: bool):
        self.backbone, self.decode, self.bf16 = backbone, decode, bf16
        self.device = next(backbone.model.parameters()).device

    @torch.inference_mode()
    def make(self, order: Order, number: int) -> Tensor:
        """Make batch ``number`` of an order: (b, h, w, 3) bytes."""
        rows = range(number * order.batch, min((number + 1) * order.batch, order.n))
        labels = torch.tensor([order.classes[i % len(order.classes)] for i in rows])
        labels = labels.to(self.device)
        sit = self.backbone.config
        drawn = generator(order.seed, number, "sample")
        shape = (len(rows), sit.in_channels, sit.input_size, sit.input_size)
        noise = torch.randn(shape, generator=drawn).to(self.device)

        def under(cond: Tensor, r: Tensor | None) -> VelocityFn:
            return lambda x, t: self._velocity(x, t, cond, r)

        def velocity(r: Tensor | None = None) -> VelocityFn:
            """With guidance; the average velocity over [r, t] when r is given."""
            null = torch.full_like(labels, sit.num_classes)
            return guided(under(labels, r), under(null, r), order.guidance, order.interval)

        if order.sampler == MEANFLOW:
            average = lambda x, r, t: velocity(r)(x, t)  # noqa: E731
            latents = sample_meanflow(average, noise, order.grid())
        else:
            latents = SAMPLERS[order.sampler](velocity(), noise, order.grid(), drawn)
        images = self.decode(self.backbone.latent.from_model(latents)).clamp(0, 1)
        if not torch.isfinite(images).all():
            raise FloatingPointError(
                f"the pictures of batch {number} are not finite: use --precision fp32, or another "
                f"checkpoint"
            )
        images = images.expand(-1, 3, -1, -1)
        return rearrange((images * 255).round().byte(), "b c h w -> b h w c").cpu()

    def _velocity(self, x: Tensor, t: Tensor, cond: Tensor, r: Tensor | None) -> Tensor:
        t = t.to(x).expand(len(x))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
            if r is None:
                return self.backbone.velocity(x, t, cond).to(x.dtype)
            r = r.to(x).expand(len(x))
            return self.backbone.average_velocity(x, r, t, cond).to(x.dtype)


def draw_grid(out: Path, order: Order) -> None:
    """The first pictures, as a PNG."""
    images: list[np.ndarray] = []
    number = 0
    while sum(map(len, images)) < min(SHOWN, order.n):
        images.append(read_part(out, number))
        number += 1
    shown = torch.from_numpy(np.concatenate(images)[:SHOWN]).permute(0, 3, 1, 2) / 255
    columns = min(8, len(shown))
    shown = shown[: len(shown) // columns * columns]
    write_grid(out / GRID, shown, columns, zoom=max(1, 64 // shown.shape[-1]))
