"""Sampler functions that call the model at some of a grid's nodes and forecast the rest.

Every run starts anew: nothing of one model call, or of one expert's part, reaches another run. What
the host does inside a call (guidance, CFG++ style hooks, masks, control) happens at the real calls.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...sv_core import sampling
from ...sv_core.calibration import Recorder, self_calibrate
from ...sv_core.call_rules import call_nodes
from ...sv_core.fewer_calls import FEWEST_LEVELS, calls_of_share
from ...sv_core.schedules import ode_grid
from ...sv_core.solvers import SOLVERS
from ..calibration_file import Nodes, write_nodes
from ..checks import CALIBRATED_STEPS
from ..grid_check import MOST_STEPS, require_flow_grid
from ..host import flow
from ..host.contract import of_the_host
from ..host.exploding import on_linear_path
from .plan import ADAPTIVE, CALIBRATED, FORECAST, ODE, SELF, Plan
from .progress import CallTracker, Progress, StepTracker

REMEMBERED = 32
"""Lists of calls that are kept for one model, each for another grid, size or setting."""

# Mode self-calibrating: the lists found by a queue's first picture, for the pictures after it. They
# are dropped together with their model.
_found: WeakKeyDictionary[Any, OrderedDict[tuple, Nodes]] = WeakKeyDictionary()


def _lists(model: Any) -> OrderedDict[tuple, Nodes]:
    """The lists of calls found so far for a MODEL, the oldest first."""
    return _found.setdefault(model.model, OrderedDict())


def _list_key(model: Any, x: Tensor, sigmas: Tensor, plan: Plan) -> tuple:
    """What must agree for a list to be used again: patches (LoRAs), size, grid, calls, solver."""
    grid = tuple(round(s, 6) for s in sigmas.tolist())
    return model.patches_uuid, tuple(x.shape[1:]), grid, plan.calls, plan.solver


class Choice(NamedTuple):
    """Where a run calls the model, as far as it is decided before the run."""

    nodes: Sequence[int] = ()
    """Nodes of the native grid; empty when all nodes are called, or the tolerance decides."""
    recorder: Recorder | None = None
    """Records a run from which the calls of the following pictures are found."""
    key: tuple = ()
    """The key under which these are kept."""


def choose(plan: Plan, model: Any, x: Tensor, sigmas: Tensor) -> Choice:
    """The calls of a run of MODEL from x over ``sigmas``, by the plan's list or mode."""
    times = sigmas.tolist()
    if plan.nodes:
        return Choice(plan.nodes)
    if plan.mode == CALIBRATED:
        assert plan.calibration is not None  # Plan.check refuses anything else
        return Choice(plan.calibration.nodes_for(model, sigmas, plan.calls))
    if plan.mode == SELF:
        key = _list_key(model, x, sigmas, plan)
        if nodes := _lists(model).get(key):
            return Choice(nodes)
        return Choice(call_nodes(times, plan.calls, "early"), Recorder(sigmas), key)
    if plan.mode == FORECAST:
        return Choice(call_nodes(times, plan.calls, plan.rule))
    return Choice()


def _remember(model: Any, choice: Choice, times: list[float], calls: int) -> None:
    """Keep the list of ``calls`` that a recorded run suggests, unless the run diverged."""
    assert choice.recorder is not None
    gram = choice.recorder.gram()
    if not np.isfinite(gram).all():
        logging.warning("StableVS: the run diverged, so nothing can be learnt from it.")
        return
    lists = _lists(model)
    nodes = lists[choice.key] = tuple(self_calibrate(gram, choice.recorder.nodes, times, calls))
    while len(lists) > REMEMBERED:
        lists.popitem(last=False)
    logging.info("StableVS: the next pictures call at %s", write_nodes(nodes))


class PlannedSampler(flow.Sampler):
    """A SAMPLER that runs a plan; the host's progress bar counts its model calls, not its steps."""

    def __init__(self, plan: Plan):
        super().__init__(sample_planned, {"plan": plan})

    @of_the_host
    def sample(self, model_wrap: Any, sigmas: Tensor, extra_args: dict, callback: Any, *args, **kw):
        if callback is None:
            return super().sample(model_wrap, sigmas, extra_args, None, *args, **kw)
        progress = Progress(callback)
        options = self.extra_options | {"progress": progress}
        run = flow.Sampler(self.sampler_function, options, self.inpaint_options)
        samples = run.sample(model_wrap, sigmas, extra_args, progress, *args, **kw)
        progress.finish()
        return samples


