"""The loss on held-out data at fixed times and fixed noise: comparable between steps and runs."""

import math

import torch
from torch import Generator, Tensor

from sv_core.interpolant import LINEAR
from sv_core.targets import Path, conditional_velocity

from .backbones.base import Backbone
from .data import Dataset

BINS = 8
TIMES = (torch.arange(BINS) + 0.5) / BINS
"""The middles of eight equal parts of (0, 1)."""


def bin_of(t: Tensor) -> Tensor:
    """Which of the eight parts a time lies in: (b,) -> (b,)."""
    return (t * BINS).long().clamp_max(BINS - 1)


@torch.no_grad()
def validate(
    backbone: Backbone, data: Dataset, part: slice = slice(None), chunk: int = 64
) -> tuple[Tensor, int]:
    """(sums of the squared error at each of TIMES (8,), how many pictures): E |v - (eps - x0)|^2.

    Each error is a mean over elements. Always the conditional target, whatever the run is trained
    on: the same yardstick for all. Its least value is not 0 but the variance of that target. A
    picture's noise is drawn from its own place among ``held_out``, so that a ``part`` of them adds
    up with the others, and at most ``chunk`` pictures are read at a time. Times outside the
    network's span are not a number.
    """
    device = next(backbone.model.parameters()).device
    places = torch.arange(len(data.held_out))[part]
    low, high = backbone.span
    sums = torch.where((low <= TIMES) & (high >= TIMES), 0.0, math.nan).double()
    for items in data.by_shape(data.held_out[places], chunk):
        rows = torch.searchsorted(data.held_out, items)
        latents, labels, _ = data.gather(items)
        x0 = data.latent.to_model(latents)
        eps = torch.stack(
            [torch.randn(x0.shape[1:], generator=Generator().manual_seed(i)) for i in rows.tolist()]
        )
        for i, time in enumerate(TIMES):
            if not low <= time <= high:
                continue
            t = time.expand(len(x0))
            path = Path(x0, eps, LINEAR.x_t(x0, eps, t), t)
            v = backbone.velocity(path.x_t.to(device), t.to(device), labels.to(device)).cpu()
            error = (v - conditional_velocity(LINEAR, path)).square().flatten(1).mean(1)
            sums[i] += error.double().sum()
    return sums, len(places)


def validation_loss(backbone: Backbone, data: Dataset) -> Tensor:
    """The mean over all held-out pictures, at each of TIMES (8,)."""
    sums, count = validate(backbone, data)
    return sums / count
