"""The high-noise regime at a smaller size: the same sampler, grid and noise, a cheaper denoiser.

While noise hides the fine structure, the network runs on the low frequencies alone. The idea is
Spectral Progressive Diffusion's (arXiv 2605.18736), which starts a second run at each size; here
one full-size state stays, and only the denoiser's answer is made at another size, so that solver,
grid and noise need not know.

A state (1-t) x0 + t e of H x W has low coefficients (1-t) c + t e. A picture smaller by r in each
direction keeps its amplitude, so that its orthonormal coefficients are c / r, and white noise stays
white: the state of the small flow is (1-s) c / r + s e. The two are proportional, low = kappa
small, for kappa (1-s) / r = 1-t and kappa s = t, hence

    t = shift(s, r),  s = shift(t, 1/r),  kappa = t / s = r - (r-1) t,

where shift is the resolution shift of SD3 (``schedules.shift``). Euler is invariant under kappa, so
that Euler over s_i = shift(t_i, 1/r) is the low block of Euler over t_i, node by node, wherever the
best velocity of the low frequencies does not depend on the high ones.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InvalidInput
from .schedules import shift
from .spectrum import PowerLaw, Size, cosine, fractions, inverse_cosine

Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x, t) -> the prediction of clean data, at any size; t is a scalar tensor."""


def ratio_of(full: Size, coarse: Size) -> float:
    """r = sqrt(H W / (h w)), also where rounding made the two directions unequal."""
    return math.sqrt(full[0] * full[1] / (coarse[0] * coarse[1]))


def coarse_time(t: Tensor, ratio: float) -> Tensor:
    """s = shift(t, 1/r): the noise level of the small flow."""
    return shift(t, 1 / ratio)


def gain(t: Tensor, ratio: float) -> Tensor:
    """kappa = r - (r-1) t: the low block of the full state over the small flow's state."""
    return ratio - (ratio - 1) * t


def transition_time(power: float, tolerance: float) -> float:
    """The noise level above which frequencies of a power may be taken for pure noise.

    The best velocity E[e - x0 | x] of a frequency of power P is apart from e itself by
    (1-t)^2 P (1+P) / ((1-t)^2 P + t^2) in mean square, which is at most the tolerance d for
    t >= 1 / (1 + sqrt(d / (P (1+P-d)))). [arXiv 2605.18736] The power is that of the lowest
    frequency that is missing. 0 where P (1+P) is below the tolerance.
    """
    if not (0 < tolerance < 1 and power > 0):
        raise InvalidInput(
            f"the tolerance must be above 0 and below 1, and the power above 0, not {tolerance:g} "
            f"and {power:g}"
        )
    if power * (1 + power) <= tolerance:
        return 0.0
    return 1 / (1 + math.sqrt(tolerance / (power * (1 + power - tolerance))))


def prior_weight(t: Tensor, power: Tensor) -> Tensor:
    """w = (1-t) S / ((1-t)^2 S + t^2): E[x0 | x] = w x for Gaussian x0 of power S."""
    return (1 - t) * power / ((1 - t) ** 2 * power + t**2)


def missing_power(law: PowerLaw, full: Size, coarse: Size, share: float = 0.5) -> Tensor:
    """``share`` of the law's power for the coefficients that the small picture lacks: (H, W).

    0 in its own block. Half the power is the safe share: where the law overrates a picture twofold
    the error is no larger than without any.
    """
    q = fractions(full)
    q[0, 0] = 1.0  # the mean, which every size has
    power = share * law.power(q)
    power[: coarse[0], : coarse[1]] = 0
    return power


def coarse_denoised(
    denoise: Denoise, x: Tensor, t: Tensor, size: Size, power: Tensor | None = None
) -> Tensor:
    """The denoiser at a smaller size: D(X, t) = lift(r D(low(X) / kappa, s)) + w(t) X_high.

    x is (..., H, W), ``denoise`` is called once with (..., h, w) at the level s, and the result has
    the shape and dtype of x. The coefficients that the small picture lacks are moved by the prior
    of ``missing_power``; without one they stay noise, x0 = 0.
    """
    (H, W), (h, w) = x.shape[-2:], size
    r = ratio_of((H, W), size)
    coefficients = cosine(x)
    level = t.to(coefficients)
    small = inverse_cosine(coefficients[..., :h, :w]) / gain(level, r)
    found = cosine(denoise(small.to(x), coarse_time(t, r)))
    if power is None:
        answer = torch.zeros_like(coefficients)
    else:
        answer = coefficients * prior_weight(level, power.to(coefficients))
    answer[..., :h, :w] = r * found
    return inverse_cosine(answer).to(x)


@dataclass(frozen=True)
class Stage:
    """A smaller size, by ``ratio`` in each direction, down to the noise level ``until``."""

    ratio: float
    until: float


@dataclass(frozen=True)
class Plan:
    """Which size belongs to which noise level.

    ``stages`` from coarse to fine. Above ``begin`` the layout is decided at full size; at ``last``
    and below the run ends at full size.
    """

    stages: tuple[Stage, ...]
    begin: float = 1.0
    last: float = 0.0

    def __post_init__(self) -> None:
        """Raises InvalidInput for stages that are none or out of order."""
        ordered = [s.until for s in self.stages] == sorted(
            (s.until for s in self.stages), reverse=True
        )
        if not ordered or any(s.ratio <= 1 or not 0 <= s.until <= 1 for s in self.stages):
            raise InvalidInput(
                "the sizes must become larger and end at descending noise levels from 1 to 0"
            )

    def ratio_at(self, t: float) -> float:
        """How much smaller the network's picture is at a noise level: 1 for full size."""
        if t > self.begin + _NEAR or t <= self.last + _NEAR:
            return 1.0
        return next((stage.ratio for stage in self.stages if t >= stage.until - _NEAR), 1.0)


_NEAR = 1e-6
"""Levels come in float32: one that is written as a bound lies within it."""


def last_level(levels: Sequence[float], full_calls: int) -> float:
    """The level from which on ``full_calls`` of a grid's steps are at full size, of the run to 0.

    One of four steps or fewer. A part of a run that ends above 0, as of the first of two experts,
    has no such end: 0.
    """
    if levels[-1] > 0 or full_calls < 1:
        return 0.0
    steps = len(levels) - 1
    return levels[-1 - min(full_calls, 1 if steps <= 4 else steps, steps)]


def coarse_size(full: Size, ratio: float, patch: int = 2) -> Size:
    """The size nearest to full / ratio in whole patches."""
    h, w = (min(n, max(patch, round(n / (ratio * patch)) * patch)) for n in full)
    return h, w


def full_size_calls(sizes: Sequence[Size], full: Size, attention: bool = False) -> float:
    """What calls at these sizes cost, in calls at full size: 1 / r^2 each, with attention 1 / r^4.

    A network lies between the two: nearer to the first with few tokens.
    """
    power = 2 if attention else 1
    return sum((h * w / (full[0] * full[1])) ** power for h, w in sizes)
