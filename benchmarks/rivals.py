"""Other ways to leave out calls of a flow model, written from their papers' formulas.

All of them step on the base solver's own grid and answer for the network where it is not called. A
rival is a forecast (what stands for the velocity), a choice of nodes (where the network is called),
or both. Theirs forecast features inside the network, before its last layers; here the forecast is
of the velocity, which any model has.

hold        the last velocity: what a cache of outputs does (TeaCache, arXiv 2411.19108)
linear      TaylorSeer, order 1 (arXiv 2503.06923): the line through the last two; order 2 beside it
VDE         (arXiv 2605.23381) v = alpha x + beta |x| u, u orthogonal to x: alpha and beta on their
            lines, u held, at the x of the step
Spectrum    (arXiv 2603.01623) ridge regression on Chebyshev polynomials of time over all calls so
            far, alone or half and half with the line, as its authors advise
SeaCache    (arXiv 2602.18993) calls when the filtered input has changed by so much since the last
            call: each input is seen through the Wiener filter of its own noise level
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from sv_core.sampling import VelocityFn
from sv_core.solvers import combine, lagrange_weights

Nodes = tuple[int, ...]
Run = TypeVar("Run")
Weights = Callable[[Sequence[float], float], list[float]]
"""Of the velocities known at these times, newest first, for the one at another time."""
Known = list[tuple[float, Tensor, Tensor]]
"""Time, x and velocity of every call so far, newest first."""
Forecast = Callable[[Known, Tensor, float], Tensor]
Due = Callable[[int, Tensor], bool]
"""Whether to call at a node, seeing the x there."""

# Forecasts ---------------------------------------------------------------------------------------


def polynomial(order: int) -> Weights:
    """The polynomial of that order through the last calls; of a lower one while they are few."""

    def weights(times: Sequence[float], t: float) -> list[float]:
        used = times[: order + 1]
        return [*lagrange_weights(used, t), *(0.0 for _ in times[len(used) :])]

    return weights


def chebyshev(degree: int = 4, ridge: float = 0.1, share: float = 1.0) -> Weights:
    """phi(t) (Phi^T Phi + ridge)^-1 Phi^T with phi_m(t) = T_m(2 t - 1); beyond ``share`` the line.

    The line alone while there are fewer calls than coefficients.
    """
    line = polynomial(1)

    def basis(times: Sequence[float]) -> Tensor:
        angle = torch.tensor(times, dtype=torch.float64).mul(2).sub(1).clamp(-1, 1).acos()
        return torch.cos(angle[:, None] * torch.arange(degree + 1))

    def weights(times: Sequence[float], t: float) -> list[float]:
        straight = line(times, t)
        if len(times) <= degree:
            return straight
        known = basis(times)
        gram = known.T @ known + ridge * torch.eye(degree + 1, dtype=torch.float64)
        fitted = (basis([t]) @ torch.linalg.solve(gram, known.T))[0].tolist()
        return [share * f + (1 - share) * s for f, s in zip(fitted, straight, strict=True)]

    return weights


def linear_in_velocities(weights: Weights) -> Forecast:
    def forecast(known: Known, x: Tensor, t: float) -> Tensor:
        return combine(weights([k[0] for k in known], t), [k[2] for k in known])

    return forecast


def _parts(x: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """alpha, beta (b, 1) and the direction u (b, n) of each sample of v: alpha x + beta |x| u."""
    x, v = x.flatten(1), v.flatten(1)
    size = x.norm(dim=1, keepdim=True)
    alpha = (v * x).sum(1, keepdim=True) / size**2
    rest = v - alpha * x
    length = rest.norm(dim=1, keepdim=True)
    return alpha, length / size, rest / length.clamp_min(1e-30)


def decomposed(known: Known, x: Tensor, t: float) -> Tensor:
    """VDE's estimate at the x of the step, each sample by itself."""
    (newest, x1, v1), *before = known
    alpha, beta, direction = _parts(x1, v1)
    if before:
        old, x0, v0 = before[0]
        alpha0, beta0, _ = _parts(x0, v0)
        ahead = (t - newest) / (newest - old)
        alpha, beta = alpha + ahead * (alpha - alpha0), beta + ahead * (beta - beta0)
    flat = x.flatten(1)
    return (alpha * flat + beta * flat.norm(dim=1, keepdim=True) * direction).view_as(x)


WEIGHTS: dict[str, tuple[Weights, ...]] = {
    "hold": (polynomial(0),),
    "linear (TaylorSeer 1)": (polynomial(1),),
    "TaylorSeer 2": (polynomial(2),),
    "Spectrum": (chebyshev(share=0.5), chebyshev()),
}
FORECASTS: dict[str, tuple[Forecast, ...]] = {
    name: tuple(map(linear_in_velocities, settings)) for name, settings in WEIGHTS.items()
} | {"VDE": (decomposed,)}
"""By name, each with its settings."""

