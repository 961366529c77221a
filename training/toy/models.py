"""Gaussian mixtures with their exact velocity, and stacks of small networks."""

import itertools
import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from sv_core.interpolant import LINEAR


@dataclass(frozen=True)
class Mixture:
    """Equal Gaussians N(means_k, std^2 I), on the linear path. means (k, d)."""

    means: Tensor
    std: float

    def sample(self, n: int, generator: Generator) -> Tensor:
        """(n, d)."""
        k = torch.randint(len(self.means), (n,), generator=generator)
        return self.means[k] + self.std * torch.randn(n, self.means.shape[1], generator=generator)

    def velocity(self, x_t: Tensor, t: Tensor) -> Tensor:
        """The exact marginal velocity E[v | x_t]: x_t (b, d), t > 0 (b,) -> (b, d)."""
        means = self.means.to(x_t)
        a, s, *_ = LINEAR.coefficients(t, x_t)
        variance = a**2 * self.std**2 + s**2
        offset = x_t[:, None] - a[..., None] * means  # (b, k, d)
        w = (offset.square().sum(-1) / (-2 * variance)).softmax(1)
        # Within one Gaussian the posterior mean is linear in x_t.
        x0_hat = means + (a * self.std**2 / variance)[..., None] * offset
        return LINEAR.v_from_x0(x_t, (w[..., None] * x0_hat).sum(1), t)


def _ring() -> Mixture:
    angle = torch.arange(8) * (math.pi / 4)
    return Mixture(math.sqrt(2 * 0.99) * torch.stack([angle.cos(), angle.sin()], 1), 0.1)


def _spiral() -> Mixture:
    angle = torch.linspace(0.1, 1, 40).sqrt() * 3.5 * math.pi  # evenly along the arc
    means = angle[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return Mixture((means - means.mean(0)) / means.std(0), 0.08)


MIXTURES = {"ring of 8": _ring(), "spiral of 40": _spiral()}
"""Each with about unit variance per coordinate, as latents have."""


Parameters = list[Tensor]
"""Weights and biases in turn, (..., in, out) and (..., 1, out); leading dimensions are networks."""


def initial(
    seeds: int, generator: Generator, times: int = 1, width: int = 64, depth: int = 3
) -> Parameters:
    """``seeds`` networks R^2 x [0, 1]^times -> R^2 in one stack, so that all train in one pass."""
    sizes = [2 + 8 + 5 * times, *[width] * depth, 2]
    parameters = []
    for n_in, n_out in itertools.pairwise(sizes):
        scale = math.sqrt((2 if n_out == width else 0.1) / n_in)
        parameters.append(scale * torch.randn(seeds, n_in, n_out, generator=generator))
        parameters.append(torch.zeros(seeds, 1, n_out))
    return [p.requires_grad_() for p in parameters]


def network(parameters: Parameters, x: Tensor, *times: Tensor) -> Tensor:
    """An MLP of x, the times and their sines: x (..., b, 2), each time (..., b) -> (..., b, 2)."""
    t = torch.stack(times, -1)
    waves = [
        f(k * a) for a in (1.5 * x, math.pi * t) for k in (1, 2) for f in (torch.cos, torch.sin)
    ]
    h = torch.cat([x, t, *waves], -1)
    for i in range(0, len(parameters), 2):
        h = h @ parameters[i] + parameters[i + 1]
        if i + 2 < len(parameters):
            h = F.silu(h)
    return h


def mean_and_error(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over the last dimension, and the standard error of that mean."""
    return values.mean(-1), values.std(-1) / math.sqrt(values.shape[-1])
