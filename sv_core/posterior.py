"""p(x0 | x_t) over a finite set of references, exactly."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from .interpolant import Interpolant


@contextmanager
def _full_precision(device: torch.device) -> Iterator[None]:
    """Context manager: no autocast and no TF32, whose rounding of logits near 1e5 is too coarse."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _flat(x_t: Tensor, refs: Tensor) -> tuple[Tensor, Tensor]:
    """Both as matrices, in the widest of their dtypes and float32."""
    dtype = torch.promote_types(torch.promote_types(x_t.dtype, refs.dtype), torch.float32)
    return x_t.flatten(1).to(dtype), refs.flatten(1).to(dtype)


def _weights(interpolant: Interpolant, x: Tensor, refs: Tensor, t: Tensor) -> Tensor:
    a, s, *_ = interpolant.coefficients(t.to(x), x)
    # |x_t|^2 is the same for every reference, so that the softmax cancels it. Nothing is clamped:
    # the logits of large latents lie far below any constant that one could choose.
    return ((a * (x @ refs.T) - 0.5 * a**2 * refs.square().sum(1)) / s**2).softmax(1)


def posterior_weights(interpolant: Interpolant, x_t: Tensor, refs: Tensor, t: Tensor) -> Tensor:
    """w_ij = p(x0 = refs[j] | x_t[i]) under a uniform prior: Eq. (7)'s weights.

    w_i = softmax_j( -|x_t - alpha refs_j|^2 / 2 sigma^2 ). x_t (b, ...), refs (m, ...), t (b,) or
    0-d, t > 0 -> (b, m), float32 or better. [arXiv 2602.05435]
    """
    with _full_precision(x_t.device):
        return _weights(interpolant, *_flat(x_t, refs), t)


def posterior_mean(
    interpolant: Interpolant, x_t: Tensor, refs: Tensor, t: Tensor
) -> tuple[Tensor, Tensor]:
    """(E[x0 | x_t], w): the weighted mean of the references, shaped as x_t, and its weights."""
    with _full_precision(x_t.device):
        x, refs = _flat(x_t, refs)
        w = _weights(interpolant, x, refs, t)
        return (w @ refs).view(x_t.shape), w


def effective_size(w: Tensor) -> Tensor:
    """1 / sum_j w_j^2, the number of references that share the weight: (b, m) -> (b,) in [1, m]."""
    return 1 / w.square().sum(1)
