"""Representation alignment: train a block's tokens to match the features of a frozen encoder.

The loss is ``alignment_loss([(projector(h), z)], w)`` with h the tokens that ``capture`` took from
a block during the forward pass, z the encoder's patch features of the clean image on the same
grid, and w(t) one of ``weighting.WEIGHTS``. [REPA: arXiv 2410.06940; VA-REPA, the gate w: arXiv
2602.05435; iREPA, ``spatial_normalize`` and ``ConvProjector``: arXiv 2512.10794]
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from .objective import weighted_mean


def cosine_distance(h: Tensor, z: Tensor) -> Tensor:
    """-mean over tokens of cos(h, z), in [-1, 1]: (b, n, d), (b, n, d) -> (b,).

    Written as REPA reports it, without the constant 1. float32 at least.
    """
    assert h.shape == z.shape, f"tokens {tuple(h.shape)} and features {tuple(z.shape)} differ"
    dtype = torch.promote_types(h.dtype, torch.float32)
    return -F.cosine_similarity(h.to(dtype), z.to(dtype), dim=-1).mean(1)


def spatial_normalize(z: Tensor, gamma: float = 0.6) -> Tensor:
    """(z - gamma mean z) / (std z + 1e-6), over the tokens of each image: (b, n, d) -> same.

    Removes most of what all patches share, so that the layout remains to be learnt. [iREPA]
    """
    z = z - gamma * z.mean(1, keepdim=True)
    # A channel that is constant over the image has std 0.
    return z / (z.std(1, keepdim=True) + 1e-6)


class Projector(nn.Sequential):
    """From the backbone's width to the encoder's, token by token: (b, n, d_in) -> (b, n, d_out)."""

    def __init__(self, d_in: int, d_out: int, hidden: int = 2048):
        super().__init__(
            nn.Linear(d_in, hidden),
            nn.SiLU(),
            nn.Linear(hidden, hidden),
            nn.SiLU(),
            nn.Linear(hidden, d_out),
        )


class ConvProjector(nn.Module):
    """A projector that also sees each token's eight neighbours: one 3x3 convolution. [iREPA]

    (b, n, d_in) -> (b, n, d_out); the n tokens are a square grid in row-major order.
    """

    def __init__(self, d_in: int, d_out: int):
        super().__init__()
        self.conv = nn.Conv2d(d_in, d_out, kernel_size=3, padding=1)

    def forward(self, h: Tensor) -> Tensor:
        side = math.isqrt(h.shape[1])
        assert side**2 == h.shape[1], f"{h.shape[1]} tokens are not a square grid"
        h = self.conv(rearrange(h, "b (r c) d -> b d r c", r=side))
        return rearrange(h, "b d r c -> b (r c) d")


PROJECTORS = {"mlp": Projector, "conv": ConvProjector}


@contextmanager
def capture(
    module: nn.Module, part: int | None = None, tokens: slice = slice(None)
) -> Iterator[list[Tensor]]:
    """Context manager: append the output of each call of ``module`` to the list that it yields.

    ``part`` selects one output of a module that returns several; ``tokens`` is a slice of dimension
    1, for streams that hold text or registers beside the image. The tensors are part of the graph,
    so that a loss on them trains everything up to this module; they are copies, because some models
    add to the residual stream in place.

    With gradient checkpointing use its non-reentrant form: the reentrant one runs the forward pass
    without a graph. Raises TypeError when the selected output is not a tensor.
    """
    captured: list[Tensor] = []

    def keep(module: nn.Module, args: tuple, output: Any) -> None:
        h = output if part is None else output[part]
        if not isinstance(h, Tensor):
            raise TypeError(
                f"{type(module).__name__} returns a {type(h).__name__}, not a tensor: "
                "select one of its outputs with `part`"
            )
        captured.append(h[:, tokens].clone())

    handle = module.register_forward_hook(keep)
    try:
        yield captured
    finally:
        handle.remove()


def alignment_loss(pairs: Sequence[tuple[Tensor, Tensor]], w: Tensor) -> Tensor:
    """sum_i w_i l_i / sum_i w_i, l_i the mean of ``cosine_distance`` over the encoders. -> scalar

    The second term of VA-REPA's loss, up to its factor lambda.

    ``pairs`` holds (projected tokens, features) per encoder, each (b, n, d) with its own n and d;
    w (b,) is w(t); if its sum is below 1e-8, the loss and its gradient are 0.
    """
    distance = torch.stack([cosine_distance(h, z) for h, z in pairs]).mean(0)
    return weighted_mean(distance, w)
