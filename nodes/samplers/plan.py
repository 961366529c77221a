"""Which steps of a grid call the model, as the settings of StableVS Sampler describe it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ...sv_core.call_rules import CALL_RULES
from ...sv_core.errors import InvalidInput
from ...sv_core.solvers import SOLVERS
from ..calibration_file import Calibration, Nodes
from ..checks import require_choice

FORECAST, ADAPTIVE, SELF, CALIBRATED, ODE = MODES = (
    "forecast",
    "adaptive",
    "self-calibrating",
    "calibrated",
    "ode",
)
DEFAULT_CALLS = 14
"""The usual number of model calls, for grids of about 30 steps."""

MOST_CALLS = 1000


@dataclass(frozen=True)
class Plan:
    """The settings of a run. ``nodes``, unless empty, replaces the mode's choice of calls."""

    mode: str = FORECAST
    solver: str = "euler"
    calls: int = DEFAULT_CALLS
    rule: str = "auto"
    tolerance: float = 0.02
    nodes: Nodes = ()
    calibration: Calibration | None = None
    note: Callable[[dict], None] | None = None
    """Receives the calls of a run that chose them while it ran (adaptive, self-calibrating)."""

    def check(self) -> None:
        """Raise InvalidInput for unknown names and for settings that contradict each other."""
        require_choice("mode", self.mode, MODES)
        require_choice("solver", self.solver, SOLVERS)
        require_choice("rule", self.rule, CALL_RULES)
        if not 2 <= self.calls <= MOST_CALLS:
            raise InvalidInput(f"calls must lie between 2 and {MOST_CALLS}, got {self.calls}")
        if self.mode == CALIBRATED and self.calibration is None and not self.nodes:
            raise InvalidInput(
                "mode calibrated needs a calibration: connect StableVS Calibration Loader or "
                "StableVS Calibrate"
            )
        if self.mode == ODE and self.nodes:
            raise InvalidInput(
                "nodes are replayed on the native grid, but mode ode has a grid of its own: choose "
                "mode forecast"
            )


METADATA = "stable_velocity"
"""The key of our entries in a picture's metadata."""


def metadata_writer(pnginfo: Any, node: str) -> Callable[[dict], None]:
    """A function that adds an entry to the metadata of the pictures that a prompt saves later.

    ``pnginfo`` is the host's dictionary, the same for every node of a prompt; a prompt that was
    queued through the API may have none.
    """

    def note(entry: dict) -> None:
        entries = pnginfo.setdefault(METADATA, []) if isinstance(pnginfo, dict) else None
        if isinstance(entries, list):  # whoever queues a prompt can put anything there
            entries.append({"node": node} | entry)

    return note