def ode_sigmas(sigmas: Tensor, calls: int) -> Tensor:
    """Mode ode's grid: ``ode_grid(calls)`` between the ends of SIGMAS, or SIGMAS if shorter."""
    if calls >= len(sigmas) - 1:
        return sigmas
    first, last = sigmas[0].double(), sigmas[-1].double()
    grid = (last + (first - last) * ode_grid(calls).to(first)).to(sigmas)
    grid[0], grid[-1] = sigmas[0], sigmas[-1]
    return grid


def _report(plan: Plan, nodes: Sequence[int], steps: int) -> None:
    """Log where a run called the model, and note it for the pictures' metadata."""
    listed = write_nodes(nodes)
    places = f" at {listed}" if plan.mode != ODE else ""
    logging.info("StableVS %s: %d of %d calls%s", plan.mode, len(nodes), steps, places)
    if plan.note is not None and plan.mode in (ADAPTIVE, SELF):
        plan.note({"mode": plan.mode, "solver": plan.solver, "steps": steps, "nodes": listed})


@torch.no_grad()
@on_linear_path
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
    """A sampler function for the host, on the native grid: x at sigmas[0] -> x at sigmas[-1]."""
    plan = plan or Plan()
    plan.check()
    most = CALIBRATED_STEPS[1] if plan.mode == SELF and not plan.nodes else MOST_STEPS
    require_flow_grid(sigmas, most=most)
    if len(sigmas) == 1:
        return x
    patcher, steps = flow.patcher_of(model), len(sigmas) - 1
    choice = choose(plan, patcher, x, sigmas)
    if plan.mode == ODE:
        grid, sample = ode_sigmas(sigmas, plan.calls), sampling.sample_ode
        total = len(grid) - 1
    else:
        options = {"nodes": choice.nodes or None, "tolerance": plan.tolerance}
        options |= {"solver": SOLVERS[plan.solver], "parts": flow.parts_of(model)}
        sample = partial(sampling.sample_forecast, **options)
        grid, total = sigmas, len(choice.nodes) or None
    if progress is not None:
        progress.total = total
    with tqdm(total=total, disable=disable) as bar:
        calls = CallTracker(callback, bar, choice.recorder)
        velocity = flow.velocity_from_denoiser(model, extra_args or {})
        x = sample(velocity, x, grid, callback=calls)
    _report(plan, calls.nodes, steps)
    if choice.recorder is not None and len(choice.nodes) < steps:
        _remember(patcher, choice, sigmas.tolist(), plan.calls)
    return x


def fixed_calls(sigmas: Tensor) -> int:
    """The number of calls of the drop-down's ``stable_vs``: half of the steps, all of 8 or fewer.

    Of a part of a grid (two experts, or denoise below 1) half of that part.
    """
    steps = len(sigmas) - 1
    return steps if steps < FEWEST_LEVELS else calls_of_share(steps)


@torch.no_grad()
@on_linear_path
def sample_fixed(
    model: Callable,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    solver: str = "euler",
) -> Tensor:
    """``stable_vs`` in KSampler's drop-down: forecasts with ``fixed_calls`` on any native grid.

    The host's bar counts steps there, so each call advances it up to the next call.
    """
    require_flow_grid(sigmas)
    if len(sigmas) == 1:
        return x
    steps, calls = len(sigmas) - 1, fixed_calls(sigmas)
    nodes = call_nodes(sigmas.tolist(), max(calls, 2), "late")
    with tqdm(total=len(nodes), disable=disable) as bar:
        x = sampling.sample_forecast(
            flow.velocity_from_denoiser(model, extra_args or {}),
            x,
            sigmas,
            solver=SOLVERS[solver],
            nodes=nodes,
            callback=StepTracker(callback, bar, nodes, steps),
        )
    logging.info("StableVS: %d of %d calls at %s", len(nodes), steps, write_nodes(tuple(nodes)))
    return x
