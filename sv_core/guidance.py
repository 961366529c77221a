"""Velocity functions made of velocity functions."""

from torch import Tensor

from .sampling import VelocityFn


def guided(
    cond: VelocityFn,
    uncond: VelocityFn,
    scale: float,
    interval: tuple[float, float] = (0.0, 1.0),
) -> VelocityFn:
    """Classifier-free guidance: v = v_u + scale (v_c - v_u). [Ho & Salimans 2022]

    Outside ``interval`` (inclusive, in t) and at scale 1 it is ``cond`` alone, at half the cost.
    [guidance interval: Kynkaanniemi et al. 2024]
    """
    low, high = interval

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        v = cond(x, t)
        if scale == 1 or not (low <= t and t <= high):
            return v
        v_u = uncond(x, t)
        return v_u + scale * (v - v_u)

    return velocity
