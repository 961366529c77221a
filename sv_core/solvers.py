"""Base solvers: one step from a node of a grid to the next, on a given velocity.

A solver is a function ``step(state, v, t, r) -> state`` on the linear path x = (1 - t) x0 + t eps
(``sampling`` brings every other path there): v is the velocity at node t, r < t the next node, both
plain floats, 0 < t. It never calls a network, so that the velocity may also be a forecast. States
are immutable, so that steps can be repeated from any state that was kept. Every solver is linear in
its tensors, with weights that depend on times alone.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class State(NamedTuple):
    """The state of a run: the sample x, and the tensors kept of earlier nodes, newest first."""

    x: Tensor
    past: tuple[tuple[float, Tensor], ...] = ()


SolverFn = Callable[[State, Tensor, float, float], State]


def lagrange_weights(nodes: Sequence[float], t: float) -> list[float]:
    """w_j with sum_j w_j f(nodes_j) = p(t), p the polynomial through all nodes."""
    return [math.prod((t - b) / (a - b) for b in nodes if b != a) for a in nodes]


def adams_weights(nodes: Sequence[float], t: float, r: float) -> list[float]:
    """w_j with sum_j w_j f(nodes_j) = integral of p from t to r; at most four nodes."""
    # Two Gauss points integrate a cubic exactly.
    middle, half = (t + r) / 2, (r - t) / 2
    left, right = (lagrange_weights(nodes, middle + s * half / math.sqrt(3)) for s in (-1, 1))
    return [half * (a + b) for a, b in zip(left, right, strict=True)]


def combine(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    """sum_j w_j tensors_j, a new tensor. Terms of weight 0, and a first weight 1, cost no pass."""
    terms = [pair for pair in zip(weights, tensors, strict=True) if pair[0] != 0]
    (w, total), *rest = terms or [(0.0, tensors[0])]
    if w == 1 and rest:
        (w, tensor), *rest = rest
        total = torch.add(total, tensor, alpha=w)
    else:
        total = w * total
    for w, tensor in rest:
        total.add_(tensor, alpha=w)
    return total


def euler(state: State, v: Tensor, t: float, r: float) -> State:
    """x + (r - t) v."""
    return State(state.x + (r - t) * v)


def _adams(x: Tensor, known: Sequence[tuple[float, Tensor]], t: float, r: float) -> Tensor:
    times, velocities = zip(*known, strict=True)
    return combine([1.0, *adams_weights(times, t, r)], [x, *velocities])


def adams_bashforth_2(state: State, v: Tensor, t: float, r: float) -> State:
    """x + the integral of the line through the last two velocities; the first is an Euler step."""
    known = ((t, v), *state.past)
    return State(_adams(state.x, known, t, r), known[:1])


def adams_moulton_3(state: State, v: Tensor, t: float, r: float) -> State:
    """AB2, with each step repeated by AM3 once the velocity at its end is known.

    Order 3 at one call a step: the corrector integrates the parabola through the new velocity and
    the two before it (variable-step weights), then AB2 predicts. The state's x is predicted; the
    correction is its difference, so the step's start need not be kept.
    """
    x = state.x
    if state.past:
        start = state.past[0][0]
        times, velocities = zip((t, v), *state.past, strict=True)
        predicted = [0.0, *adams_weights(times[1:], start, t)]
        corrected = adams_weights(times, start, t)
        change = [c - p for c, p in zip(corrected, predicted, strict=True)]
        x = combine([1.0, *change], [x, *velocities])
    known = ((t, v), *state.past[:1])
    return State(_adams(x, known, t, r), known)


# The solvers below predict data and work in -log t, as ComfyUI's: a step with a constant x0_hat is
# exact, x_r = (r/t) x + (1 - r/t) x0_hat.


def _x0_hat(x: Tensor, v: Tensor, t: float) -> Tensor:
    return torch.add(x, v, alpha=-t)


def _data_step(times: Sequence[float], r: float) -> tuple[float, list[float]]:
    """Step to r with the x0_hat that the last two predict for the middle of the step.

    Returns the weights of x and of the x0_hats at ``times``, newest first.
    """
    t, keep = times[0], r / times[0]
    weights = [1 - keep, *(0.0 for _ in times[1:])]
    if len(times) > 1 and r > 0:  # the step to 0 is infinitely long in log t
        ratio = math.log(t / r) / (2 * math.log(times[1] / t))
        weights[:2] = (1 - keep) * (1 + ratio), -(1 - keep) * ratio
    return keep, weights


def dpmpp_2m(state: State, v: Tensor, t: float, r: float) -> State:
    """DPM-Solver++(2M). [Lu et al. 2022, algorithm 2]

    x_r = (r/t) x + (1 - r/t) (D + (D - D_prev) h / (2 h_prev)), D = x0_hat, h in -log t. The first
    step and the step to 0 have no second-order term.
    """
    times, data = zip((t, _x0_hat(state.x, v, t)), *state.past, strict=True)
    keep, weights = _data_step(times, r)
    return State(combine([keep, *weights], [state.x, *data]), ((t, data[0]),))


def _unic_weights(h: float, rho: float) -> tuple[float, float]:
    """UniC-2 with B(h) = e^h - 1: weights of (D_prev - D) / rho and of D_next - D; rho < 0."""
    b = math.expm1(-h)
    first = (b / -h - 1) / b
    second = 2 * ((b / -h - 1) / -h - 0.5) / b
    # Solve [[1, 1], [rho, 1]] w = [first, second].
    w = (first - second) / (1 - rho)
    return w, first - w


def _unic_correction(times: Sequence[float]) -> list[float]:
    """The correction of the last step by the newest x0_hat: weights of those at ``times``."""
    if len(times) == 1:
        return [0.0]
    t, start, *older = times
    size, h = 1 - t / start, math.log(start / t)
    if not older:  # order 1
        return [0.5 * size, -0.5 * size]
    rho = -math.log(older[0] / start) / h
    w_past, w_new = _unic_weights(h, rho)
    w_past = (w_past - 0.5) / rho  # the predictor's weight is 1/2
    return [size * w_new, -size * (w_new + w_past), size * w_past]


def unipc(state: State, v: Tensor, t: float, r: float) -> State:
    """UniPC, order 2, B(h) = e^h - 1 ("bh2"), data prediction. [Zhao et al. 2023]

    The predictor is DPM-Solver++(2M); the corrector repeats the last step with the new x0_hat.
    The state's x is predicted and the correction is its difference, so the step's start need not be
    kept. The first correction has order 1.
    """
    times, data = zip((t, _x0_hat(state.x, v, t)), *state.past, strict=True)
    keep, weights = _data_step(times, r)
    corrected = [w + keep * c for w, c in zip(weights, _unic_correction(times), strict=True)]
    x = combine([keep, *corrected], [state.x, *data])
    return State(x, tuple(zip(times, data, strict=True))[:2])


SOLVERS: dict[str, SolverFn] = {
    "euler": euler,
    "ab2": adams_bashforth_2,
    "dpmpp_2m": dpmpp_2m,
    "unipc": unipc,
}
"""The solvers that ``sample_forecast`` can use, by name."""
