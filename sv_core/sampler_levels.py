"""At which noise levels a sampler asks for the network, found by running it without one.

A sampler here is any function ``sampler(denoise, x, sigmas) -> x`` that calls ``denoise(x, sigma)``
as often as it likes, with sigma a tensor of one equal number per sample.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from .errors import InvalidInput
from .sampler_weights import TooMany, Weights, find_weights, watch

Denoiser = Callable[..., Tensor]
Sampler = Callable[[Denoiser, Tensor, Tensor], Tensor]

SAME = 1e-5
"""Levels nearer than this, relatively, are one: samplers compute with their logarithms."""
SMALL = 1 << 16
"""How many numbers of x a watched run may keep for every evaluation."""
TOO_MANY = 20
"""Evaluations a step, beyond which a sampler does not follow its grid."""


class Levels(NamedTuple):
    """Where a sampler evaluates the network on one grid."""

    sigmas: tuple[float, ...]
    """The distinct levels, descending: the nodes."""
    visits: tuple[int, ...]
    """The node of every evaluation, in the sampler's order."""
    weights: Weights | None
    """Of the sampler, if it adds up."""

    def node(self, sigma: float) -> int | None:
        """Of a level; None for one that the sampler was not seen at."""
        return _find(self.sigmas, sigma)


def _find(descending: Sequence[float], sigma: float) -> int | None:
    i = bisect_left(descending, -sigma, key=lambda s: -s)
    near = [k for k in (i - 1, i) if 0 <= k < len(descending)]
    same = [k for k in near if abs(descending[k] - sigma) <= SAME * sigma]
    return min(same, key=lambda k: abs(descending[k] - sigma), default=None)


def level(sigma: Tensor) -> float:
    """The one number that a denoiser's sigma holds."""
    return float(sigma.flatten()[0])


class RandomState:
    """The state of the default generators that a sampler on a device draws from."""

    def __init__(self, device: torch.device):
        self._device = None if device.type == "cpu" else getattr(torch, device.type, None)
        self._states = torch.get_rng_state(), self._device and self._device.get_rng_state()

    def restore(self) -> None:
        """Put it back, as often as wanted."""
        cpu, other = self._states
        torch.set_rng_state(cpu)
        if self._device is not None:
            self._device.set_rng_state(other)


@contextmanager
def same_randomness_after(device: torch.device) -> Iterator[None]:
    """Context manager: whatever is drawn inside, the generators end as they began."""
    state = RandomState(device)
    try:
        yield
    finally:
        state.restore()


# Two networks that agree in nothing; both are tame enough for a sampler with an error estimate.


def _first(x: Tensor, sigma: float) -> Tensor:
    return 0.5 * x + sigma


def _second(x: Tensor, sigma: float) -> Tensor:
    return -0.5 * x


def _distinct(sigmas: Sequence[float]) -> tuple[float, ...]:
    found: list[float] = []
    for sigma in sorted(set(sigmas), reverse=True):
        if not found or found[-1] - sigma > SAME * found[-1]:
            found.append(sigma)
    return tuple(found)


def find_levels(sampler: Sampler, x: Tensor, sigmas: Tensor) -> Levels:
    """Run the sampler over answers that need no network. No randomness is used up.

    x: of the run, or a small part of it: a large one is not kept, so that there are no weights.
    Raises InvalidInput, with the reason, for a sampler whose levels depend on the network's
    answers, or that asks at level 0.
    """
    most, keep = TOO_MANY * len(sigmas), x.numel() <= SMALL
    runs = []
    for answer in (_first, _second):
        with same_randomness_after(x.device):
            try:
                runs.append(watch(sampler, x, sigmas, answer, most, keep=keep))
            except TooMany:
                raise InvalidInput("it chooses its own noise levels") from None
    levels, others = ([seen.sigma for seen in run.seen] for run in runs)
    if levels != others:
        raise InvalidInput("it chooses its own noise levels")
    if not levels or min(levels) <= 0:
        raise InvalidInput("it asks for the model where there is no noise left")
    distinct = _distinct(levels)
    visits = tuple(node for s in levels if (node := _find(distinct, s)) is not None)
    with same_randomness_after(x.device):
        return Levels(distinct, visits, find_weights(sampler, sigmas, runs) if keep else None)
