"""Which calls a sampler makes: the plan that a node's settings describe."""

from collections.abc import Callable
from dataclasses import dataclass

from ...sv_core.call_rules import RULES
from ...sv_core.errors import InvalidInput
from ...sv_core.solvers import SOLVERS
from ..calibration_file import Calibration, Nodes

FORECAST, ADAPTIVE, SELF, CALIBRATED, ODE = MODES = (
    "forecast",
    "adaptive",
    "self-calibrating",
    "calibrated",
    "ode",
)
CALLS = 14


@dataclass(frozen=True)
class Plan:
    """What a run shall do. ``nodes`` replays a list, in place of the mode's own choice."""

    mode: str = FORECAST
    solver: str = "euler"
    calls: int = CALLS
    rule: str = "auto"
    tolerance: float = 0.02
    nodes: Nodes = ()
    calibration: Calibration | None = None
    note: Callable[[dict], None] | None = None
    """Receives what a run that chose its calls itself has done."""

    def check(self) -> None:
        """Raise InvalidInput, in words, for settings that contradict each other."""
        if self.mode not in MODES:
            raise InvalidInput(f"there is no mode {self.mode!r}: choose {', '.join(MODES)}")
        if self.solver not in SOLVERS:
            raise InvalidInput(f"there is no solver {self.solver!r}: choose {', '.join(SOLVERS)}")
        if self.rule not in RULES:
            raise InvalidInput(f"there is no rule {self.rule!r}: choose {', '.join(RULES)}")
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


def metadata_writer(pnginfo: dict | None, node: str) -> Callable[[dict], None]:
    """Adds what a run did to the metadata of the pictures that the same prompt saves later.

    The host hands one dictionary to every node of a prompt; through the API it may lack.
    """

    def note(entry: dict) -> None:
        if pnginfo is not None:
            pnginfo.setdefault("stable_velocity", []).append({"node": node} | entry)

    return note
