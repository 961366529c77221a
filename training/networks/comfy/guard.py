"""Changes that ComfyUI's blocks need for correct gradients and forward derivatives."""

import functools
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

CHUNK = 512
"""How many queries are computed at a time: 512 x 32k keys of 24 heads are 1.6 GB in float32."""


class OutOfPlace(TorchFunctionMode):
    """Context manager: ``a += b`` makes a new tensor, with the same bits.

    Flux's blocks add to their own inputs in place. That overwrites what was kept for the gradient;
    with recomputation autograd does not notice, and gradients are silently wrong.
    """

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        if func in (Tensor.add_, Tensor.__iadd__):
            func = torch.add
        return func(*args, **(kwargs or {}))


def _guarded(forward: Callable, *args: Any, **kwargs: Any) -> Any:
    with OutOfPlace():
        return forward(*args, **kwargs)


def guard(blocks: Iterable[nn.Module]) -> dict[nn.Module, Callable]:
    """Let each block's forward run out of place; the new forwards, by block.

    What wraps a block's forward later (recomputation, compilation) has the guard inside, where the
    second run of a recomputed block needs it as well.
    """
    for block in blocks:
        block.forward = functools.partial(_guarded, block.forward)
    return {block: block.forward for block in blocks}


@contextmanager
def plainly(forwards: dict[nn.Module, Callable]) -> Iterator[None]:
    """Context manager: the blocks run only these forwards, without recomputation or compiling."""
    before = {block: block.forward for block in forwards}
    try:
        for block, forward in forwards.items():
            block.forward = forward
        yield
    finally:
        for block, forward in before.items():
            block.forward = forward


def plain_attention(
    _: Callable,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: int,
    mask: Tensor | None = None,
    attn_precision: Any = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **options: Any,
) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v in plain operations, some queries at a time, in ComfyUI's layout.

    In place of the fused kernels, which have no forward derivative. q, k, v: (b, n, heads d), or
    (b, heads, n, d) with ``skip_reshape``; the result (b, n, heads d), or (b, heads, n, d) with
    ``skip_output_reshape``. ``mask`` is added, or says by True what is seen.
    """
    if not skip_reshape:
        # SD3.5 hands over keys and values with their heads apart already.
        size = q.shape[-1] // heads if q.ndim == 3 else q.shape[-1]
        apart = (x.unflatten(-1, (-1, size)) if x.ndim == 3 else x for x in (q, k, v))
        q, k, v = (x.transpose(1, 2) for x in apart)
    if k.shape[1] != q.shape[1]:  # grouped queries
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    if mask is not None:
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=q.dtype).masked_fill(~mask, -math.inf)
        # ComfyUI leaves out the axis of the heads, or of the batch, too.
        mask = mask[None, None] if mask.ndim == 2 else mask[:, None] if mask.ndim == 3 else mask
    scale = options.get("scale") or q.shape[-1] ** -0.5
    out = []
    for start in range(0, q.shape[2], CHUNK):
        some = slice(start, start + CHUNK)
        logits = (q[:, :, some] * scale) @ k.transpose(-1, -2)
        if mask is not None:
            logits = logits + (mask if mask.shape[2] == 1 else mask[:, :, some])
        out.append(logits.softmax(-1, torch.promote_types(q.dtype, torch.float32)).to(v) @ v)
    result = torch.cat(out, 2)
    return result if skip_output_reshape else result.transpose(1, 2).flatten(2)
