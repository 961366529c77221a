"""Where the two regimes of a flow lie, by two curves over time.

They are the variance of the conditional velocity over a set of latents, and the drift of the
velocity along recorded runs, of which only inner products are needed.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor

from .interpolant import Interpolant
from .posterior import posterior_weights


def variance_curve(
    interpolant: Interpolant,
    latents: Tensor,
    ts: Tensor,
    generator: Generator,
    draws: int = 256,
) -> Tensor:
    """E_x Var[v | x_t] per dimension when data is this set of latents: V_CFM(t).

    v is affine in x0 at a given x_t, so its variance is that of x0 under the exact posterior over
    the set, times the square of v's slope in x0; linear path: Var[x0 | x_t] / t^2. ``draws`` fresh
    x_t for each time; latents (m, ...), ts (n,) in (0, 1] -> (n,) float64. [arXiv 2602.05435]
    """
    refs = latents.flatten(1).double()
    # Var = 1/2 sum_ij w_i w_j |b_i - b_j|^2 has no cancellation where w is one-hot.
    distances = torch.cdist(refs, refs).square().fill_diagonal_(0) / refs.shape[1]
    curve = []
    for t in ts.cpu().double():
        pick = torch.randint(len(refs), (draws,), generator=generator, device=generator.device)
        eps = torch.randn(
            draws, refs.shape[1], generator=generator, device=generator.device, dtype=refs.dtype
        ).to(refs)
        x_t = interpolant.x_t(refs[pick.to(refs.device)], eps, t.to(refs))
        w = posterior_weights(interpolant, x_t, refs, t.to(refs))
        # v is affine in x0: its slope is its value at x0 = 1 where x_t = 0.
        zero, one = torch.zeros_like(t), torch.ones_like(t)
        slope = interpolant.v_from_x0(zero, one, t)
        curve.append(slope.square() * ((w @ distances) * w).sum(1).mean().cpu() / 2)
    return torch.stack(curve)


def drift(gram: np.ndarray, ts: Sequence[float]) -> np.ndarray:
    """|dv/dt| / rms |v| between neighbouring nodes of a run: gram (n, n), ts (n+1,) -> (n-1,)."""
    size = np.diag(gram)
    change = size[1:] + size[:-1] - 2 * np.diag(gram, 1)
    return np.sqrt(np.maximum(change, 0) / size.mean()) / -np.diff(ts)[: len(size) - 1]


def suggest_split(ts: Sequence[float], curve: Sequence[float] | np.ndarray) -> float:
    """The time at which a variance or drift curve leaves its plateau towards noise.

    From the curve's minimum upwards in t, the first time at which it has climbed a fifth of the way
    to its maximum beyond the minimum, by linear interpolation. ts descending, same length as curve.
    """
    t, c = np.asarray(ts, dtype=np.float64)[::-1], np.asarray(curve, dtype=np.float64)[::-1]
    low = int(c.argmin())
    level = c[low] + 0.2 * (c[low:].max() - c[low])
    if c[low:].max() == c[low]:
        return float(t[low])
    i = low + int((c[low:] >= level).argmax())
    return float(t[i - 1] + (t[i] - t[i - 1]) * (level - c[i - 1]) / (c[i] - c[i - 1]))