# Where they call ---------------------------------------------------------------------------------

INTERVALS = range(2, 8)
"""Every how many steps; with more their papers find the pictures worse."""


def _fewest_left_out(lists: Iterator[Nodes], calls: int) -> Nodes | None:
    """The longest of the lists that is no longer than that."""
    return max((nodes for nodes in lists if len(nodes) <= calls), key=len, default=None)


def every_kth(steps: int, calls: int) -> list[Nodes]:
    """TaylorSeer's: so many first steps, then every k-th; one list for each k."""
    found = {
        _fewest_left_out(
            ((*range(first), *range(first - 1 + k, steps, k)) for first in range(1, calls + 1)),
            calls,
        )
        for k in INTERVALS
    }
    return sorted(found - {None})


def stable_then_every_kth(steps: int, calls: int) -> list[Nodes]:
    """VDE's: the first steps, then every k-th, and the last one; one list for each k."""
    found = {
        _fewest_left_out(
            (
                (*range(first), *range(first - 1 + k, steps - 1, k), steps - 1)
                for first in range(2, calls)
            ),
            calls,
        )
        for k in INTERVALS
    }
    return sorted(found - {None})


def _growing(steps: int, first: int, window: float, growth: float) -> Nodes:
    nodes, left_out = list(range(first)), 0
    for k in range(first, steps):
        if (left_out + 1) % int(window) == 0:
            nodes.append(k)
            window, left_out = window + growth, 0
        else:
            left_out += 1
    return tuple(nodes)


def growing_windows(steps: int, calls: int) -> list[Nodes]:
    """Spectrum's: some first steps, then windows that grow from 2; one list for each growth."""
    found = {
        _fewest_left_out((_growing(steps, first, 2, growth) for first in range(1, calls)), calls)
        for growth in (0, 0.25, 0.5, 0.75, 1, 1.5, 2, 3)
    }
    return sorted(found - {None})


def at(nodes: Sequence[int]) -> Due:
    return lambda k, x: k in nodes


def wiener_filtered(picture: Tensor, t: float) -> Tensor:
    """SeaCache's SEA filter: gain a S / (a^2 S + t^2) per axis, a = 1 - t, S = |f|^-2, mean 1.

    picture: (b, c, h, w).
    """
    gain = torch.ones(())
    for axis in (2, 3):
        power = 1 / (torch.fft.fftfreq(picture.shape[axis]).abs() ** 2 + 1e-16)
        along = (1 - t) * power / ((1 - t) ** 2 * power + t**2 + 1e-16)
        gain = gain * along.view(-1, 1) if axis == 2 else gain * along
    if t < 1:  # of pure noise nothing is left to scale
        gain = gain / gain.mean()
    return torch.fft.ifft2(torch.fft.fft2(picture) * gain).real


def sea_gate(times: Sequence[float], threshold: float, picture: Callable[[Tensor], Tensor]) -> Due:
    """SeaCache's: call once the relative L1 changes of the filtered input add up to the threshold.

    The first and the last step are called. The batch decides together.
    """
    before: list[Tensor] = []
    changed = 0.0

    def due(k: int, x: Tensor) -> bool:
        nonlocal changed
        seen = wiener_filtered(picture(x), times[k])
        if before:
            changed += float(
                (seen - before[0]).abs().mean() / before[0].abs().mean().clamp_min(1e-16)
            )
        before[:] = [seen]
        if k in (0, len(times) - 2) or changed >= threshold:
            changed = 0.0
            return True
        return False

    return due


# A run -------------------------------------------------------------------------------------------


def sample(
    velocity: VelocityFn, x: Tensor, ts: Tensor, due: Due, forecast: Forecast
) -> tuple[Tensor, Nodes]:
    """Euler steps over ts on the velocity where it is due, on the forecast elsewhere; and where."""
    known: Known = []
    times, nodes = ts.tolist(), []
    for k in range(len(ts) - 1):
        if due(k, x):
            v = velocity(x, ts[k])
            known.insert(0, (times[k], x, v))
            nodes.append(k)
        else:
            v = forecast(known, x, times[k])
        x = x + (ts[k + 1] - ts[k]) * v
    return x, tuple(nodes)


def gated(
    run: Callable[[float], tuple[Run, Nodes]], calls: int, rounds: int = 7
) -> tuple[Run, Nodes]:
    """A gate's run with the smallest threshold, of those tried, that makes no more calls.

    run: of a threshold. Bisection over its logarithm, from 0.001 to 10.
    """
    low, high = -3.0, 1.0
    best = run(10**high)
    for _ in range(rounds):
        middle = (low + high) / 2
        found = run(10**middle)
        if len(found[1]) > calls:
            low = middle
            continue
        high, best = middle, found
        if len(found[1]) == calls:
            break
    return best
