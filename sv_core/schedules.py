"""Time grids: 1-D tensors that descend and end at 0."""

import torch
from torch import Tensor


def uniform_grid(steps: int) -> Tensor:
    """1, 1 - 1/n, ..., 1/n, 0: ``steps`` + 1 float64 nodes."""
    return torch.linspace(1, 0, steps + 1, dtype=torch.float64)


def shift(ts: Tensor, factor: float) -> Tensor:
    """t -> s t / (1 + (s - 1) t): more nodes near noise for s > 1. [Esser et al. 2024, eq. 23]

    0 and 1 stay, shift(shift(ts, s), 1/s) is ts. Flux's ``mu`` is factor = exp(mu).
    """
    # The same value as s t / (1 + (s - 1) t), which misses 1 by a rounding error at t = 1.
    return factor * ts / (factor * ts + (1 - ts))


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

    Raises ValueError for a split outside (0, 1), an unknown rule, and K outside 1..L when L > 0.
    """
    if not 0 < split < 1:
        raise ValueError(f"split must lie between 0 and 1 (the paper uses 0.85), got {split:g}")
    if rule not in RULES:
        raise ValueError(f"unknown index rule {rule!r} (have: {', '.join(RULES)})")
    count, high = low_count(ts, split), split_index(ts, split)
    if low_steps < 1:
        raise ValueError(f"low_steps must be at least 1, got {low_steps}")
    if count == 0:
        return ts.clone()
    if low_steps > count:
        raise ValueError(
            f"low_steps is {low_steps}, but only {count} of the grid's {len(ts) - 1} steps lie "
            f"below split {split:g}: choose 1 to {count}, or more steps"
        )
    # K = 1 with torch.linspace is its start, index 0, as both rules want.
    low = high + torch.round(RULES[rule](count, low_steps)).long()
    keep = torch.cat([torch.arange(high), low, torch.tensor([len(ts) - 1])])
    return ts[keep.to(ts.device)]
