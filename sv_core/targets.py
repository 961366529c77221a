"""Velocity targets for flow matching: the conditional velocity, and the stable one of StableVM."""

from typing import NamedTuple

from torch import Tensor

from .interpolant import Interpolant
from .posterior import posterior_mean


class Path(NamedTuple):
    """A noisy batch and what it was made from: x0, eps, x_t (b, ...), t (b,)."""

    x0: Tensor
    eps: Tensor
    x_t: Tensor
    t: Tensor


def conditional_velocity(interpolant: Interpolant, path: Path) -> Tensor:
    """The velocity of the sample's own path: alpha' x0 + sigma' eps. [Lipman et al. 2023: CFM]"""
    return interpolant.velocity(path.x0, path.eps, path.t)


def stable_velocity(interpolant: Interpolant, x_t: Tensor, refs: Tensor, t: Tensor) -> Tensor:
    """The mean velocity at x_t over the paths of all references. [arXiv 2602.05435, Eq. (7)]

    v = E[v | x_t, refs]: the velocity at x_t of the path from E[x0 | x_t] (v is affine in x0).
    x_t (b, ...), refs (m, ...), t > 0 (b,) or 0-d -> (b, ...), in the dtype of x_t.

    An unbiased target for the marginal velocity when x_t's own x0 is one of the references and
    all of them are independent draws of the same condition (Theorem 3.1); its variance is smaller
    than the conditional one's (Theorem 3.2), about 1/(m - 1) of it where the posterior is spread
    (Eq. (10)).
    """
    x0_hat, _ = posterior_mean(interpolant, x_t, refs, t)
    return interpolant.v_from_x0(x_t, x0_hat, t.to(x0_hat)).to(x_t.dtype)
