"""The calls that a model needs, from inner products of recorded runs, by dynamic programming."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .call_rules import EARLY, call_nodes, density
from .interpolant import LINEAR, Interpolant
from .sampling import StraightPath
from .solvers import lagrange_weights


class Recorder:
    """A sampler's callback that takes the inner products of a run's velocities.

    It keeps the velocities in float16 in main memory (30 calls of a 16 x 128 x 128 latent: 16 MB),
    and takes every product in float64, block by block. On a path other than the linear one, u of
    ``StraightPath`` stands for v.
    """

    BLOCK = 1 << 18

    def __init__(self, ts: Tensor, interpolant: Interpolant = LINEAR) -> None:
        self._path = StraightPath(interpolant, ts)
        self.nodes: list[int] = []
        self._velocities: list[Tensor] = []
        self._rows: list[np.ndarray] = []

    def __call__(self, k: int, x: Tensor, v: Tensor, t: Tensor) -> None:
        """Record a call: state x and velocity v at node k."""
        new = self._path.velocity(x, v.detach(), k)
        new = new.reshape(len(new), -1).to("cpu", torch.float16)
        self._velocities.append(new)
        row = torch.zeros(len(new), len(self._velocities), dtype=torch.float64)
        for i, sample in enumerate(new):
            for start in range(0, len(sample), self.BLOCK):
                block = slice(start, start + self.BLOCK)
                earlier = torch.stack([u[i, block] for u in self._velocities])
                row[i] += earlier.double() @ sample[block].double()
        self.nodes.append(k)
        self._rows.append(row.numpy())

    def grams(self) -> np.ndarray:
        """<v_i, v_j> of each sample of the batch: (b, calls, calls)."""
        calls = len(self._rows)
        grams = np.zeros((len(self._rows[0]), calls, calls))
        for i, row in enumerate(self._rows):
            grams[:, i, : i + 1] = grams[:, : i + 1, i] = row
        return grams

    def gram(self) -> np.ndarray:
        """<v_i, v_j> over the whole batch: (calls, calls)."""
        return self.grams().sum(0)


def fill_gaps(gram: np.ndarray, nodes: Sequence[int], ts: Sequence[float]) -> np.ndarray:
    """Inner products at every node of the grid, from a run that called the model at some of them.

    A skipped node's velocity is the polynomial through the two calls to either side (fewer at the
    ends). gram (calls, calls), ts (n+1,) -> (n, n).
    """
    steps = len(ts) - 1
    interpolation = np.zeros((steps, len(nodes)))
    for k in range(steps):
        if k in nodes:
            interpolation[k, nodes.index(k)] = 1
            continue
        right = int(np.searchsorted(nodes, k))
        near = range(max(right - 2, 0), min(right + 2, len(nodes)))
        weights = lagrange_weights([ts[nodes[i]] for i in near], ts[k])
        interpolation[k, list(near)] = weights
    return interpolation @ gram @ interpolation.T


def _block_errors(v: np.ndarray, t: np.ndarray, i: int | None, j: int) -> tuple[np.ndarray, ...]:
    """Squared errors of x after a block that begins at call j; i is the call before it, or None.

    v (n, r) are coordinates of the velocities, t (n+1,). Returns the errors of Euler steps on the
    predicted velocities, (n - j,), for ends j+1 .. n, and on the corrected ones, for ends
    j+1 .. n-1.
    """
    steps = len(v)
    inner = np.arange(j + 1, steps)
    tj, tl = t[j], t[inner]
    if i is None:
        line = np.broadcast_to(v[j], (len(inner), v.shape[1]))
        bend = tl - tj
    else:
        slope = (v[j] - v[i]) / (tj - t[i])
        line = v[j] + (tl - tj)[:, None] * slope
        bend = (tl - tj) * (tl - t[i])
    dt = np.diff(t)[inner]
    zero = np.zeros((1, v.shape[1]))
    predicted = np.concatenate([zero, np.cumsum(dt[:, None] * (line - v[inner]), 0)])
    bent = np.concatenate([[0.0], np.cumsum(dt * bend)[:-1]])
    # Newton's form: the parabola is the line and a multiple of bend that meets v at the end.
    corrected = predicted[:-1] + (bent / bend)[:, None] * (v[inner] - line)
    return (predicted**2).sum(1), (corrected**2).sum(1)


def _costs(gram: np.ndarray, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Costs of blocks: cost[i, j, k] from call j to the call or end k, with call i before j.

    first[k] is that of the first block, from 0 to k. A cost is the squared error of the corrected
    block + 0.3 x that of the predicted one, at whose end the network is called; the last block is
    never corrected.
    """
    steps = len(gram)
    values, vectors = np.linalg.eigh(gram)
    v = vectors * np.sqrt(np.maximum(values, 0))

    def block(i: int | None, j: int) -> np.ndarray:
        predicted, corrected = _block_errors(v, t, i, j)
        return np.concatenate([corrected + 0.3 * predicted[:-1], predicted[-1:]])

    cost = np.full((steps, steps, steps + 1), np.inf)
    for j in range(1, steps):
        for i in range(j):
            cost[i, j, j + 1 :] = block(i, j)
    first = np.full(steps + 1, np.inf)
    first[1:] = block(None, 0)
    return cost, first


def calibrate(gram: np.ndarray, ts: Sequence[float], calls: int, prior: float = 0.0) -> list[int]:
    """The ``calls`` nodes with which a forecast comes nearest to the recorded runs.

    Dynamic programming over pairs of calls. gram (n, n): inner products of the velocities at all
    nodes, summed over runs; ts (n+1,) in the linear path's time. ``prior`` keeps the blocks near
    the early rule's: prior x (share of its density in a block x (calls - 1))^6 / calls is added to
    the cost, in units of the auto rule's cost.

    Raises InvalidInput for fewer than two calls.
    """
    steps, t = len(gram), np.asarray(ts, dtype=np.float64)
    usual = call_nodes(t, calls)
    if calls >= steps:
        return usual
    cost, first = _costs(gram, t)
    ends = [*usual[2:], steps]
    unit = first[usual[1]] + sum(
        cost[i, j, k] for i, j, k in zip(usual[:-1], usual[1:], ends, strict=True)
    )
    if unit <= 1e-12 * gram.trace():  # the velocity is a line: only rounding errors are left
        return usual
    share = density(t, calls, EARLY)
    crowd = (np.maximum(share[None, :] - share[:, None], 0) * (calls - 1)) ** 6 * (prior / calls)
    cost = cost / unit + crowd[None, :-1, :]
    first = first / unit + crowd[0]

    best = np.full((steps, steps), np.inf)  # best[j, k]: least cost with the last two calls at j, k
    best[0] = first[:-1]
    choices = []
    for _ in range(calls - 2):
        total = best[:, :, None] + cost[:, :, :-1]
        choices.append(total.argmin(0))
        best = total.min(0)
    j, k = np.unravel_index((best + cost[:, :, -1]).argmin(), best.shape)
    nodes = [int(k), int(j)]
    for choice in reversed(choices):
        nodes.append(int(choice[nodes[-1], nodes[-2]]))
    return nodes[::-1]


def self_calibrate(
    gram: np.ndarray, nodes: Sequence[int], ts: Sequence[float], calls: int
) -> list[int]:
    """The calls for the next pictures of a queue, from the recorded forecast of the first one.

    gram and nodes are those of its ``Recorder``; the early rule is best for the first picture.
    """
    return calibrate(fill_gaps(gram, list(nodes), ts), ts, calls, prior=0.03)
