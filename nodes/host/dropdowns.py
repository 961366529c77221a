"""New entries in the host's lists of samplers and schedulers, which KSampler's drop-downs show.

The host has no interface for that: the entries are appended to its own lists, and no existing entry
is replaced. Each function looks up every name that it needs before it changes anything, so that a
host without one of them stays as it is: AttributeError, ImportError or TypeError is raised.
"""

import importlib
from collections.abc import Callable

import comfy.samplers


def _require_lists(*lists: list[str]) -> None:
    """Raise TypeError for anything that a name cannot be appended to."""
    if not all(isinstance(names, list) for names in lists):
        raise TypeError("its names are no lists")


def _append(name: str, *lists: list[str]) -> None:
    for names in lists:
        if name not in names:
            names.append(name)


def add_sampler(name: str, function: Callable) -> None:
    """Make a sampler function available as ``name``; adding it again changes nothing."""
    module = importlib.import_module("comfy.k_diffusion.sampling")
    lists = (
        comfy.samplers.KSampler.SAMPLERS,
        comfy.samplers.SAMPLER_NAMES,
        comfy.samplers.KSAMPLER_NAMES,
    )
    comfy.samplers.ksampler  # noqa: B018  which finds the function by its name
    _require_lists(*lists)
    if not hasattr(module, f"sample_{name}"):
        setattr(module, f"sample_{name}", function)
    _append(name, *lists)


def add_scheduler(name: str, function: Callable) -> None:
    """Make ``function(model_sampling, steps) -> sigmas`` available as the scheduler ``name``."""
    handlers, make = comfy.samplers.SCHEDULER_HANDLERS, comfy.samplers.SchedulerHandler
    lists = comfy.samplers.KSampler.SCHEDULERS, comfy.samplers.SCHEDULER_NAMES
    _require_lists(*lists)
    handlers.setdefault(name, make(function))
    _append(name, *lists)
