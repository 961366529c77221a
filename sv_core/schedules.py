"""Time grids: 1-D tensors that descend and end at 0."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .errors import InvalidInput


def uniform_grid(steps: int) -> Tensor:
    """1, 1 - 1/n, ..., 1/n, 0: ``steps`` + 1 float64 nodes."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def shift(ts: Tensor, factor: float) -> Tensor:
    """t -> s t / (1 + (s - 1) t): more nodes near noise for s > 1. [Esser et al. 2024, eq. 23]

    0 and 1 stay, shift(shift(ts, s), 1/s) is ts. Flux's ``mu`` is factor = exp(mu).
    """
    # The same value as s t / (1 + (s - 1) t), which misses 1 by a rounding error at t = 1.
    return factor * ts / (factor * ts + (1 - ts))


def ode_grid(steps: int) -> Tensor:
    """shift(u^1.75, 4) of the even grid u: the best nodes for ``sample_ode``, whatever the model.

    Dense at both ends: decisions near noise, details near data. Chosen by measurement
    (benchmarks/samplers.py) among powers 1 to 2 and shifts 1.5 to 6.
    """
    return shift(uniform_grid(steps) ** 1.75, 4.0)


def qwen_mu(tokens: int) -> float:
    """Qwen-Image's log-shift for a picture: the line through mu(256) = 0.5 and mu(8192) = 0.9.

    tokens = height / 16 x width / 16: 4096 for 1024 x 1024, mu 0.6935. [its official pipeline]
    """
    return 0.5 + (0.9 - 0.5) * (tokens - 256) / (8192 - 256)


MOST_MU = 8.0
"""exp(8) is a shift of 2981; Qwen-Image's own pictures, of 256 to 8192 tokens, have 0.5 to 0.9."""


def qwen_grid(steps: int, mu: float = qwen_mu(4096), terminal: float = 0.02) -> Tensor:
    """Qwen-Image's own grid, which the paper uses: ``shift`` by exp(mu), then a stretch, then 0.

    The stretch 1 - (1 - t)(1 - terminal)/(1 - t_last) brings the last node above 0 to ``terminal``;
    a single step has nothing to stretch. ``steps`` + 1 float64 nodes. Raises InvalidInput for a mu
    with which the nodes above 0 are no longer apart in float32.
    """
    if not abs(mu) <= MOST_MU:
        raise InvalidInput(
            f"the picture is too large for Qwen-Image's own grid (mu {mu:.4g}): make it smaller, "
            "or choose another preset"
        )
    ts = shift(uniform_grid(steps), math.exp(mu))
    if steps > 1:
        ts[:-1] = 1 - (1 - ts[:-1]) * (1 - terminal) / (1 - ts[-2])
    return ts


def with_node(ts: Tensor, t: float) -> Tensor:
    """The grid with its inner node nearest to t moved to t, where a second expert takes over.

    The number of steps stays, except that a grid of a single step gets a second one. If t does not
    lie inside the grid, it is returned unchanged.
    """
    if not ts[-1] < t < ts[0]:
        return ts.clone()
    if len(ts) == 2:
        return torch.cat([ts[:1], ts.new_tensor([t]), ts[1:]])
    moved = ts.clone()
    moved[1 + (ts[1:-1] - t).abs().argmin()] = t
    return moved


def split_index(ts: Tensor, split: float) -> int:
    """The number k of nodes in the high-variance regime t >= split: ts[:k] is high, ts[k:] low."""
    return int((ts >= split).sum())


def low_count(ts: Tensor, split: float) -> int:
    """The number of the grid's model calls in the low-variance regime 0 < t < split."""
    return len(ts) - 1 - split_index(ts, split)


def _flow_match_span(count: int, keep: int) -> Tensor:
    """Fractional indices of ``keep`` of ``count`` low nodes; the last node is left out."""
    # Only when all nodes are kept, the last one is.
    return torch.linspace(0, count - (1 if keep == count else 2), keep, dtype=torch.float64)


def _unipc_span(count: int, keep: int) -> Tensor:
    """Fractional indices of ``keep`` of ``count`` low nodes, from the first to the last."""
    return torch.linspace(0, count - 1, keep, dtype=torch.float64)


THINNING_RULES = {"flow_match": _flow_match_span, "unipc": _unipc_span}
"""The rules of ``regime_split`` for which nodes below the split are kept."""


def regime_split(ts: Tensor, split: float, low_steps: int, rule: str = "flow_match") -> Tensor:
    """Keep every node t >= split, ``low_steps`` of the L nodes below it, and the final 0.

    The kept low nodes have indices round(linspace(0, L-2, K)) (rule ``flow_match``: SD3.5, Flux,
    Qwen-Image) or round(linspace(0, L-1, K)) (rule ``unipc``: Wan), K = low_steps; K = 1 keeps the
    first. [arXiv 2602.05435, StableVS schedule; paper: 30 steps, split 0.85, K = 9]

    ts (n+1,) descending, ending at 0 -> (m+1,) of the same dtype and device, strictly descending,
    a subset of ts. Beyond the paper: K = L keeps the grid as it is; a grid without nodes below the
    split comes back unchanged; a grid that begins below it (denoise < 1) is thinned as a whole.

    Raises InvalidInput for a split outside (0, 1), an unknown rule, and K outside 1..L when L > 0.
    """
    if not 0 < split < 1:
        raise InvalidInput(f"split must lie between 0 and 1 (the paper uses 0.85), got {split:g}")
    if rule not in THINNING_RULES:
        raise InvalidInput(f"unknown index rule {rule!r:.60} (have: {', '.join(THINNING_RULES)})")
    count, high = low_count(ts, split), split_index(ts, split)
    if low_steps < 1:
        raise InvalidInput(f"low_steps must be at least 1, got {low_steps}")
    if count == 0:
        return ts.clone()
    if low_steps > count:
        raise InvalidInput(
            f"low_steps is {low_steps}, but only {count} of the grid's {len(ts) - 1} steps lie "
            f"below split {split:g}: choose 1 to {count}, or more steps"
        )
    # For K = 1 torch.linspace gives its start, index 0, which both rules keep.
    low = high + torch.round(THINNING_RULES[rule](count, low_steps)).long()
    keep = torch.cat([torch.arange(high), low, torch.tensor([len(ts) - 1])])
    return ts[keep.to(ts.device)]


LONGEST = 1000
"""Steps of a grid that is worth thinning: tables of sigmas have no more entries."""


def split_to_length(
    native: Callable[[int], Tensor], calls: int, split: float, rule: str = "flow_match"
) -> Tensor:
    """A regime-split grid of exactly ``calls`` steps: (calls+1,).

    native(n) is the model's grid of n steps. Grids of 1.5 x calls steps and fewer are tried, and
    the first one is thinned that has at least the paper's share of calls below the split (9 of 30
    steps, 0.3 n): at shift 3 and 20 calls that is the paper's 30 steps and 11 + 9. If none fits
    (most steps lie above the split, or calls are very few), native(calls) is returned.
    """
    for steps in range(min(round(1.5 * calls), LONGEST), calls, -1):
        ts = native(steps)
        low_steps = calls - split_index(ts, split)
        # Tables of sigmas repeat values when the steps are very many; such grids are skipped.
        if low_steps >= max(1, round(0.3 * steps)) and (ts.diff() < 0).all():
            return regime_split(ts, split, low_steps, rule)
    return native(calls)
