"""Any sampler's own result from calls of the network at some of its noise levels.

The sampler takes its steps over answers that come from the network at the levels chosen and from a
``VelocityRecord`` at the others. When a call ends a stretch of forecasts, the stretch is done anew
on the parabola through the calls around it. A sampler that adds up takes its steps by its table of
weights (``weighted_run``); any other is run again from the start, at the price of its arithmetic.

The idea to interpolate afterwards is also ComfyUI-Spectrum-MiniMax-H3's, for one model, and VDE
(CVPR 2026) extrapolates velocities; here the sampler need not know of it.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .call_rules import call_nodes
from .errors import InvalidInput
from .sampler_levels import Denoiser, Levels, RandomState, Sampler, level
from .sampling import NextFn, listed_calls
from .velocity_record import VELOCITY, Quantity, VelocityRecord
from .weighted_run import WeightedRun

SHARE = 0.5
"""The usual share of the levels at which a run calls the network."""
FEWEST_LEVELS = 9
"""Runs of fewer are left alone: among 8 steps each is too much of the picture."""

CONVERGENCE = 0.35
"""For guidance 2; see ``convergence_for``."""

CallReport = Callable[[int, Tensor, Tensor, float], None]
"""Sees every call of the network: its node, x, the denoised data and sigma."""


class _Again(Exception):
    """Leaves the sampler's function; its run is done once more."""


def convergence_for(guidance: float) -> float:
    """How neighbouring paths meet: v(x') = v(x) + convergence (x' - x) / sigma.

    Replay moves x at a call that was made before it. With 0 the call's velocity is kept, with 1 its
    data; what is true lies between, the nearer to 1 the stronger the guidance, which draws paths
    together. Velocities that are kept made replay worse than none under strong guidance (trained
    digits, cfg 4, multistep samplers: 2 to 3 dB); these values were better than none, or equal, at
    guidance 1 to 6 (benchmarks/RESULTS.md, "What a replayed call keeps").
    """
    return min(0.15 + 0.2 * math.log2(max(guidance, 1.0)), 0.75)


def level_grid(levels: Levels, end: float, quantity: Quantity = VELOCITY) -> list[float]:
    """The nodes in the quantity's time and, after them, where the run ends: n + 1 numbers.

    ``end`` is the grid's last sigma; a sampler may well ask below it, then the end is 0.
    """
    end = end if end < levels.sigmas[-1] else 0.0
    return [quantity.time(s) for s in (*levels.sigmas, end)]


def calls_of_share(count: int, share: float = SHARE) -> int:
    """How many of so many levels a share is: at least two.

    Raises InvalidInput for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise InvalidInput(f"the share of calls must be above 0 and at most 1, got {share:g}")
    return max(2, round(share * count))


def fixed_calls(
    levels: Levels, times: Sequence[float], calls: int, rule: str = "late"
) -> NextFn | None:
    """``calls`` of the nodes, by a rule of ``CALL_RULES``; None if that is every evaluation.

    times: n + 1, as of ``level_grid``. Raises InvalidInput as ``call_nodes`` does.
    """
    if calls >= len(levels.visits):
        return None
    return listed_calls(call_nodes(times, calls, rule), len(levels.sigmas))


class _Answers:
    """What the sampler is given in place of the network."""

    def __init__(
        self,
        denoise: Denoiser,
        levels: Levels,
        quantity: Quantity,
        times: Sequence[float],
        next_call: NextFn | None,
        convergence: float | None,
        report: CallReport | None,
    ):
        self._denoise, self._levels, self._quantity = denoise, levels, quantity
        self._next_call, self._convergence, self._report = next_call, convergence, report
        self.record = VelocityRecord(times)
        self._due = 0  # the node of the next call
        self._guessed = False  # whether this run has used a forecast that the next call will mend
        self._moved: tuple[int, Tensor] | None = None  # the call that ends a stretch to be mended

    def __call__(self, x: Tensor, sigma: Tensor, **options) -> Tensor:
        s = level(sigma)
        node = self._levels.node(s)
        if node is None:  # never seen there before: nothing is known about it
            return self._denoise(x, sigma, **options)
        if self._next_call is None:
            return self._asked(node, x, sigma, options)
        if node not in self.record and node >= self._due:
            return self._call(node, x, sigma, options)
        if self._moved is not None and self._moved[0] == node:
            by, self._moved = x - self._moved[1], None
            self.record.shift(self._quantity, node, s, by, self._convergence or 0.0)
        self._guessed |= not self.record.is_settled(node)
        return self.record.answer(self._quantity, node, x, s)

    def _asked(self, node: int, x: Tensor, sigma: Tensor, options: dict) -> Tensor:
        denoised = self._denoise(x, sigma, **options)
        if self._report is not None:
            self._report(node, x, denoised, self._levels.sigmas[node])
        return denoised

    def _call(self, node: int, x: Tensor, sigma: Tensor, options: dict) -> Tensor:
        denoised = self._asked(node, x, sigma, options)
        a, b = self._quantity.from_answer(self._levels.sigmas[node])
        self.record.add(node, torch.mul(x, a).add_(denoised, alpha=b))
        assert self._next_call is not None  # else every evaluation is asked for
        self._due = self._next_call(self.record.newest(3), self.record.__getitem__)
        if self._guessed and self._convergence is not None:
            self._moved, self._guessed = (node, x), False
            raise _Again
        return denoised


def sample_fewer_calls(
    sampler: Sampler,
    denoise: Denoiser,
    x: Tensor,
    sigmas: Tensor,
    levels: Levels,
    next_call: NextFn | None,
    *,
    quantity: Quantity = VELOCITY,
    convergence: float | None = CONVERGENCE,
    report: CallReport | None = None,
) -> Tensor:
    """The sampler's result on the whole grid, the network called where ``next_call`` says.

    levels: of ``find_levels`` for this sampler and grid. next_call: as in ``sampling``, on the
    nodes of ``levels``; ``fixed_calls``, ``listed_calls`` and ``adaptive_calls`` make one. None is
    every evaluation: the sampler's own result, bit for bit. The random state ends as it would after
    one run of the sampler.

    convergence: of ``convergence_for``; None leaves all forecasts as they were (no replay).

    A sampler that adds up (``Levels.weights``) is run by its weights: then few tensors of the size
    of x are held however many the calls (benchmarks/RESULTS.md has them by sampler), the sampler's
    own included. Any other one is run again itself, over one value for every call and two x.
    """
    times = level_grid(levels, float(sigmas[-1]), quantity)
    if levels.weights is not None and next_call is not None:
        weights = levels.weights
        run = WeightedRun(
            denoise, x, levels, weights, next_call, times, quantity, convergence, report
        )
        del x
        sigmas.copy_(weights.own)  # what a sampler writes there, its caller may read
        return run.result()
    answers = _Answers(denoise, levels, quantity, times, next_call, convergence, report)
    state = RandomState(x.device)
    while True:
        own = sigmas.clone()
        try:
            x = sampler(answers, x.clone(), own)  # a copy: it may write into it
        except _Again:
            state.restore()
        else:
            sigmas.copy_(own)
            return x
