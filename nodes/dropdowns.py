"""``stable_vs`` and ``regime_split`` as entries of KSampler's drop-downs.

So they are available in every node that lists the host's samplers or schedulers.
"""

from collections.abc import Collection
from typing import Any

from torch import Tensor

from ..sv_core.schedules import split_to_length
from .checks import PAPER_SPLIT
from .grid_check import require_flow_grid
from .host import dropdowns, flow
from .host.contract import REGIME_SPLIT, STABLE_VS
from .host.exploding import sigmas_at, times
from .samplers.planned import sample_fixed


def regime_split_grid(model_sampling: Any, steps: int) -> Tensor:
    """A longer grid of the host's scheduler ``simple``, thinned to ``steps`` steps: (steps+1,)."""
    flow.require_flow(model_sampling)

    def native(n: int) -> Tensor:
        return times(model_sampling, flow.scheduler_sigmas(model_sampling, "simple", n))

    thinned = split_to_length(native, steps, PAPER_SPLIT)
    require_flow_grid(thinned, "the grid of simple", repeats=True)
    return sigmas_at(model_sampling, thinned)


def register(entries: Collection[str] = (STABLE_VS, REGIME_SPLIT)) -> dict[str, str]:
    """Add both entries, or those of them that are named; why one does not fit this host, by entry.

    Registering again changes nothing.
    """
    adding = {
        STABLE_VS: lambda: dropdowns.add_sampler(flow.OWN_SAMPLER, sample_fixed),
        REGIME_SPLIT: lambda: dropdowns.add_scheduler(flow.OWN_SCHEDULER, regime_split_grid),
    }
    off = {}
    for entry, add in adding.items():
        try:
            if entry in entries:
                add()
        except (AttributeError, ImportError, TypeError) as e:
            off[entry] = str(e)
    return off
