"""Rules for the nodes of a grid at which the network is called.

``ts`` here is a grid in the linear path's time: n + 1 descending values, the last one where the run
ends. A rule returns indices of nodes: they ascend from 0 and are below n.
"""

from collections.abc import Callable, Sequence

import numpy as np

from .errors import InvalidInput

HIGH = 0.85
"""The mode that a sample belongs to is decided at times above this."""
TERMINAL = 0.03
"""A call at a time below this changes the result very little."""

EARLY = 4.0
"""The weight ``early`` of ``density`` in ``early_rule``."""

Rule = Callable[[np.ndarray, int], list[int]]


def _last(ts: np.ndarray) -> int:
    """The last node with a time of at least TERMINAL; the grid's last one if there is none."""
    worth = np.flatnonzero(ts[:-1] >= TERMINAL)
    return int(worth[-1]) if len(worth) else len(ts) - 2


def density(ts: np.ndarray, calls: int, early: float = 0.0) -> np.ndarray:
    """The share of the calls to make before each node: (n+1,), from 0 to 1 at the last call.

    Interval i weighs (t_i - t_{i+1}) (1 + clip((t_mid - .6) / .3, 0, 1)), normalised; a fifth of
    the total is spread evenly; none exceeds total / (calls - 1), which is one call's share.
    ``early`` adds early x clip((t_mid - .8) / .2, 0, 1)^2 to the factor.
    """
    last = _last(ts)
    if last == 0:  # no interval lies before the last call
        return np.append(0.0, np.ones(len(ts) - 1))
    steps, middle = -np.diff(ts[: last + 1]), (ts[:last] + ts[1 : last + 1]) / 2
    factor = 1 + np.clip((middle - 0.6) / 0.3, 0, 1)
    factor = factor + early * np.clip((middle - 0.8) / 0.2, 0, 1) ** 2
    weight = steps * factor
    weight = 0.8 * weight / weight.sum() + 0.2 / last
    weight = np.minimum(weight, weight.sum() / (calls - 1))
    share = np.concatenate([[0.0], np.cumsum(weight) / weight.sum()])
    return np.concatenate([share, np.ones(len(ts) - len(share))])


def _quantiles(share: np.ndarray, last: int, calls: int) -> list[int]:
    """The nodes nearest to equal quantiles of ``share``, each of them once."""
    if calls > last:
        return list(range(calls))
    nodes: list[int] = []
    for i, quantile in enumerate(np.linspace(0, 1, calls)):
        nearest = int(np.abs(share[: last + 1] - quantile).argmin())
        # Strictly ascending, and room for those that follow.
        lowest = nodes[-1] + 1 if nodes else 0
        nodes.append(min(max(nearest, lowest), last - (calls - 1 - i)))
    return nodes


def density_rule(ts: np.ndarray, calls: int) -> list[int]:
    """The nodes nearest to ``calls`` equal quantiles of ``density``; ends at the last node >= .03.

    Shift 3, 30 steps, 10 calls: 0 5 9 12 16 19 22 25 27 29.
    """
    return _quantiles(density(ts, calls), _last(ts), calls)


def early_rule(ts: np.ndarray, calls: int) -> list[int]:
    """``density_rule`` with up to five times the density near t = 1.

    For flows whose modes are decided early: at equal calls fewer samples change their mode, and the
    worst case is better; flows without early decisions lose some fidelity. Shift 3, 30 steps, 12
    calls: 0 2 4 7 10 13 16 19 23 25 27 29.
    """
    return _quantiles(density(ts, calls, EARLY), _last(ts), calls)


def auto_rule(ts: np.ndarray, calls: int) -> list[int]:
    """``early_rule`` from 12 calls on, ``density_rule`` below.

    With 12 calls samples fall into the same modes as on the full grid; with fewer, the calls that
    this takes are missed more in the rest of the grid (benchmarks/RESULTS.md).
    """
    return early_rule(ts, calls) if calls >= 12 else density_rule(ts, calls)


def late_rule(ts: np.ndarray, calls: int) -> list[int]:
    """``auto_rule`` with calls at each of the last three nodes, from 7 calls on.

    Trained networks turn there: details are decided. Shift 3, 30 steps, 15 calls:
    0 2 4 5 8 10 13 15 18 21 23 25 27 28 29.
    """
    last = _last(ts)
    if calls < 7 or calls > last:
        return auto_rule(ts, calls)
    rule = early_rule if calls >= 12 else density_rule
    return [*rule(ts[:last], calls - 2), last - 1, last]


