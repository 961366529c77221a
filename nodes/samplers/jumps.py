"""MeanFlow's sampler: a few jumps along a grid, each by one average velocity."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...sv_core.meanflow import sample_meanflow
from ...sv_core.schedules import uniform_grid
from ..grid_check import require_flow_grid
from ..host import average_velocity, flow
from ..host.contract import of_the_host


def jump_sigmas(sigmas: Tensor, calls: int) -> Tensor:
    """``calls`` equal jumps in noise level from the first of SIGMAS to the last.

    SIGMAS that have this number of steps are used unchanged. On the digits, equal jumps gave better
    pictures than grids shifted towards noise at 2 to 4 calls, and equally good ones at 8.
    """
    if len(sigmas) - 1 in (0, calls):
        return sigmas
    grid = sigmas[-1] + (sigmas[0] - sigmas[-1]) * uniform_grid(calls).to(sigmas)
    grid[0] = sigmas[0]
    return grid


@torch.no_grad()
def sample_jumps(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
) -> Tensor:
    """A sampler function for the host: one jump from each of ``sigmas`` to the next."""
    require_flow_grid(sigmas)
    flow.require_linear_flow(flow.sampling_of(model))
    average_velocity.require_average_velocity(flow.patcher_of(model))
    extra_args, report = extra_args or {}, flow.step_report(callback, 0)
    with tqdm(total=len(sigmas) - 1, disable=disable) as bar:

        def average(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
            arguments = average_velocity.with_interval_end(extra_args, r)
            return flow.velocity_from_denoiser(model, arguments)(x, t)

        def after_call(i: int, x: Tensor, u: Tensor, t: Tensor) -> None:
            report(i, x, u, t)
            bar.update()

        x = sample_meanflow(average, x, sigmas, callback=after_call)
    jumps = " ".join(f"{float(s):.3g}" for s in sigmas)
    logging.info("MeanFlow: %d calls at %s", len(sigmas) - 1, jumps)
    return x


class JumpSampler(flow.Sampler):
    """A SAMPLER that replaces SIGMAS before the run starts, so that the host's bar counts calls."""

    def __init__(self, calls: int):
        super().__init__(sample_jumps)
        self.calls = calls

    @of_the_host
    def sample(self, model_wrap: Any, sigmas: Tensor, *args: Any, **options: Any) -> Tensor:
        require_flow_grid(sigmas)
        return super().sample(model_wrap, jump_sigmas(sigmas, self.calls), *args, **options)
