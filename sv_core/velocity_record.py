"""What is known of a network along a run, and what it is taken to answer where it was not called.

A sampler of any kind asks for denoised data at pairs (x, sigma), in whatever order. Between calls
the answer comes from a quantity that changes slowly from one noise level to the next: the record
interpolates it over the run's own levels, and turns it back into denoised data at the x asked for.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .solvers import combine, lagrange_weights

Pair = tuple[float, float]


class Quantity(NamedTuple):
    """What is interpolated: q = a x + b D of the network's answer D at (x, sigma)."""

    time: Callable[[float], float]
    """In which the interpolation is a polynomial."""
    from_answer: Callable[[float], Pair]
    """(a, b) at sigma."""
    to_answer: Callable[[float], Pair]
    """(c, d) with D = c x + d q."""


VELOCITY = Quantity(lambda s: s, lambda s: (1 / s, -1 / s), lambda s: (1.0, -s))
"""v = (x - D) / sigma, for x = (1 - sigma) x0 + sigma eps."""

DATA = Quantity(lambda s: s, lambda s: (0.0, 1.0), lambda s: (0.0, 1.0))
"""x0_hat = D itself: for samplers that take x0_hat and draw the rest of x anew."""

EXPLODING_VELOCITY = Quantity(
    lambda s: s / (1 + s), lambda s: (1 / s, -1 / s - 1), lambda s: (1 / (1 + s), -s / (1 + s))
)
"""The same v = eps_hat - x0_hat where x = x0 + sigma eps, in t = sigma / (1 + sigma)."""


class VelocityRecord:
    """Values of a quantity at some of a run's nodes, and the polynomial through them elsewhere.

    Between two known nodes it is the parabola through both and the one before (the corrector),
    beyond the last one the line through the last two (the predictor). What was once between two
    known nodes is therefore never changed by later values.
    """

    def __init__(self, times: Sequence[float]):
        """times: of all nodes, descending."""
        self._times = times
        self._values: dict[int, Tensor] = {}

    def __contains__(self, node: int) -> bool:
        return node in self._values

    def __getitem__(self, node: int) -> Tensor:
        return self._values[node]

    def all(self) -> list[Tensor]:
        """Every value that is held."""
        return list(self._values.values())

    def change(self, function: Callable[[Tensor], Tensor]) -> None:
        """Put function(value) in place of every value."""
        self._values = {k: function(v) for k, v in self._values.items()}

    def add(self, node: int, value: Tensor) -> None:
        self._values[node] = value

    def keep_for(self, node: int) -> None:
        """Forget what no answer at this node or a later one comes from."""
        first = min(sorted((k for k in self._values if k <= node), reverse=True)[:2], default=0)
        self._values = {k: v for k, v in self._values.items() if k >= first}

    def shift(self, quantity: Quantity, node: int, sigma: float, by: Tensor, share: float) -> None:
        """A known value for an x that lies ``by`` from the one it was asked at.

        D moves with x by all but ``share`` of what leaves the value as it is. VELOCITY: v(x + by) =
        v(x) + share by / sigma; DATA stays.
        """
        _, b = quantity.from_answer(sigma)
        c, _ = quantity.to_answer(sigma)
        if weight := -share * b * c:
            self._values[node] = torch.add(self._values[node], by, alpha=weight)

    def newest(self, count: int) -> list[int]:
        """The last nodes that are known, newest first."""
        return sorted(self._values, reverse=True)[:count]

    def is_settled(self, node: int) -> bool:
        """Whether later values will leave this node's as it is."""
        return any(k >= node for k in self._values)

    def _points(self, node: int) -> list[int]:
        if node in self._values:
            return [node]
        before = sorted((k for k in self._values if k < node), reverse=True)[:2]
        after = sorted(k for k in self._values if k > node)[: 1 if before else 2]
        return [*after, *before]

    def _weights(self, node: int, points: list[int]) -> list[float]:
        return lagrange_weights([self._times[k] for k in points], self._times[node])

    def value(self, node: int) -> Tensor:
        """The quantity at a node, a new tensor."""
        points = self._points(node)
        return combine(self._weights(node, points), [self._values[k] for k in points])

    def answer(self, quantity: Quantity, node: int, x: Tensor, sigma: float) -> Tensor:
        """D at (x, sigma), sigma that of the node: one linear combination, a new tensor."""
        points = self._points(node)
        keep, share = quantity.to_answer(sigma)
        weights = [keep, *(share * w for w in self._weights(node, points))]
        return combine(weights, [x, *(self._values[k] for k in points)])
