"""A sampler's run with fewer calls, by its table of weights instead of its function.

Everything between two calls is linear in a few tensors: x at the next call is one combination of
them, whatever the sampler, and so is x again once the stretch is done anew. What the sampler goes
through in between are rows of weights. Of what lies behind a call only that is kept which later
combinations can still use: for a sampler without memory x and two velocities.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .sampler_levels import Denoiser, Levels
from .sampler_weights import Weights
from .sampling import NextFn
from .solvers import combine
from .velocity_record import Quantity, VelocityRecord

Report = Callable[[int, Tensor, Tensor, float], None]
"""Sees every call of the network: its node, x, the denoised data and sigma."""

FRESH = 0.5
"""Noise that a sampler draws changes v at once, by itself / sigma, as far as the data do not follow
it. Forecasts are of what is left without that, which stays smooth. Of 0 (v as it is) to 1 (as if
the data never followed) 0.4 to 0.8 were best for every sampler that draws noise
(benchmarks/RESULTS.md, "Samplers that draw noise")."""


def independent(rows: Tensor, tolerance: float) -> tuple[list[int], Tensor]:
    """Gauss-Jordan elimination: (pivots, reduced) with rows = rows[:, pivots] @ reduced.

    reduced is 1 or 0 in the pivots' columns. What is below tolerance x the largest entry is noise.
    """
    rest, least = rows.clone(), tolerance * float(rows.abs().max())
    pivots: list[int] = []
    reduced = rows.new_zeros(0, rows.shape[1])
    while len(pivots) < min(rows.shape) and float(rest.abs().max()) > least:
        i, j = divmod(int(rest.abs().argmax()), rows.shape[1])
        row = rest[i] / rest[i, j]
        rest, reduced = (m - m[:, j : j + 1] * row for m in (rest, reduced))
        rest[:, j] = 0
        pivots.append(j)
        reduced = torch.cat([reduced, row[None]])
    return pivots, reduced


class Span:
    """Tensors of the latent's size, and rows of weights that stand for combinations of them."""

    def __init__(self, first: Tensor, width: int):
        """width: the most tensors there will be, the length of a row."""
        self._tensors, self._own = [first], [False]
        self._width, self._tolerance = width, 16 * torch.finfo(first.dtype).eps

    def __len__(self) -> int:
        return len(self._tensors)

    def unit(self, index: int) -> Tensor:
        row = torch.zeros(self._width, dtype=torch.float64)
        row[index] = 1.0
        return row

    def add(self, tensor: Tensor) -> Tensor:
        """The row of a new tensor. It is not written into."""
        self._tensors.append(tensor)
        self._own.append(False)
        return self.unit(len(self) - 1)

    def made(self, row: Tensor) -> Tensor:
        """A new tensor."""
        return combine(row[: len(self)].tolist(), self._tensors)

    def reduce(self, rows: Tensor) -> Callable[[Tensor], Tensor]:
        """Keep what the given rows need; returns what makes of an old row the new one.

        In place: each tensor that is kept takes up its share of those that are dropped.
        """
        pivots, reduced = independent(rows[:, : len(self)], self._tolerance)
        dropped = [k for k in range(len(self)) if k not in pivots]
        for weights, k in zip(reduced, pivots, strict=True):
            for other in dropped:
                if share := float(weights[other]):
                    self._take_up(k, other, share)
        self._tensors = [self._tensors[k] for k in pivots]
        self._own = [self._own[k] for k in pivots]

        def renewed(row: Tensor) -> Tensor:
            new = torch.zeros_like(row)
            new[..., : len(pivots)] = row[..., pivots]
            return new

        return renewed

    def _take_up(self, k: int, other: int, share: float) -> None:
        if self._own[k]:
            self._tensors[k].add_(self._tensors[other], alpha=share)
        else:
            self._tensors[k] = torch.add(self._tensors[k], self._tensors[other], alpha=share)
            self._own[k] = True


def table_of_values(weights: Weights, quantity: Quantity) -> tuple[Tensor, Tensor]:
    """The sampler's table for answers that are values of the quantity, and its fresh noise in x.

    An evaluation's data are D = c (x - FRESH noise) + d value: with that every earlier D is
    replaced, so that x is a combination of the start, the values and the noise.
    """
    draws = list(weights.draws)
    noise, found = torch.zeros_like(weights.table), torch.zeros_like(weights.table)
    noise[:, draws] = weights.table[:, draws]
    data = torch.zeros(0, weights.table.shape[1], dtype=torch.float64)
    for i, given in enumerate(weights.table):
        answers = list(weights.answers[:i])
        found[i] = given
        found[i, answers] = 0
        found[i] += given[answers] @ data
        if i < len(weights.answers):
            c, d = quantity.to_answer(weights.sigmas[i])
            row = c * (found[i] - FRESH * noise[i])
            row[weights.answers[i]] += d
            data = torch.cat([data, row[None]])
    return found, noise


