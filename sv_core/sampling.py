"""From noise to data: samplers are functions of a velocity, a start and a time grid.

Every sampler computes in float32 or better, on the device of x, for any tensor rank, and returns
the dtype of x. ``callback(i, x, v, t)`` is called after each call of the velocity, with the state x
at time t before step i and the velocity there.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .call_rules import adaptive_block, call_nodes
from .errors import InvalidInput
from .interpolant import LINEAR, Interpolant
from .replay import Known, forecast, predict, replay
from .solvers import SolverFn, State, adams_moulton_3, combine, euler

VelocityFn = Callable[[Tensor, Tensor], Tensor]
NoiseFn = Callable[[Tensor], Tensor]
Callback = Callable[[int, Tensor, Tensor, Tensor], None]
StepFn = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def euler_step(x: Tensor, v: Tensor, t: Tensor, r: Tensor) -> Tensor:
    """x + (r - t) v."""
    return x + (r - t) * v


def stable_step(
    interpolant: Interpolant,
    x_t: Tensor,
    v: Tensor,
    t: Tensor,
    r: Tensor,
    noise: float = 0.0,
    noise_fn: NoiseFn = torch.randn_like,
) -> Tensor:
    """One low-variance step t -> r < t from one velocity. [arXiv 2602.05435, StableVS]

    x_r = alpha_r x0^ + sqrt(sigma_r^2 - beta^2) eps^ + beta z,  beta = noise * sigma_r,
    z = noise_fn(x_t) ~ N(0, I), 0 <= noise <= 1. At r = 0 it is x0^.

    On the linear path with noise = 0 this is an Euler step: what saves calls there is the grid.
    Times are 0-d or (b,); x_t and v share any shape.
    """
    a, s, *_ = interpolant.coefficients(r, x_t)
    beta = noise * s
    x_r = interpolant.combine(x_t, v, t, a, (s**2 - beta**2).sqrt())
    return x_r.addcmul_(beta, noise_fn(x_t)) if noise else x_r


def _sample(velocity: VelocityFn, x: Tensor, ts: Tensor, step: StepFn, callback: Callback | None):
    dtype = x.dtype
    x = x.to(torch.promote_types(dtype, torch.float32))
    ts = ts.to(x)
    for i in range(len(ts) - 1):
        v = velocity(x, ts[i])
        if callback is not None:
            callback(i, x, v, ts[i])
        x = step(x, v, ts[i], ts[i + 1])
    return x.to(dtype)


def sample_euler(
    velocity: VelocityFn, x: Tensor, ts: Tensor, *, callback: Callback | None = None
) -> Tensor:
    """Integrate dx/dt = v from ts[0] to ts[-1] with Euler steps: len(ts) - 1 calls."""
    return _sample(velocity, x, ts, euler_step, callback)


def sample_stable(
    velocity: VelocityFn,
    x: Tensor,
    ts: Tensor,
    *,
    interpolant: Interpolant = LINEAR,
    noise: float = 0.0,
    noise_fn: NoiseFn = torch.randn_like,
    callback: Callback | None = None,
) -> Tensor:
    """``stable_step`` over a whole grid: len(ts) - 1 calls. [arXiv 2602.05435, StableVS]

    The paper uses it below the split, after any solver above it; with noise = 0 on the linear path
    it equals ``sample_euler``.
    """

    def step(x: Tensor, v: Tensor, t: Tensor, r: Tensor) -> Tensor:
        return stable_step(interpolant, x, v, t, r, noise, noise_fn)

    return _sample(velocity, x, ts, step, callback)


class StraightPath:
    """Maps any interpolant's path to the linear one, at the nodes of one grid.

    s = sigma / (alpha + sigma), y = x / (alpha + sigma) and u = eps_hat - x0_hat obey dy/ds = u and
    y = (1 - s) x0 + s eps; on the linear path they are t, x and v, bit for bit.
    """

    def __init__(self, interpolant: Interpolant, ts: Tensor):
        ts = ts.cpu().double()  # in this order: MPS has no float64
        a, s, da, ds = interpolant.coefficients(ts, ts)
        self.scale: list[float] = (a + s).tolist()
        self.times: list[float] = (s / (a + s)).tolist()
        """The grid in s."""
        # y' and s' by the quotient rule: u = ((a + s) v - (a + s)' x) / (a s' - s a').
        determinant = a * ds - s * da
        self._of_v: list[float] = ((a + s) / determinant).tolist()
        self._of_x: list[float] = ((da + ds) / determinant).tolist()

    def straight(self, x: Tensor, k: int) -> Tensor:
        """y at node k; on the linear path x itself."""
        return x if self.scale[k] == 1 else x / self.scale[k]

    def curved(self, y: Tensor, k: int) -> Tensor:
        """x at node k; on the linear path y itself."""
        return y if self.scale[k] == 1 else self.scale[k] * y

    def velocity(self, x: Tensor, v: Tensor, k: int) -> Tensor:
        """u at node k, in the dtype of x; on the linear path v itself."""
        v = v.to(x.dtype)
        if self._of_v[k] == 1 and self._of_x[k] == 0:
            return v
        return combine([self._of_v[k], -self._of_x[k]], [v, x])


NextFn = Callable[[Sequence[int], Callable[[int], Tensor]], int]
"""Chooses the node of the next call, from the nodes of the newest call and the two before it, and
the velocity at each."""


def _march(
    velocity: VelocityFn,
    x: Tensor,
    ts: Tensor,
    interpolant: Interpolant,
    solver: SolverFn,
    next_call: NextFn,
    callback: Callback | None,
) -> Tensor:
    dtype = x.dtype
    x = x.to(torch.promote_types(dtype, torch.float32))
    ts = ts.to(x)
    path = StraightPath(interpolant, ts)
    times, last = path.times, len(ts) - 1

    def call(y: Tensor, k: int) -> Tensor:
        x_k = path.curved(y, k)
        v = velocity(x_k, ts[k])
        if callback is not None:
            callback(k, x_k, v, ts[k])
        return path.velocity(x_k, v, k)

    y = path.straight(x, 0)
    state, known = State(y), ()
    start = k = 0  # the nodes of state and of y
    del x
    while k < last:
        known = ((k, call(y, k)), *known[:2])
        if k > start:
            del y  # freed before the next state is made: states take most of the memory
            state, start = replay(solver, state, known, times, start, k), k
        following = next_call([node for node, _ in known], dict(known).__getitem__)
        known = known[:2]
        if following == k + 1:
            state, start = solver(state, known[0][1], times[k], times[k + 1]), k + 1
            y = state.x
        else:
            y = predict(solver, state, known, times, k, following)
        k = following
    return path.curved(y, last).to(dtype)


def listed_calls(nodes: Sequence[int], steps: int) -> NextFn:
    """Calls at the given nodes. Raises InvalidInput for a list that does not fit the grid."""
    if list(nodes) != sorted(set(nodes)) or not nodes or nodes[0] != 0 or nodes[-1] >= steps:
        raise InvalidInput(
            f"the list of calls must ascend from 0 and stay below {steps}, the steps of this grid, "
            f"got {list(nodes)}: it belongs to another grid"
        )
    # A sampler that visits its levels out of order may have asked between two of the list.
    return lambda called, velocity: next((k for k in nodes if k > called[0]), steps)


def _curvature(known: Known, times: Sequence[float], parts: Sequence[int]) -> float:
    """The relative distance of the newest velocity from the line through the two before it.

    rms(v - forecast) / rms(v) / ((t0 - t)(t1 - t)), per sample, then the mean over the batch, then
    the most over the parts.
    """
    (k, v), *before = known
    error = (v - forecast(times, tuple(before), k)).flatten(1).square()
    sizes = parts or [error.shape[1]]
    errors = torch.stack([part.mean(1) for part in error.split(sizes, 1)])
    squares = torch.stack([part.mean(1) for part in v.flatten(1).square().split(sizes, 1)])
    # The clamp keeps the ratio finite where the velocity is exactly 0.
    squares = squares.clamp_min(torch.finfo(v.dtype).tiny)
    distance = (times[before[0][0]] - times[k]) * (times[before[1][0]] - times[k])
    return float((errors / squares).sqrt().mean(1).max()) / distance


def adaptive_calls(times: Sequence[float], tolerance: float, parts: Sequence[int] = ()) -> NextFn:
    """Calls by ``adaptive_block``. Raises InvalidInput unless the tolerance is positive.

    ``parts``: how many numbers of a sample belong to each of several latents in one row, such as
    picture and sound. Each is judged by its own size, and the worst decides.
    """
    if not tolerance > 0:
        raise InvalidInput(f"tolerance must be above 0 (0.02 is usual), got {tolerance:g}")

    def next_call(called: Sequence[int], velocity: Callable[[int], Tensor]) -> int:
        curvature = None
        if len(called) == 3:
            curvature = _curvature(tuple((k, velocity(k)) for k in called), times, parts)
        return called[0] + adaptive_block(times, called, curvature, tolerance)

    return next_call


def sample_forecast(
    velocity: VelocityFn,
    x: Tensor,
    ts: Tensor,
    *,
    solver: SolverFn = euler,
    calls: int = 14,
    rule: str = "auto",
    nodes: Sequence[int] | None = None,
    tolerance: float | None = None,
    parts: Sequence[int] = (),
    interpolant: Interpolant = LINEAR,
    callback: Callback | None = None,
) -> Tensor:
    """The base solver's result on the whole grid from calls at some of its nodes.

    Between calls the solver steps on the line through the last two real velocities. When the next
    real one arrives, the block is replayed from its start on the parabola through the last three.
    With a call at every node it is the base solver, bit for bit. Deterministic.

    The calls are at ``nodes`` if given (calibrated, or a list to replay); as the ``tolerance``
    requires if given (adaptive: 0.03 draft, 0.02, 0.01 quality; the mean over the batch decides,
    and the worst of the ``parts``, as in ``adaptive_calls``); otherwise by ``calls`` and ``rule``,
    a name in ``call_rules.CALL_RULES``. The callback fires at the real calls, and its first
    argument is their node.

    The tensor that ``velocity`` returns is kept until the second call after it, so it must be a new
    one each time. In addition to the base solver's tensors at most five of the size of x are
    held; the steps of a block are one linear combination of them.

    Raises InvalidInput for a list that does not fit the grid, fewer than 2 calls, an unknown rule.
    """
    times = StraightPath(interpolant, ts).times
    if nodes is None and tolerance is not None:
        next_call = adaptive_calls(times, tolerance, parts)
    else:
        if nodes is None:
            nodes = call_nodes(times, calls, rule)
        next_call = listed_calls(nodes, len(ts) - 1)
    return _march(velocity, x, ts, interpolant, solver, next_call, callback)


def sample_ode(
    velocity: VelocityFn,
    x: Tensor,
    ts: Tensor,
    *,
    interpolant: Interpolant = LINEAR,
    callback: Callback | None = None,
) -> Tensor:
    """The solution of dx/dt = v, order 3 at one call a step: ``adams_moulton_3`` over the grid.

    Aims at the exact solution, not at another sampler's result; best on ``schedules.ode_grid``.
    """

    def next_call(called: Sequence[int], velocity: Callable[[int], Tensor]) -> int:
        return called[0] + 1

    return _march(velocity, x, ts, interpolant, adams_moulton_3, next_call, callback)
