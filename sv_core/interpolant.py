"""The path from data to noise, and every conversion between x0, eps, v and x_t.

The only file that defines alpha and sigma.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TimeFn = Callable[[Tensor], Tensor]


def match_dims(t: Tensor, x: Tensor) -> Tensor:
    """View per-sample times (b,) so that they broadcast against x (b, ...), or 0-d ones."""
    return t.reshape(-1, *[1] * (x.ndim - 1)) if t.ndim else t


@dataclass(frozen=True)
class Interpolant:
    """x_t = alpha(t) x0 + sigma(t) eps, t = 0 data, t = 1 noise. [arXiv 2602.05435, path]

    Five functions of time; ``time`` inverts ``sigma``. Every method takes t as (b,) or 0-d and
    tensors of any rank and returns tensors of the same shape and dtype.
    """

    alpha: TimeFn
    sigma: TimeFn
    d_alpha: TimeFn
    d_sigma: TimeFn
    time: TimeFn

    def coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(alpha, sigma, d_alpha, d_sigma) at t, shaped to multiply ``like``."""
        t = match_dims(t, like)
        return self.alpha(t), self.sigma(t), self.d_alpha(t), self.d_sigma(t)

    def x_t(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """alpha x0 + sigma eps."""
        a, s, *_ = self.coefficients(t, x0)
        return a * x0 + s * eps

    def velocity(self, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
        """dx_t/dt = alpha' x0 + sigma' eps. Linear: eps - x0."""
        _, _, da, ds = self.coefficients(t, x0)
        return da * x0 + ds * eps

    # From one velocity to data and noise: solve {x_t = a x0 + s eps, v = a' x0 + s' eps}. The
    # determinant a s' - s a' is 1 (linear) or pi/2 (cosine): never zero, so no epsilon.

    def x0_from_v(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """(s' x_t - s v) / (a s' - s a'). Linear: x_t - t v."""
        a, s, da, ds = self.coefficients(t, x_t)
        return (ds * x_t - s * v) / (a * ds - s * da)

    def eps_from_v(self, x_t: Tensor, v: Tensor, t: Tensor) -> Tensor:
        """(a v - a' x_t) / (a s' - s a'). Linear: x_t + (1 - t) v."""
        a, s, da, ds = self.coefficients(t, x_t)
        return (a * v - da * x_t) / (a * ds - s * da)

    def combine(self, x_t: Tensor, v: Tensor, t: Tensor, of_x0: Tensor, of_eps: Tensor) -> Tensor:
        """of_x0 x0^ + of_eps eps^ with the estimates above, computed from x_t and v directly.

        Allocates at most two tensors of their size. The factors are broadcastable. Linear, with
        1 - r and r: x_t + (r - t) v.
        """
        a, s, da, ds = self.coefficients(t, x_t)
        determinant = a * ds - s * da
        of_x = (of_x0 * ds - of_eps * da) / determinant
        of_v = (of_eps * a - of_x0 * s) / determinant
        return torch.addcmul(of_x * x_t, of_v, v)

    def v_from_x0(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """Velocity at x_t of the path that starts at x0. Needs t > 0. Linear: (x_t - x0) / t."""
        a, s, da, ds = self.coefficients(t, x_t)
        return da * x0 + ds * ((x_t - a * x0) / s)

    def log_snr(self, t: Tensor) -> Tensor:
        """log(alpha / sigma): +inf at t = 0, -inf at t = 1."""
        # In float32 cos(pi/2) is -4e-8, whose logarithm is nan.
        return torch.log(self.alpha(t).clamp_min(0)) - torch.log(self.sigma(t))


LINEAR = Interpolant(
    alpha=lambda t: 1 - t,
    sigma=lambda t: t,
    d_alpha=lambda t: -torch.ones_like(t),
    d_sigma=torch.ones_like,
    time=lambda sigma: sigma,
)
"""Rectified flow: ComfyUI's CONST; Flux, SD3.5, Qwen-Image, Wan."""

COSINE = Interpolant(
    alpha=lambda t: torch.cos(t * (math.pi / 2)),
    sigma=lambda t: torch.sin(t * (math.pi / 2)),
    d_alpha=lambda t: torch.sin(t * (math.pi / 2)) * (-math.pi / 2),
    d_sigma=lambda t: torch.cos(t * (math.pi / 2)) * (math.pi / 2),
    time=lambda sigma: torch.asin(sigma) * (2 / math.pi),
)
"""Variance-preserving trigonometric path."""

INTERPOLANTS = {"linear": LINEAR, "cosine": COSINE}