class WeightedRun:
    """One run; ``result`` makes it."""

    def __init__(
        self,
        denoise: Denoiser,
        x: Tensor,
        levels: Levels,
        weights: Weights,
        next_call: NextFn,
        times: Sequence[float],
        quantity: Quantity,
        convergence: float | None,
        report: Report | None,
    ):
        self._denoise, self._levels, self._weights = denoise, levels, weights
        self._next_call, self._quantity, self._report = next_call, quantity, report
        self._convergence = convergence
        self._table, self._noise = table_of_values(weights, quantity)
        events = self._table.shape[1]
        self._ends = (*weights.answers, events)
        self._like = x.new_empty(1).expand(x.shape)
        self._span = Span(x, events)
        self._record = VelocityRecord(times)  # of rows
        self._known = self._table[:, :1] * self._span.unit(0)
        """What is settled adds this to the x of every evaluation: (evaluations + 1, events)."""
        self._fresh = torch.zeros_like(self._known)
        """The same for the fresh noise in it."""
        self._values = torch.zeros(events, events, dtype=torch.float64)
        """What the answers since then are made of, by their events."""
        self._settled = 0  # how many evaluations are
        self._drawn = 0  # the event up to which noise was drawn
        self._due = 0  # the node of the next call

    def result(self) -> Tensor:
        evaluation, moved, guessed = 0, None, False
        while evaluation < len(self._weights.answers):
            node, s = self._levels.visits[evaluation], self._weights.sigmas[evaluation]
            self._draw_before(evaluation)
            if self._is_call(evaluation):
                row = self._call(evaluation, node, s)
                if guessed and self._convergence is not None:  # once more, now between two calls
                    evaluation, moved, guessed = self._settled, (node, row), False
                    continue
            elif moved is not None and moved[0] == node:
                by, moved = self._x_at(evaluation) - moved[1], None
                self._record.shift(self._quantity, node, s, by, self._convergence or 0.0)
            guessed |= not self._record.is_settled(node)
            self._values[self._ends[evaluation]] = self._record.value(node)
            evaluation += 1
        self._draw_before(evaluation)
        return self._span.made(self._x_at(evaluation))

    def _is_call(self, evaluation: int) -> bool:
        node = self._levels.visits[evaluation]
        return node not in self._record and node >= self._due

    def _x_at(self, evaluation: int) -> Tensor:
        end = self._ends[evaluation]
        return self._known[evaluation] + self._table[evaluation, :end] @ self._values[:end]

    def _draw_before(self, evaluation: int) -> None:
        """Noise is drawn where the sampler would, also what it gives no weight."""
        for event, draw in self._weights.draws.items():
            if self._drawn <= event < self._ends[evaluation]:
                self._drawn = event + 1
                noise = draw(self._like)
                if self._noise[:, event].any():
                    self._add_noise(evaluation, event, noise)

    def _add_noise(self, evaluation: int, event: int, noise: Tensor) -> None:
        row = self._span.add(noise)
        self._known = self._known + self._table[:, event, None] * row
        self._fresh = self._fresh + self._noise[:, event, None] * row
        ahead = range(evaluation, len(self._weights.answers))
        self._reduce(next((k for k in ahead if self._is_call(k)), len(ahead) + evaluation))

    def _call(self, evaluation: int, node: int, s: float) -> Tensor:
        """Ask the network and add what it says to the record; the row of x."""
        self._settle(evaluation)
        row = self._x_at(evaluation)
        x = self._span.made(row)
        sigma = x.new_full((len(x),), s)
        denoised = self._denoise(x, sigma, **self._weights.options[evaluation])
        if self._report is not None:
            self._report(node, x, denoised, self._levels.sigmas[node])
        a, b = self._quantity.from_answer(s)
        data = self._span.add(denoised.to(x.dtype))
        self._record.add(node, a * (row - FRESH * self._fresh[evaluation]) + b * data)
        self._due = self._next_call(self._record.newest(3), self._velocity)
        return row

    def _velocity(self, node: int) -> Tensor:
        return self._span.made(self._record[node])

    def _settle(self, evaluation: int) -> None:
        """Count the answers in that no later call will change; drop what nothing needs then."""
        before, visits = self._settled, self._levels.visits
        while self._settled < evaluation and self._record.is_settled(visits[self._settled]):
            event = self._ends[self._settled]
            self._known = self._known + self._table[:, event, None] * self._values[event]
            self._values[event] = 0
            self._settled += 1
        if self._settled > before:
            pending = [k for k in visits[self._settled :] if self._record.is_settled(k)]
            self._record.keep_for(min(pending, default=max(visits)))
            self._reduce(evaluation)

    def _reduce(self, evaluation: int) -> None:
        """Keep what x is made of from an evaluation on."""
        needed = [self._known[evaluation:], self._fresh[evaluation:], *self._record.all()]
        renewed = self._span.reduce(torch.cat([rows.view(-1, rows.shape[-1]) for rows in needed]))
        self._known, self._fresh = renewed(self._known), renewed(self._fresh)
        self._values = renewed(self._values)
        self._record.change(renewed)
