"""``stable_vs`` and ``regime_split`` in KSampler's drop-downs, and so in every node that has them.

The host offers no interface for that. Entries are appended to its own lists, once, and nothing is
replaced; where a later version has moved one of those names, the nodes do without the drop-downs.
"""

import importlib
import logging
from collections.abc import Callable
from typing import Any

import comfy.samplers
from torch import Tensor

from ..sv_core.schedules import split_to_length
from .checks import SPLIT
from .host import flow
from .samplers.planned import sample_fixed


def regime_split_grid(model_sampling: Any, steps: int) -> Tensor:
    """The host's ``simple`` grid, of more steps, thinned to exactly ``steps``: (steps+1,)."""
    flow.require_linear_flow(model_sampling)

    def native(n: int) -> Tensor:
        return comfy.samplers.calculate_sigmas(model_sampling, "simple", n)

    return split_to_length(native, steps, SPLIT)


def _append(name: str, *lists: list[str]) -> None:
    for names in lists:
        if name not in names:
            names.append(name)


def _add_sampler(name: str, function: Callable) -> None:
    # Every name is looked up before anything is changed.
    module = importlib.import_module("comfy.k_diffusion.sampling")
    lists = (
        comfy.samplers.KSampler.SAMPLERS,
        comfy.samplers.SAMPLER_NAMES,
        comfy.samplers.KSAMPLER_NAMES,
    )
    comfy.samplers.ksampler  # noqa: B018  which finds the function by its name
    if not hasattr(module, f"sample_{name}"):
        setattr(module, f"sample_{name}", function)
    _append(name, *lists)


def _add_scheduler(name: str, function: Callable) -> None:
    handlers, make = comfy.samplers.SCHEDULER_HANDLERS, comfy.samplers.SchedulerHandler
    lists = comfy.samplers.KSampler.SCHEDULERS, comfy.samplers.SCHEDULER_NAMES
    handlers.setdefault(name, make(function))
    _append(name, *lists)


def register() -> None:
    """Add both entries; one that does not fit this host is skipped, and a line in the log says so.

    Asking again changes nothing.
    """
    entries = (
        ("sampler", flow.OWN_SAMPLER, _add_sampler, sample_fixed),
        ("scheduler", flow.OWN_SCHEDULER, _add_scheduler, regime_split_grid),
    )
    for kind, name, add, function in entries:
        try:
            add(name, function)
        except (AttributeError, ImportError, TypeError) as e:
            logging.warning(
                "Stable Velocity: this ComfyUI has no place for the %s %s in KSampler's drop-down "
                "(%s); the nodes work without it.",
                kind,
                name,
                e,
            )
