"""MeanFlow: learn the average velocity over [r, t], and go from noise to data in one call.

u(x_t, r, t) (t - r) = x_t - x_r along the flow, hence u + (t - r) du/dt = v, with d/dt the
derivative along the flow: tangent (v, 0, 1) in (x, r, t). Training replaces the unknown v by a
noisy one, twice: as the regression target and in the tangent. [Geng et al. 2025, arXiv 2505.13447;
the control variate in the tangent: arXiv 2605.09235]

u is any callable ``u(x, r, t)`` with r, t (b,) in training and 0-d in ``sample_meanflow``. With
J = (t - r) du/dx - I and v' = v_c - v the noise of the conditional velocity, the target's noise is
-(J v') for MeanFlow and v' when the tangent is free of noise.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .interpolant import match_dims
from .sampling import Callback

AverageVelocityFn = Callable[[Tensor, Tensor, Tensor], Tensor]
"""u(x, r, t) -> average velocity, shaped as x."""

Derivative = Callable[[AverageVelocityFn, Tensor, Tensor, Tensor, Tensor, float], Tensor]
"""derivative(u, x, r, t, dx, dt): the derivative of u along the tangent (dx, 0, dt)."""


@torch.no_grad()
def exact_derivative(
    u: AverageVelocityFn, x: Tensor, r: Tensor, t: Tensor, dx: Tensor, dt: float
) -> Tensor:
    """Forward-mode: one pass, about three times the cost of u (SiT on CPU), without a graph.

    Attention runs in PyTorch's math kernel, the one that has a forward-mode derivative. Raises
    RuntimeError when another operation of u has none.
    """
    # Forward mode writes to memory laid out like its inputs, and that of an expanded one overlaps.
    x, r, t = x.contiguous(), r.contiguous(), t.contiguous()
    tangents = (dx.to(x), torch.zeros_like(r), torch.full_like(t, dt))
    with sdpa_kernel(SDPBackend.MATH):
        return torch.func.jvp(u, (x, r, t), tangents)[1]


@torch.no_grad()
def difference_derivative(
    u: AverageVelocityFn, x: Tensor, r: Tensor, t: Tensor, dx: Tensor, dt: float, step: float = 5e-3
) -> Tensor:
    """(u(x + h dx, r, t + h dt) - u(x - h dx, r, t - h dt)) / 2h: two passes, any kernel.

    In float32 without autocast, because in half precision rounding would exceed the difference. h
    is near the cube root of float32's precision, where truncation and rounding errors are alike. u
    is evaluated up to h outside of r <= t <= 1.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, r, t, dx = (a.to(dtype) for a in (x, r, t, dx))
    with torch.autocast(x.device.type, enabled=False):
        ahead = u(x + step * dx, r, t + step * dt)
        behind = u(x - step * dx, r, t - step * dt)
    return (ahead - behind) / (2 * step)


def available_derivative(
    u: AverageVelocityFn, x: Tensor, r: Tensor, t: Tensor, dx: Tensor, dt: float
) -> Tensor:
    """``exact_derivative`` where u has one, else ``difference_derivative`` and a RuntimeWarning."""
    try:
        return exact_derivative(u, x, r, t, dx, dt)
    except RuntimeError as e:  # messages differ between operations; a real fault recurs below
        warnings.warn(
            "MeanFlow's derivative is a central difference in float32, about 1e-4 from exact, "
            f"because the exact one failed: {str(e).splitlines()[0]}",
            RuntimeWarning,
            stacklevel=2,
        )
        return difference_derivative(u, x, r, t, dx, dt)


CAP = 0.5
"""The largest beta of ``auto``: above it the FID of images rises. [arXiv 2605.09235]"""

DERIVATIVES: dict[str, Derivative] = {
    "exact": exact_derivative,
    "difference": difference_derivative,
    "available": available_derivative,
}


def mean_velocity_target(
    u: AverageVelocityFn,
    x_t: Tensor,
    r: Tensor,
    t: Tensor,
    v: Tensor,
    *,
    v_hat: Tensor | None = None,
    beta: float | Tensor = 0.0,
    derivative: Derivative = exact_derivative,
) -> Tensor:
    """v - (t - r) D u along (v~, 0, 1), v~ = (1 - beta) v + beta v_hat.

    Eq. (4)'s target, whose fixed point is the identity, Eq. (3); the tangent is sec. 3.2's.
    [arXiv 2605.09235]

    x_t, v, v_hat (b, ...), r <= t (b,) -> (b, ...), without a graph. v is the conditional velocity
    or the stable one (``targets``), the latter in target and tangent alike. v_hat estimates the
    marginal velocity, u_EMA(x_t, t, t); only the tangent is mixed with it. beta = 0 is MeanFlow; at
    1 the derivative is free of the sample's noise but has the full error of v_hat.

    For rows with r = t the target is v: leave them out of the call to save their derivative.
    """
    tangent = v if v_hat is None else (1 - beta) * v + beta * v_hat
    return (v - match_dims(t - r, v) * derivative(u, x_t, r, t, tangent, 1.0)).detach()


