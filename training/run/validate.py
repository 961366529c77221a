"""The loss on held-out data at fixed times and fixed noise: comparable between steps and runs."""

import math

import torch
from torch import Generator, Tensor

from sv_core.interpolant import LINEAR
from sv_core.targets import Path, conditional_velocity

from ..data.dataset import Dataset
from ..networks.base import Backbone
from ..objectives.base import TIMES
from ..rng import generator
from ..sampling.pictures import sample_calls


@torch.no_grad()
def validate(
    backbone: Backbone, data: Dataset, part: slice = slice(None), chunk: int = 64
) -> tuple[Tensor, int]:
    """(sums of the squared error at each of TIMES (8,), how many pictures): E |v - (eps - x0)|^2.

    Each error is a mean over elements. Always the conditional target, whatever the run is trained
    on: the same yardstick for all. Its least value is not 0 but the variance of that target. A
    picture's noise is drawn from its own place among ``held_out``, so that a ``part`` of them adds
    up with the others, and at most ``chunk`` pictures are read at a time. Times outside the
    network's span have the loss NaN.
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


CHAIN = 8


def by_interval(losses: Tensor, r: Tensor, t: Tensor) -> dict[str, float | None]:
    """The mean loss at the boundary r = t and in the interior r < t; {} without an interior."""
    if not (r < t).any():
        return {}
    return {"boundary": _mean(losses[r == t]), "interior": _mean(losses[r < t])}


def one_call_gap(backbone: Backbone, data: Dataset, n: int = 64, chunk: int = 64) -> float:
    """E |x - y|^2 per element: x from one call, y from the same noise in 8 calls, in model space.

    0 for the exact average velocity. Fixed noise; the labels and shapes of the first ``n`` held-out
    samples, of which at most ``chunk`` are made at a time.
    """
    drawn, to_model, errors = generator(0, 0, "one call"), data.latent.to_model, []
    for items in data.by_shape(data.held_out[:n], chunk):
        latents, labels, _ = data.gather(items)
        noise = torch.randn(latents.shape, generator=drawn)
        one, chain = (sample_calls(backbone, labels, noise, calls) for calls in (1, CHAIN))
        errors += (to_model(one) - to_model(chain)).square().flatten(1).mean(1).tolist()
    return sum(errors) / len(errors)


def _mean(x: Tensor) -> float | None:
    return x.mean().item() if len(x) else None
