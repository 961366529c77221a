"""The paper's sampler: one of the host's at high noise, stable steps below the split.

[arXiv 2602.05435, StableVS]
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...sv_core import sampling
from ...sv_core.schedules import split_index
from ..checks import PAPER_SPLIT, require_noise, require_split
from ..grid_check import require_flow_grid
from ..host import flow
from ..host.exploding import on_linear_path, times


@torch.no_grad()
def sample_stable_vs(
    model: Callable,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    base: str = "euler",
    split: float = PAPER_SPLIT,
    noise: float = 0.0,
) -> Tensor:
    """The host's sampler ``base`` while sigma >= split, then stable steps to the end.

    A sampler function for the host: x (b, ...) at sigmas[0], sigmas (n+1,) -> x at sigmas[-1].
    """
    require_flow_grid(sigmas, highest=math.inf)  # its range is the model's, which comes below
    require_split(split)
    require_noise(noise)
    model_sampling = flow.sampling_of(model)
    flow.require_flow(model_sampling)
    require_flow_grid(sigmas, highest=flow.highest_sigma(model_sampling))
    extra_args = extra_args or {}
    # The number of steps that begin at or above the split; the last ends on the first low node.
    high = min(split_index(times(model_sampling, sigmas), split), len(sigmas) - 1)
    if high:
        head = sigmas[: high + 1]
        x = flow.run_sampler(base, model, x, head, extra_args, callback, disable)
    low = sigmas[high:]
    if len(low) == 1:
        return x
    return _stable_steps(model, x, low, extra_args, callback, disable, first=high, noise=noise)


@on_linear_path
def _stable_steps(
    model: Callable, x: Tensor, ts: Tensor, extra_args: dict,
    callback: Callable[[dict], None] | None, disable: bool | None, *, first: int, noise: float,
) -> Tensor:  # fmt: skip
    report = flow.step_report(callback, first)
    with tqdm(total=len(ts) - 1, disable=disable) as bar:

        def after_call(i: int, x: Tensor, v: Tensor, t: Tensor) -> None:
            report(i, x, v, t)
            bar.update()

        velocity = flow.velocity_from_denoiser(model, extra_args)
        if noise == 0:  # the same steps with half the arithmetic and fewer tensors
            return sampling.sample_euler(velocity, x, ts, callback=after_call)
        return sampling.sample_stable(
            velocity,
            x,
            ts,
            noise=noise,
            noise_fn=flow.seeded_noise(model, extra_args),
            callback=after_call,
        )
