"""From noise to data: samplers are functions of a velocity, a start and a time grid.

Every sampler computes in float32 or better, on the device of x, for any tensor rank, and returns
the dtype of x. ``callback(i, x, v, t)`` sees each call of the velocity: the state x at time t
before step i, and the velocity there.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .interpolant import LINEAR, Interpolant

VelocityFn = Callable[[Tensor, Tensor], Tensor]
NoiseFn = Callable[[Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor, Tensor], None]
StepFn = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def euler_step(x: Tensor, v: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """x + (r - t) v."""
    return x + (r - t) * v


def stable_step(
    interpolant: Interpolant,
    x_t: Tensor,
    v: Tensor,
    t: Tensor,
    r: Tensor,
    noise: float = 0.0,
    noise_fn: NoiseFn = torch.randn_like,
) -> Tensor:
    """One low-variance step t -> r < t from one velocity. [arXiv 2602.05435, StableVS]

    x_r = alpha_r x0^ + sqrt(sigma_r^2 - beta^2) eps^ + beta z,  beta = noise * sigma_r,
    z = noise_fn(x_t) ~ N(0, I), 0 <= noise <= 1. At r = 0 it is x0^.

    On the linear path with noise = 0 this is an Euler step: what saves calls there is the grid.
    Times are 0-d or (b,); x_t and v share any shape.
    """
    x0_hat = interpolant.x0_from_v(x_t, v, t)
    eps_hat = interpolant.eps_from_v(x_t, v, t)
    a, s, *_ = interpolant.coefficients(r, x_t)
    if not noise:
        return a * x0_hat + s * eps_hat
    beta = noise * s
    return a * x0_hat + (s**2 - beta**2).sqrt() * eps_hat + beta * noise_fn(x_t)


def _sample(velocity: VelocityFn, x: Tensor, ts: Tensor, step: StepFn, callback: Callback | None):
    dtype = x.dtype
    x = x.to(torch.promote_types(dtype, torch.float32))
    ts = ts.to(x)
    for i in range(len(ts) - 1):
        v = velocity(x, ts[i])
        if callback is not None:
            callback(i, x, v, ts[i])
        x = step(x, v, ts[i], ts[i + 1])
    return x.to(dtype)


def sample_euler(
    velocity: VelocityFn, x: Tensor, ts: Tensor, *, callback: Callback | None = None
) -> Tensor:
    """Integrate dx/dt = v from ts[0] to ts[-1] with Euler steps: len(ts) - 1 calls."""
    return _sample(velocity, x, ts, euler_step, callback)


def sample_stable(
    velocity: VelocityFn,
    x: Tensor,
    ts: Tensor,
    *,
    interpolant: Interpolant = LINEAR,
    noise: float = 0.0,
    noise_fn: NoiseFn = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """``stable_step`` over a whole grid: len(ts) - 1 calls. [arXiv 2602.05435, StableVS]

    The paper uses it below the split, after any solver above it; with noise = 0 on the linear path
    it equals ``sample_euler``.
    """

    def step(x: Tensor, v: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return stable_step(interpolant, x, v, t, r, noise, noise_fn)

    return _sample(velocity, x, ts, step, callback)
