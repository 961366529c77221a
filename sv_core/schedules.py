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
    """shift(u^1.75, 4) of the even grid u: where ``sample_ode`` wants its nodes for any model.

    Dense at both ends: decisions near noise, details near data. Chosen by measurement
    (benchmarks/samplers.py) among powers 1 to 2 and shifts 1.5 to 6.
    """
    return shift(uniform_grid(steps) ** 1.75, 4.0)


def qwen_mu(tokens: int) -> float:
    """Qwen-Image's log-shift for a picture: the line through mu(256) = 0.5 and mu(8192) = 0.9.

    tokens = height / 16 x width / 16: 4096 for 1024 x 1024, mu 0.6935. [its official pipeline]
    """
    return 0.5 + (0.9 - 0.5) * (tokens - 256) / (8192 - 256)


def qwen_grid(steps: int, mu: float = qwen_mu(4096), terminal: float = 0.02) -> Tensor:
    """Qwen-Image's own grid, which the paper uses: ``shift`` by exp(mu), then a stretch, then 0.

    The stretch 1 - (1 - t)(1 - terminal)/(1 - t_last) brings the last node above 0 to ``terminal``;
    a single step has nothing to stretch. ``steps`` + 1 float64 nodes.
    """
    ts = shift(uniform_grid(steps), math.exp(mu))
    if steps > 1:
        ts[:-1] = 1 - (1 - ts[:-1]) * (1 - terminal) / (1 - ts[-2])
    return ts


def with_node(ts: Tensor, t: float) -> Tensor:
    """The grid with the nearest of its inner nodes moved to t, where one model hands to another.

    As many steps as before; only a grid of a single step gets a second one. A t that the grid does
    not pass leaves it as it is.
    """
    if not ts[-1] < t < ts[0]:
        return ts.clone()
    if len(ts) == 2:
        return torch.cat([ts[:1], ts.new_tensor([t]), ts[1:]])
    moved = ts.clone()
    moved[1 + (ts[1:-1] - t).abs().argmin()] = t
    return moved


def split_index(ts: Tensor, split: float) -> int:
    """How many nodes lie in the high-variance regime t >= split: ts[:k] is high, ts[k:] low."""
    return int((ts >= split).sum())


def low_count(ts: Tensor, split: float) -> int:
    """How many model calls of the grid are in the low-variance regime 0 < t < split."""
    return len(ts) - 1 - split_index(ts, split)


def _flow_match_span(count: int, keep: int) -> Tensor:
    # Stops one node early: the last native node below the split is only kept when all are.
    return torch.linspace(0, count - (1 if keep == count else 2), keep, dtype=torch.float64)


def _unipc_span(count: int, keep: int) -> Tensor:
    return torch.linspace(0, count - 1, keep, dtype=torch.float64)


RULES = {"flow_match": _flow_match_span, "unipc": _unipc_span}


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
    if rule not in RULES:
        raise InvalidInput(f"unknown index rule {rule!r} (have: {', '.join(RULES)})")
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
    # K = 1 with torch.linspace is its start, index 0, as both rules want.
    low = high + torch.round(RULES[rule](count, low_steps)).long()
    keep = torch.cat([torch.arange(high), low, torch.tensor([len(ts) - 1])])
    return ts[keep.to(ts.device)]


def split_to_length(
    native: Callable[[int], Tensor], calls: int, split: float, rule: str = "flow_match"
) -> Tensor:
    """A regime-split grid of exactly ``calls`` steps: (calls+1,).

    native(n) is the model's grid of n steps. Of the grids with 1.5 x calls steps downwards, the
    first that leaves its regime below the split at least the paper's share of calls (9 of 30
    steps, 0.3 n) is thinned: at shift 3 and 20 calls that is the paper's 30 steps and 11 + 9. Where
    no longer grid fits (most steps above the split, or very few calls) native(calls) comes back.
    """
    for steps in range(round(1.5 * calls), calls, -1):
        ts = native(steps)
        low_steps = calls - split_index(ts, split)
        # Hosts' tables repeat values in grids of very many steps: those are no grids.
        if low_steps >= max(1, round(0.3 * steps)) and (ts.diff() < 0).all():
            return regime_split(ts, split, low_steps, rule)
    return native(calls)
