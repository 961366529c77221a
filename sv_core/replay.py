"""Several steps of a base solver on forecast velocities, as one linear combination of tensors.

A block of steps from one call to the next is linear in the state's tensors and the known
velocities, with weights that depend on times alone: the steps in between cost no pass over latents.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

from .solvers import SolverFn, State, combine, lagrange_weights

Known = tuple[tuple[int, Tensor], ...]
"""Real calls, newest first: node and velocity."""


def forecast(times: Sequence[float], known: Known, i: int) -> Tensor:
    """The velocity at node i on the polynomial through the known ones."""
    weights = lagrange_weights([times[k] for k, _ in known], times[i])
    return combine(weights, [v for _, v in known])


@lru_cache(4096)
def _weights(
    solver: SolverFn, past: tuple[float, ...], known: tuple[float, ...], ts: tuple[float, ...]
) -> tuple[tuple[float, tuple[float, ...]], ...]:
    """(time, weights) of each tensor of the state after steps over ``ts``, x first.

    The weights are of the first state's x, of its past (at the times ``past``) and of the
    velocities at the times ``known``. The solver computes them when it steps on unit vectors.
    """
    size = 1 + len(past) + len(known)
    x, *units = torch.eye(size, dtype=torch.float64, device="cpu").unbind()
    state = State(x, tuple(zip(past, units, strict=False)))
    velocities = units[len(past) :]
    for t, r in pairwise(ts):
        state = solver(state, combine(lagrange_weights(known, t), velocities), t, r)
    found = ((ts[-1], state.x), *state.past)
    return tuple((t, tuple(w.tolist())) for t, w in found)


def _parts(
    solver: SolverFn, state: State, known: Known, times: Sequence[float], start: int, stop: int
) -> tuple[tuple[tuple[float, tuple[float, ...]], ...], list[Tensor]]:
    """``_weights`` of the steps from node ``start`` to ``stop``, and the tensors they belong to."""
    past = tuple(t for t, _ in state.past)
    at = tuple(times[k] for k, _ in known)
    tensors = [state.x, *(x for _, x in state.past), *(v for _, v in known)]
    return _weights(solver, past, at, tuple(times[start : stop + 1])), tensors


def predict(
    solver: SolverFn, state: State, known: Known, times: Sequence[float], start: int, stop: int
) -> Tensor:
    """x at node ``stop`` after the solver's steps on forecasts from ``state`` at ``start``."""
    ((_, weights), *_), tensors = _parts(solver, state, known, times, start, stop)
    return combine(weights, tensors)


def replay(
    solver: SolverFn, state: State, known: Known, times: Sequence[float], start: int, stop: int
) -> State:
    """The solver's state at node ``stop`` after the same steps as in ``predict``."""
    found, tensors = _parts(solver, state, known, times, start, stop)
    (_, x), *past = ((t, combine(weights, tensors)) for t, weights in found)
    return State(x, tuple(past))
