"""``stable_vs`` and ``regime_split`` as entries of KSampler's drop-downs.

So they are available in every node that lists the host's samplers or schedulers.
"""

import logging
from typing import Any

from torch import Tensor

from ..sv_core.schedules import split_to_length
from .checks import PAPER_SPLIT
from .host import dropdowns, flow
from .host.exploding import sigmas_at, times
from .samplers.planned import sample_fixed


def regime_split_grid(model_sampling: Any, steps: int) -> Tensor:
    """A longer grid of the host's scheduler ``simple``, thinned to ``steps`` steps: (steps+1,)."""
    flow.require_flow(model_sampling)

    def native(n: int) -> Tensor:
        return times(model_sampling, flow.scheduler_sigmas(model_sampling, "simple", n))

    return sigmas_at(model_sampling, split_to_length(native, steps, PAPER_SPLIT))


def register() -> None:
    """Add both entries. One that does not fit this host is skipped, with a warning in the log.

    Registering again changes nothing.
    """
    entries = (
        ("sampler", flow.OWN_SAMPLER, dropdowns.add_sampler, sample_fixed),
        ("scheduler", flow.OWN_SCHEDULER, dropdowns.add_scheduler, regime_split_grid),
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
