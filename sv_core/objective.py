"""The loss of a velocity network: a target, a distribution of times and a weighting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from .interpolant import LINEAR, Interpolant
from .targets import Path, conditional_velocity, stable_velocity
from .timesteps import TimestepFn, uniform
from .weighting import constant

References = Sequence[tuple[Tensor, Tensor]]
"""Pairs (rows, refs): the batch rows (k,) that share the references refs (m, ...)."""

BatchVelocityFn = Callable[[Tensor, Tensor], Tensor]
"""velocity(x_t, t) with t (b,), as in training."""


class Losses(NamedTuple):
    """Per sample (b,): the weighted loss to minimise, the plain squared error, and its time."""

    loss: Tensor
    error: Tensor
    t: Tensor


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """sum w x / sum w over the batch; 0 when the sum of the weights is below 1e-8."""
    total = weights.sum()
    return torch.where(total < 1e-8, 0.0, (weights * values).sum() / total.clamp_min(1e-8))


def mean_square(x: Tensor, mask: Tensor | None = None) -> Tensor:
    """|x|^2 of each sample as a mean over its elements, weighted by ``mask``: (b, ...) -> (b,).

    The mask is (b, 1, ...) in [0, 1]. The mean is over the masked part, however small it is; with
    an empty mask it is 0.
    """
    if mask is None:
        return x.square().flatten(1).mean(1)
    weight = mask.expand_as(x).flatten(1)
    return (weight * x.square().flatten(1)).sum(1) / weight.sum(1).clamp_min(1e-8)


@dataclass(frozen=True)
class Objective:
    """E_t w(t) |v(x_t, t) - target|^2, the square a mean over elements.

    Without references the target is the conditional velocity (flow matching); with them it is
    the stable velocity for t >= ``threshold`` and the conditional one below, where a single
    reference has all of the posterior's weight. [arXiv 2602.05435, StableVM: threshold 0.5]
    """

    interpolant: Interpolant = LINEAR
    timesteps: TimestepFn = uniform
    weight: Callable[[Tensor], Tensor] = constant
    threshold: float = 0.5

    def path(
        self, x0: Tensor, generator: Generator, rows: slice = slice(None), n: int | None = None
    ) -> Path:
        """Draw t, then eps, and form x_t. x0 is in float32, since t takes its dtype.

        When x0 are the ``rows`` of a batch of ``n``, the draws are those of the whole batch, so
        that several processes together make the draws of one.
        """
        n = len(x0) if n is None else n
        t = self.timesteps(n, generator)[rows].to(x0)
        eps = torch.randn((n, *x0.shape[1:]), generator=generator, device=generator.device)
        eps = eps[rows].to(x0)
        return Path(x0, eps, self.interpolant.x_t(x0, eps, t), t)

    def target(self, path: Path, refs: References = ()) -> Tensor:
        """The stable velocity; the conditional one below the threshold or without references."""
        target = conditional_velocity(self.interpolant, path)
        for rows, r in refs:
            rows = rows.to(path.t.device)
            rows = rows[path.t[rows] >= self.threshold]
            if len(rows):
                target[rows] = stable_velocity(self.interpolant, path.x_t[rows], r, path.t[rows])
        return target

    def losses(
        self, velocity: BatchVelocityFn, path: Path, target: Tensor, mask: Tensor | None = None
    ) -> Losses:
        """The squared error of the velocity at a path's points, within the ``mask``."""
        error = mean_square(velocity(path.x_t, path.t) - target, mask)
        return Losses(self.weight(path.t) * error, error.detach(), path.t)

    def __call__(
        self,
        velocity: BatchVelocityFn,
        x0: Tensor,
        generator: Generator,
        refs: References = (),
    ) -> Losses:
        """One draw of the loss for x0 (b, ...). Each sample should be among its references."""
        path = self.path(x0, generator)
        return self.losses(velocity, path, self.target(path, refs))
