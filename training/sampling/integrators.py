"""The reference samplers of the SiT papers beside sv_core's: Heun's method and the reverse SDE."""

from itertools import pairwise

import torch
from torch import Generator, Tensor

from sv_core.interpolant import LINEAR, Interpolant
from sv_core.sampling import VelocityFn


def sample_heun(velocity: VelocityFn, x: Tensor, ts: Tensor) -> Tensor:
    """dx/dt = v by the mean of the velocities at both ends of a step: order 2, 2n - 1 calls.

    The last step, to t = 0, is Euler's: a network was never trained at t = 0.
    """
    ts = ts.to(x)
    for t, r in pairwise(ts):
        v = velocity(x, t)
        end = x + (r - t) * v
        x = end if r == 0 else x + (r - t) * (v + velocity(end, r)) / 2
    return x


def sample_sde(
    velocity: VelocityFn,
    x: Tensor,
    ts: Tensor,
    *,
    generator: Generator,
    interpolant: Interpolant = LINEAR,
    last: float = 0.04,
) -> Tensor:
    """The reverse SDE with diffusion w = 2 sigma by Euler-Maruyama. [SiT, arXiv 2401.08740, eq. 5]

    dx = (v - w s / 2) dt + sqrt(w) dW, and the score is s = -eps_hat / sigma, so the drift is
    v + eps_hat at any t. Nodes below ``last`` are left out, and from there one step without noise
    leads to t = 0 [as in REPA]. len(ts) - 1 calls at most; the noise is ``generator``'s.
    """
    ts = torch.cat([ts[ts > last], ts.new_tensor([last, 0.0])]).to(x)
    for t, r in pairwise(ts):
        v = velocity(x, t)
        drift = v + interpolant.eps_from_v(x, v, t)
        _, sigma, *_ = interpolant.coefficients(t, x)
        x = x + (r - t) * drift
        if r > 0:
            z = torch.randn(x.shape, generator=generator).to(x)
            x = x + (2 * sigma * (t - r)).sqrt() * z
    return x