def guarded_rule(ts: np.ndarray, calls: int) -> list[int]:
    """Nodes 0, 1 and every second while t >= .85, then ever closer: L (1 - (1 - u)^1.3).

    For flows whose modes are decided at high noise. SD3.5's 30-step grid, 14 calls:
    0 1 2 4 6 8 10 11 15 18 21 24 26 28. Raises InvalidInput when fewer than two calls are left for
    the nodes below .85.
    """
    last, high = _last(ts), int((ts[:-1] >= HIGH).sum())
    head = [0, 1, *range(2, high, 2)]
    first = max(high, 2)
    room = max(last + 1 - first, 0)
    low = min(calls - len(head), room)
    if low < min(2, room):
        raise InvalidInput(
            f"the guarded rule needs at least {len(head) + min(2, room)} calls on this grid, got "
            f"{calls}: use more calls, or the density rule"
        )
    u = np.linspace(0, 1, low)
    tail = first + np.round((room - 1) * (1 - (1 - u) ** 1.3)).astype(int)
    # Towards the end the profile is denser than the grid; no node may occur twice.
    return head + np.minimum(tail, np.arange(last + 1 - low, last + 1)).tolist()


def safe_rule(ts: np.ndarray, calls: int) -> list[int]:
    """Every node with t >= .85, and six below by ``density_rule``, whatever ``calls`` is.

    For flows whose modes are decided at many noise levels.
    """
    high = int((ts[:-1] >= HIGH).sum())
    low = ts[high:]
    tail = density_rule(low, 6) if len(low) > 7 else range(len(low) - 1)
    return [*range(high), *(high + i for i in tail)]


CALL_RULES: dict[str, Rule] = {
    "auto": auto_rule,
    "density": density_rule,
    "early": early_rule,
    "late": late_rule,
    "guarded": guarded_rule,
    "safe": safe_rule,
}


def call_nodes(ts: Sequence[float] | np.ndarray, calls: int, rule: str = "auto") -> list[int]:
    """The nodes at which to call by a named rule: ``calls`` of them, or all of a shorter grid.

    Raises InvalidInput for an unknown rule, fewer than two calls, and a rule that needs more.
    """
    if rule not in CALL_RULES:
        raise InvalidInput(f"unknown rule {rule!r:.60} (have: {', '.join(CALL_RULES)})")
    if calls < 2:
        raise InvalidInput(f"calls must be at least 2, got {calls}")
    steps = len(ts) - 1
    if calls >= steps:
        return list(range(steps))
    nodes = CALL_RULES[rule](np.asarray(ts, dtype=np.float64), calls)
    if rule != "safe" and len(nodes) < calls:
        spare = [i for i in range(steps) if i not in nodes]
        nodes = sorted([*nodes, *spare[: calls - len(nodes)]])
    return nodes


def adaptive_block(
    ts: Sequence[float], called: Sequence[int], curvature: float | None, tolerance: float
) -> int:
    """The number of steps to the next call of mode adaptive, from the last velocity's curvature.

    called: the nodes called so far, newest first. curvature: rms(v - linear forecast) / rms(v) /
    ((t0 - t)(t1 - t)), with t0 and t1 the times of the two calls before; None with fewer calls.

    The longest block h with curvature (h^3 / 3 + h^2 h_prev / 2) <= tolerance, of at most six steps
    (two at t >= .85) and twice the previous block. A block of several steps that ends below .3
    reaches at most to t / 2, and one that ends the run begins at or below .12. The first two blocks
    are single steps.
    """
    steps, k = len(ts) - 1, called[0]
    if curvature is None:
        return 1
    t, before = ts[k], ts[called[1]] - ts[k]
    longest = min(6, 2 * (k - called[1]), steps - k, 2 if t >= HIGH else 6)
    block = 1
    for m in range(2, longest + 1):
        r = ts[k + m]
        h = t - r
        if curvature * (h**3 / 3 + h**2 * before / 2) > tolerance:
            break
        if (t > 0.12) if k + m == steps else (r < 0.3 and r < t / 2):
            break
        block = m
    return block
