"""The objective that a configuration chooses."""

import functools
import inspect

import torch

from sv_core.errors import InvalidInput
from sv_core.objective import Objective
from sv_core.timesteps import TIMESTEPS, TimestepFn, within

from ..config.schema import MeanFlowConfig, ObjectiveConfig
from ..networks.base import Backbone
from .base import Criterion, Setup, Trained
from .meanflow import MeanFlow
from .velocity import Velocity

TRIES = 20_000
"""How many times are drawn to see whether any can be."""


def build_criterion(
    kind: str, meanflow: MeanFlowConfig, objective: Objective, state: Trained, setup: Setup
) -> Criterion:
    """The class of that kind of objective."""
    if kind == "meanflow":
        return MeanFlow(meanflow, objective, state, setup)
    return Velocity(objective, setup.n)


def build_objective(config: ObjectiveConfig, backbone: Backbone) -> Objective:
    """The loss with its distribution of t: the configured one, else the backbone's own schedule.

    Raises InvalidInput for a parameter that the named timesteps do not have.
    """
    name, params = config.timesteps, config.timestep_params
    if name == "auto" and config.kind == "meanflow":
        name, params = "logit_normal", params or {"mean": -0.4}  # as in MeanFlow's paper
    elif name == "auto":
        name = "uniform" if backbone.shift == 1 else "shifted"
        params = params or ({} if backbone.shift == 1 else {"shift": backbone.shift})
    draw = TIMESTEPS[name]
    known = list(inspect.signature(draw).parameters)[2:]  # after n and the generator
    for key in params:
        if key not in known:
            raise InvalidInput(
                f"unknown config key 'objective.timestep_params.{key}' for timesteps "
                f"{name!r} (have: {', '.join(known) or 'none'})"
            )
    draw = functools.partial(draw, **params)
    low, high = config.span or backbone.span
    if (low, high) != (0.0, 1.0):
        _require_draws(draw, low, high, f"{name} {params or ''}".strip())
        draw = functools.partial(within, draw=draw, low=low, high=high)
    return Objective(timesteps=draw, threshold=config.threshold)


def _require_draws(draw: TimestepFn, low: float, high: float, name: str) -> None:
    """Raise InvalidInput when fewer than one draw in a thousand is in the span."""
    t = draw(TRIES, torch.Generator().manual_seed(0))
    inside = int(((t >= low) & (t <= high)).sum())
    if inside * 1000 < TRIES:
        raise InvalidInput(
            f"of {TRIES} times that objective.timesteps = {name} draws, {inside} are between "
            f"{low:g} and {high:g}: change objective.span, or take timesteps = uniform"
        )