def optimal_beta(kappa: float, noise: float, bias: float) -> float:
    """The beta with the smallest target error when J = kappa I. [arXiv 2605.09235, Theorem 4]

    kappa / (kappa + 1) * noise / (noise + bias) with noise = s^2 d = E|v'|^2 and
    bias = |b|^2 = |v_hat - v|^2; 0 for kappa <= 0, where mixing only adds noise.
    """
    return kappa / (kappa + 1) * noise / (noise + bias) if kappa > 0 else 0.0


def control_coefficient(
    u: AverageVelocityFn,
    x_t: Tensor,
    r: Tensor,
    t: Tensor,
    v: Tensor,
    v_hat: Tensor,
    *,
    derivative: Derivative = exact_derivative,
) -> Tensor:
    """The signed estimate of the best beta from one batch, 0-d in [0, 1]; ours.

    beta = 1 - sum <v', w> / sum |w|^2 with v' = v - v_hat and w = (t - r) du/dx v', the noise that
    enters by the tangent: it minimises |v' - (1 - beta) w|^2. Unlike Tr(J J^T) it depends on the
    sign of kappa; a trained flow map has kappa < 0, where beta is 0.

    It is 0 also for sum <v', w> <= 0 (kappa < -1, a map that expands): the estimate would then be
    beta >= 1, which is right only if v_hat has no error at all.
    """
    noise = v - v_hat
    w = match_dims(t - r, v) * derivative(u, x_t, r, t, noise, 0.0)
    along = (noise * w).sum()
    # Where along > 0, w is not 0: the clamp only keeps the unused branch free of 0 / 0.
    beta = 1 - along / w.square().sum().clamp_min(torch.finfo(w.dtype).tiny)
    return torch.where(along > 0, beta.clamp(0, 1), 0.0)


def hutchinson_trace(
    u: AverageVelocityFn,
    x_t: Tensor,
    r: Tensor,
    t: Tensor,
    generator: Generator,
    *,
    derivative: Derivative = exact_derivative,
) -> Tensor:
    """An unbiased estimate of Tr(J J^T) / d from one probe, |J z|^2 / d with signs z = +-1: (b,).

    The noise of MeanFlow's target is that of v times this: Eq. (5)'s trace where v's noise is the
    same in all directions. [arXiv 2605.09235; Hutchinson 1989]
    """
    z = torch.randint(2, x_t.shape, generator=generator, device=generator.device).to(x_t) * 2 - 1
    j_z = match_dims(t - r, z) * derivative(u, x_t, r, t, z, 0.0) - z
    return j_z.square().flatten(1).mean(1)


def trace_weight(trace: Tensor, t: Tensor) -> Tensor:
    """1 / (1 + t^4 Tr(J J^T)/d): the trace weight, small where the target is noisy.

    [arXiv 2605.09235] ``trace`` is that of ``hutchinson_trace``. Not to be combined with
    ``adaptive_weight``, which compensates for the same noise.
    """
    return 1 / (1 + t**4 * trace)


def adaptive_weight(error: Tensor, power: float = 1.0) -> Tensor:
    """1 / (error + 0.01)^p of each sample's own squared error, without a graph: (b,) -> (b,).

    With p = 1 all samples contribute alike to the gradient; 0.01 bounds the weight. [MeanFlow]
    """
    return (error.detach() + 0.01) ** -power


def anchor_error(
    u: AverageVelocityFn, x_t: Tensor, t: Tensor, v: Tensor, delta: float = 1e-3
) -> Tensor:
    """|u(x_t, t - delta, t) - v|^2, a mean over elements: (b,), with a graph.

    Flow matching next to the diagonal r = t, which keeps v_hat accurate when beta > 0.
    [arXiv 2605.09235, Algorithm 1; added with weight 0.1]
    """
    return (u(x_t, (t - delta).clamp_min(0), t) - v).square().flatten(1).mean(1)


def guided_velocity(
    v: Tensor, v_cond: Tensor, v_null: Tensor, scale: float, mix: float = 0.0
) -> Tensor:
    """omega v + mix v_cond + (1 - omega - mix) v_null, omega = (1 - mix) scale. [MeanFlow, app. B]

    Used in target and tangent it trains guidance of strength ``scale`` into the model, so that
    sampling needs one call. v is the noisy velocity, v_cond and v_null the model's own u(x_t, t, t)
    with and without the condition; with mix = 0 v_cond has no effect.
    """
    omega = (1 - mix) * scale
    return omega * v + mix * v_cond + (1 - omega - mix) * v_null


def sample_meanflow(
    u: AverageVelocityFn, x: Tensor, ts: Tensor, *, callback: Callback | None = None
) -> Tensor:
    """x_r = x_t - (t - r) u(x_t, r, t) over the grid: len(ts) - 1 calls; [1, 0] is one call.

    Eq. (2) of arXiv 2605.09235, solved for x_r. ts (n+1,) descending. Computes in float32 or
    better and returns the dtype of x; ``callback(i, x, u, t)`` as in ``sampling``.
    """
    dtype = x.dtype
    x = x.to(torch.promote_types(dtype, torch.float32))
    ts = ts.to(x)
    for i in range(len(ts) - 1):
        mean_velocity = u(x, ts[i + 1], ts[i])
        if callback is not None:
            callback(i, x, mean_velocity, ts[i])
        x = x - (ts[i] - ts[i + 1]) * mean_velocity
    return x.to(dtype)
