"""Flows whose x the host keeps as x0 + sigma eps, as the linear flows that they are.

Cosmos-Predict2 is trained on x_t = (1 - t) x0 + t eps. The host gives its samplers x_t / (1 - t)
with sigma = t / (1 - t), which grows to 80, and translates at every call. Our samplers and grids
are for the linear path: here it is translated back.
"""

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor

from ..grid_check import require_flow_grid
from . import flow

SamplerFunction = Callable[..., Tensor]


def times(model_sampling: Any, sigmas: Tensor) -> Tensor:
    """The host's noise levels as times of the linear path: t = sigma / (1 + sigma), else equal."""
    return sigmas / (1 + sigmas) if flow.is_exploding_flow(model_sampling) else sigmas


def sigmas_at(model_sampling: Any, times: Tensor) -> Tensor:
    """The other way: sigma = t / (1 - t)."""
    return times / (1 - times) if flow.is_exploding_flow(model_sampling) else times


class _OnLine:
    """The host's denoiser as one of x_t at t; D is the same."""

    def __init__(self, denoiser: Any):
        self._denoiser = denoiser

    def __getattr__(self, name: str) -> Any:
        return getattr(self._denoiser, name)

    def __call__(self, x: Tensor, t: Tensor, **options: Any) -> Tensor:
        scale = (1 - t).view(-1, *[1] * (x.ndim - 1))
        return self._denoiser(x / scale, t / (1 - t), **options)


def _in_sigma(callback: Callable[[dict], None] | None) -> Callable[[dict], None] | None:
    """The host's callback, told of a step in the host's x and sigma."""
    if callback is None:
        return None

    def report(step: dict) -> None:
        t = step["sigma"]
        sigma = t / (1 - t)
        callback(step | {"x": step["x"] / (1 - t), "sigma": sigma, "sigma_hat": sigma})

    return report


def on_linear_path(function: SamplerFunction) -> SamplerFunction:
    """A sampler function for the linear path, as one for every flow of the host.

    Decorator. Raises InvalidInput for a model that is no flow.
    """

    @functools.wraps(function)
    def sampler(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
        model_sampling = flow.sampling_of(model)
        flow.require_flow(model_sampling)
        if not flow.is_exploding_flow(model_sampling):
            return function(model, x, sigmas, extra_args, callback, disable, **options)
        require_flow_grid(sigmas, highest=flow.highest_sigma(model_sampling))
        ts = times(model_sampling, sigmas)
        x = function(
            _OnLine(model), x * (1 - ts[0]), ts, extra_args, _in_sigma(callback), disable, **options
        )
        return x / (1 - ts[-1])

    return sampler
