"""Calibration by rehearsal: try lists of calls on the flow, linearised around recorded runs.

Along an ordinary run the velocities v_k and states x_k are known. A forecast whose state is x~_k
has the velocity v(x~_k) = v_k + J (x~_k - x_k), so that its error grows by J; dynamic programming
over the recorded runs alone knows nothing of that growth. A check is a real forecast from the same
noise: it shows J along its own error, and this growth stands for J in rehearsals, which call no
model. Everything lies in the span of the velocities, so that their inner products suffice.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from .calibration import Recorder, calibrate
from .call_rules import call_nodes
from .errors import InvalidInput
from .sampling import VelocityFn, sample_forecast

CHECKS = 4
"""The most lists that are checked in forecasts of the model, from the noise of every run."""
MOVES = (1, -1, 2, -2)
"""By how many nodes ``exchange`` moves a call."""


def _coordinates(grams: np.ndarray) -> Tensor:
    """Vectors that have the given inner products: (runs, n, n) -> (n, runs, n)."""
    values, vectors = np.linalg.eigh(grams)
    return torch.from_numpy((vectors * np.sqrt(np.maximum(values, 0))[:, None]).swapaxes(0, 1))


def _states(velocities: Tensor, ts: Tensor) -> Tensor:
    """The states of Euler steps from 0 on the velocities (n, ...): (n+1, ...)."""
    steps = ts.diff().view(-1, *[1] * (velocities.ndim - 1)) * velocities
    return torch.cat([torch.zeros_like(steps[:1]), steps.cumsum(0)])


def _in_turn(velocities: Tensor) -> VelocityFn:
    """A velocity that returns the given ones, one per call."""
    answers = iter(velocities)
    return lambda x, t: next(answers)


def exchange(
    nodes: Sequence[int], steps: int, cost: Callable[[tuple[int, ...]], float]
) -> tuple[float, tuple[int, ...]]:
    """Local search: (least cost, list of nodes) that moving one call at a time leads to.

    Each call but the first is moved by up to two nodes between its neighbours, beginning with the
    last call; passes are repeated while they lower the cost.
    """
    best = tuple(nodes)
    least, before = cost(best), np.inf
    while least < before:
        before = least
        for i in reversed(range(1, len(best))):
            for move in MOVES:
                moved = (*best[:i], best[i] + move, *best[i + 1 :])
                following = best[i + 1] if i + 1 < len(best) else steps
                if best[i - 1] < moved[i] < following and (c := cost(moved)) < least:
                    least, best = c, moved
    return least, best


class Rehearsal:
    """Estimates the error of any list of calls from recorded runs and checks of the same noise.

    Each of the recorders has recorded a run with a call at every step of ts, then the checks in
    their order; every sample of a batch is a run of its own. ts (n+1,) in the linear path's time.
    The measure of error is the mean over runs of log10 of the squared error at the end, as in
    decibels.
    """

    def __init__(self, recorders: Sequence[Recorder], ts: Sequence[float]):
        self._ts = torch.tensor([float(t) for t in ts], dtype=torch.float64)
        self._steps = steps = len(self._ts) - 1
        grams = np.concatenate([recorder.grams() for recorder in recorders])
        self.gram: np.ndarray = grams[:, :steps, :steps].sum(0)
        """Inner products of the velocities, summed over the runs with a call at every step."""
        # Squared errors below this are rounding errors of single precision.
        self._floor = 1e-10 * np.diagonal(grams[:, :steps, :steps], 0, 1, 2).mean(1)
        self._velocities = _coordinates(grams[:, :steps, :steps])
        self._base = _states(self._velocities, self._ts)
        self.checked: dict[tuple[int, ...], float] = {}
        """The measure of each checked list."""
        self._growth = self._learn(recorders[0].nodes[steps:], _coordinates(grams))

    def _learn(self, called: Sequence[int], velocities: Tensor) -> Tensor:
        """<J e, e> / <e, e> of the checks' errors e, interpolated over t: (n, runs)."""
        base = _states(velocities[: self._steps], self._ts)
        starts = [i for i, k in enumerate(called) if k == 0]
        found: dict[int, list[Tensor]] = {}
        for start, stop in zip(starts, [*starts[1:], len(called)], strict=True):
            nodes = tuple(called[start:stop])
            seen = velocities[self._steps :][start:stop]

            def keep(k: int, x: Tensor, v: Tensor, t: Tensor) -> None:
                error = x - base[k]
                size = error.square().sum(1)
                along = (error * (v - velocities[k])).sum(1)
                found.setdefault(k, []).append(torch.where(size > 0, along / size, 0.0))

            answers = _in_turn(seen)
            end = sample_forecast(answers, base[0], self._ts, nodes=nodes, callback=keep)
            self.checked[nodes] = self._measure(end - base[-1])
        del found[0]  # at the first node there is no error yet
        at = sorted(found, reverse=True)  # ascending in t
        growth = torch.stack([torch.stack(found[k]).median(0).values for k in at])
        t = self._ts[:-1].numpy()
        columns = [np.interp(t, t[at], column) for column in growth.T.numpy()]
        return torch.from_numpy(np.stack(columns, 1))

    def _measure(self, error: Tensor) -> float:
        """The measure of the errors (runs, n) at the end."""
        return float(np.log10(error.square().sum(1).numpy() + self._floor).mean())

    def cost(self, nodes: tuple[int, ...]) -> float:
        """The measure of a list, estimated by a rehearsal."""
        calls = iter(nodes)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            k = next(calls)
            return self._velocities[k] + self._growth[k][:, None] * (x - self._base[k])

        end = sample_forecast(velocity, self._base[0], self._ts, nodes=nodes)
        return self._measure(end - self._base[-1])

    def best(self, calls: int) -> tuple[int, ...]:
        """The list with the least estimated error, by local search from two lists.

        These are the one of ``calibrate`` and the best checked one.
        """
        ts = self._ts.tolist()
        checked = [nodes for nodes in self.checked if len(nodes) == calls]
        usual = tuple(call_nodes(ts, calls, "early"))
        starts = {
            tuple(calibrate(self.gram, ts, calls)),
            min(checked, key=self.checked.__getitem__, default=usual),
        }
        return min(exchange(nodes, self._steps, self.cost) for nodes in starts)[1]


def rehearse(
    recorders: Sequence[Recorder],
    ts: Sequence[float],
    calls: int,
    check: Callable[[list[int]], None],
) -> tuple[Rehearsal, tuple[int, ...]]:
    """(rehearsal, nodes): the list of ``calls`` with the least error in forecasts of the model.

    The early rule's list is checked first, then the best rehearsed one given all checks so far, up
    to ``CHECKS`` lists. ``check(nodes)`` runs the model's forecast with these calls from the noise
    of every run, with the run's recorder as the callback. recorders and ts are as for
    ``Rehearsal``; the one that is returned estimates lists of other lengths, which are not checked.

    Raises InvalidInput for fewer than two calls, or no fewer than the grid has steps.
    """
    if calls >= len(ts) - 1:
        raise InvalidInput(f"calls must be fewer than the {len(ts) - 1} steps, got {calls}")
    check(call_nodes(ts, calls, "early"))
    rehearsal = Rehearsal(recorders, ts)
    while len(rehearsal.checked) < CHECKS:
        found = rehearsal.best(calls)
        if found in rehearsal.checked:
            break
        check(list(found))
        rehearsal = Rehearsal(recorders, ts)
    return rehearsal, min(rehearsal.checked, key=rehearsal.checked.__getitem__)
