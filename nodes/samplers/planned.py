"""Sampler functions that call the model at some of a grid's nodes, as the host runs them.

Every run starts anew: nothing of one model call, or of one expert's part, reaches another run. What
the host does inside a call (guidance, CFG++ style hooks, masks, control) happens at the real calls.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import comfy.samplers
import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...sv_core import sampling
from ...sv_core.calibration import Recorder, self_calibrate
from ...sv_core.call_rules import call_nodes
from ...sv_core.schedules import ode_grid
from ...sv_core.solvers import SOLVERS
from ..calibration_file import Nodes, write_nodes
from ..checks import require_grid
from ..host import flow
from .plan import ADAPTIVE, CALIBRATED, CALLS, FORECAST, ODE, SELF, Plan
from .progress import Progress, _Run, _RunInSteps

"""The usual number, for grids of about 30 steps."""
REMEMBERED = 32
"""Grids, sizes and settings for which a model's own list of calls is kept."""


# Found by a queue's first picture, for the pictures after it. It goes when its model goes.
_found: WeakKeyDictionary[Any, OrderedDict[tuple, Nodes]] = WeakKeyDictionary()


def _lists(model: Any) -> OrderedDict[tuple, Nodes]:
    return _found.setdefault(model.model, OrderedDict())


def _queue_key(model: Any, x: Tensor, sigmas: Tensor, plan: Plan) -> tuple:
    """What must agree for a list to be used again: patches (LoRAs), size, grid, calls, solver."""
    grid = tuple(round(s, 6) for s in sigmas.tolist())
    return model.patches_uuid, tuple(x.shape[1:]), grid, plan.calls, plan.solver


def _remember(model: Any, key: tuple, recorder: Recorder, times: list[float], calls: int) -> None:
    gram = recorder.gram()
    if not np.isfinite(gram).all():
        logging.warning("StableVS: the run diverged, so nothing can be learnt from it.")
        return
    lists = _lists(model)
    lists[key] = tuple(self_calibrate(gram, recorder.nodes, times, calls))
    while len(lists) > REMEMBERED:
        lists.popitem(last=False)
    logging.info("StableVS: the next pictures call at %s", write_nodes(lists[key]))


class PlannedSampler(comfy.samplers.KSAMPLER):
    """A SAMPLER whose progress bar counts model calls; every other host SAMPLER counts steps."""

    def __init__(self, plan: Plan):
        super().__init__(sample_planned, {"plan": plan})

    def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, *args, **kw):
        if callback is None:
            return super().sample(model_wrap, sigmas, extra_args, None, *args, **kw)
        progress = Progress(callback)
        options = self.extra_options | {"progress": progress}
        run = comfy.samplers.KSAMPLER(self.sampler_function, options, self.inpaint_options)
        samples = run.sample(model_wrap, sigmas, extra_args, progress, *args, **kw)
        progress.finish()
        return samples


def ode_sigmas(sigmas: Tensor, calls: int) -> Tensor:
    """The grid of mode ode: its own of ``calls`` steps between the ends, or SIGMAS if shorter."""
    if calls >= len(sigmas) - 1:
        return sigmas
    first, last = sigmas[0].double(), sigmas[-1].double()
    grid = (last + (first - last) * ode_grid(calls).to(first)).to(sigmas)
    grid[0], grid[-1] = sigmas[0], sigmas[-1]
    return grid


@torch.no_grad()
def sample_planned(
    model: Any,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    plan: Plan | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """A sampler function of the host, on the native grid: x at sigmas[0] -> x at sigmas[-1]."""
    plan = plan or Plan()
    require_grid(sigmas)
    plan.check()
    flow.require_linear_flow(flow.sampling_of(model))
    if len(sigmas) == 1:
        return x
    velocity = flow.velocity_from_denoiser(model, extra_args or {})
    patcher, steps, times = model.inner_model.model_patcher, len(sigmas) - 1, sigmas.tolist()
    options, recorder, key = {}, None, None
    if plan.mode == ODE:
        sigmas = ode_sigmas(sigmas, plan.calls)
        total, sample = len(sigmas) - 1, sampling.sample_ode
    else:
        nodes = plan.nodes
        if not nodes and plan.mode == CALIBRATED:
            assert plan.calibration is not None  # or plan.check() has said so
            nodes = plan.calibration.nodes_for(patcher, sigmas, plan.calls)
        elif not nodes and plan.mode == SELF:
            key = _queue_key(patcher, x, sigmas, plan)
            nodes = _lists(patcher).get(key, ())
            if not nodes:
                nodes, recorder = call_nodes(times, plan.calls, "early"), Recorder(sigmas)
        elif not nodes and plan.mode == FORECAST:
            nodes = call_nodes(times, plan.calls, plan.rule)
        total, sample = len(nodes) or None, sampling.sample_forecast
        options = {"solver": SOLVERS[plan.solver], "nodes": nodes or None}
        options["tolerance"] = plan.tolerance
    if progress is not None:
        progress.total = total
    with tqdm(total=total, disable=disable) as bar:
        run = _Run(callback, bar, recorder)
        x = sample(velocity, x, sigmas, callback=run, **options)
    told = f" at {write_nodes(run.nodes)}" if plan.mode != ODE else ""
    logging.info("StableVS %s: %d of %d calls%s", plan.mode, len(run.nodes), steps, told)
    if recorder is not None and key is not None and total is not None and total < steps:
        _remember(patcher, key, recorder, times, plan.calls)
    if plan.note is not None and plan.mode in (ADAPTIVE, SELF):
        told = {"mode": plan.mode, "solver": plan.solver, "steps": steps}
        plan.note(told | {"nodes": write_nodes(run.nodes)})
    return x


def fixed_calls(sigmas: Tensor) -> int:
    """How many calls the drop-down's form makes of a grid: 14, or all of a shorter one.

    A part of a grid, as two experts or denoise below 1 have it: half of its steps, 8 to 14.
    """
    steps = len(sigmas) - 1
    whole = float(sigmas[0]) > 0.99 and float(sigmas[-1]) == 0
    return min(steps, CALLS if whole else min(CALLS, max(8, -(-steps // 2))))


@torch.no_grad()
def sample_fixed(
    model: Callable,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    solver: str = "euler",
) -> Tensor:
    """``stable_vs`` in KSampler's drop-down: forecast with ``fixed_calls``, on any native grid.

    The host's bar counts steps there, so every call advances it by the steps that it decides.
    """
    require_grid(sigmas)
    flow.require_linear_flow(flow.sampling_of(model))
    if len(sigmas) == 1:
        return x
    steps, calls = len(sigmas) - 1, fixed_calls(sigmas)
    nodes = call_nodes(sigmas.tolist(), max(calls, 2))
    with tqdm(total=len(nodes), disable=disable) as bar:
        x = sampling.sample_forecast(
            flow.velocity_from_denoiser(model, extra_args or {}),
            x,
            sigmas,
            solver=SOLVERS[solver],
            nodes=nodes,
            callback=_RunInSteps(callback, bar, nodes, steps),
        )
    logging.info("StableVS: %d of %d calls at %s", len(nodes), steps, write_nodes(tuple(nodes)))
    return x
