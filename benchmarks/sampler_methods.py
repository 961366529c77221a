"""The samplers that ``benchmarks/samplers.py`` compares, and the schedules it compares them on."""

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from sv_core.calibration import Recorder, self_calibrate
from sv_core.call_rules import call_nodes
from sv_core.errors import InvalidInput
from sv_core.models.families import FLUX, QWEN_IMAGE, SD35, WAN22_5B, WAN22_14B, Family, Sampling
from sv_core.rehearsal import Rehearsal, rehearse
from sv_core.sampling import sample_euler, sample_forecast, sample_ode, sample_stable
from sv_core.schedules import ode_grid, regime_split, shift, split_index, uniform_grid
from sv_core.solvers import SolverFn, State, combine, dpmpp_2m, unipc

from .flows import Flow

STEPS = 30
SPLIT = 0.85
Nodes = tuple[int, ...]


def sd35(steps: int) -> Tensor:
    """Shift 3, applied to an even grid whose end was shifted once already."""
    end = float(shift(torch.tensor(0.001, dtype=torch.float64), 3.0))
    even = torch.linspace(1, end, steps, dtype=torch.float64)
    return torch.cat([shift(even, 3.0), torch.zeros(1, dtype=torch.float64)])


def qwen(steps: int) -> Tensor:
    """mu 0.69, stretched so that the last node before 0 is 0.02."""
    ts = shift(uniform_grid(steps), math.exp(0.69))
    ts[:-1] = 1 - (1 - ts[:-1]) * (1 - 0.02) / (1 - ts[-2])
    return ts


def shifted(steps: int, factor: float) -> Tensor:
    return shift(uniform_grid(steps), factor)


def of(family: Family) -> Sampling:
    """How the paper samples a family."""
    assert family.sampling is not None
    return family.sampling


FAMILIES: dict[str, tuple[Callable[[int], Tensor], str]] = {
    SD35.name: (sd35, of(SD35).rule),
    FLUX.name: (partial(shifted, factor=of(FLUX).shift), of(FLUX).rule),
    QWEN_IMAGE.name: (qwen, of(QWEN_IMAGE).rule),
    **{
        f"Wan shift {of(wan).shift:g}": (partial(shifted, factor=of(wan).shift), of(wan).rule)
        for wan in (WAN22_14B, WAN22_5B)
    },
}
"""Native grid by number of steps, and the paper's index rule."""


@dataclass
class Cell:
    """One flow on one family's schedule; x is its noise, spare is other noise for calibration."""

    flow: Flow
    family: str
    x: Tensor
    spare: Tensor
    truth: Tensor
    native: Tensor = field(init=False)
    base: Tensor = field(init=False)
    record: Recorder = field(init=False)
    rehearsals: dict[int, tuple[Rehearsal, Nodes]] = field(default_factory=dict)
    gates: dict[int, tuple[Tensor, Nodes]] = field(default_factory=dict)
    calls: int = 0

    def __post_init__(self) -> None:
        self.native = self.grid(STEPS)
        self.base = sample_euler(self.flow.velocity, self.x, self.native)
        self.record = Recorder(self.native)
        sample_euler(self.flow.velocity, self.spare, self.native, callback=self.record)

    def grid(self, steps: int) -> Tensor:
        return FAMILIES[self.family][0](steps)

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        """The flow's, counted."""
        self.calls += 1
        return self.flow.velocity(x, t)


Method = Callable[[Cell, int], Tensor | None]
"""The samples from about that many calls, or None where the method has no such setting."""


def res_multistep(state: State, v: Tensor, t: float, r: float) -> State:
    """The second-order exponential multistep of RES, in -log t. [Zhang et al. 2023]"""
    x0_hat = state.x - t * v
    if not state.past or r == 0:
        return State(state.x + (r - t) * v, ((t, x0_hat),))
    before, x0_before = state.past[0]
    h = math.log(t / r)
    c = -math.log(before / t) / h
    phi1 = math.expm1(-h) / -h
    phi2 = (phi1 - 1) / -h
    weights = [r / t, h * (phi1 - phi2 / c), h * phi2 / c]
    return State(combine(weights, [state.x, x0_hat, x0_before]), ((t, x0_hat),))


def on_native_grid(solver: SolverFn) -> Method:
    """An ordinary solver with as many steps as calls."""

    def method(cell: Cell, calls: int) -> Tensor:
        return sample_forecast(cell.velocity, cell.x, cell.grid(calls), solver=solver, calls=calls)

    return method


def euler(cell: Cell, calls: int) -> Tensor:
    return sample_euler(cell.velocity, cell.x, cell.grid(calls))


def paper(cell: Cell, calls: int) -> Tensor:
    """The published setting: split 0.85, nine low steps, whatever that costs (17 to 27 calls)."""
    return sample_stable(
        cell.velocity, cell.x, regime_split(cell.native, SPLIT, 9, FAMILIES[cell.family][1])
    )


def paper_best(cell: Cell, calls: int) -> Tensor | None:
    """The paper's grid with exactly these calls; of several splits the one that turns out nearest
    to E30: more than a user could choose.
    """
    found = []
    for split in (0.7, 0.8, 0.85, 0.9, 0.95, 0.98):
        high = split_index(cell.native, split)
        if 1 <= calls - high <= STEPS - high:
            grid = regime_split(cell.native, split, calls - high, FAMILIES[cell.family][1])
            found.append(sample_stable(cell.flow.velocity, cell.x, grid))
    cell.calls += calls
    return min(found, key=lambda x: float((x - cell.base).square().mean()), default=None)


def forecast(rule: str) -> Method:
    def method(cell: Cell, calls: int) -> Tensor | None:
        try:
            nodes = call_nodes(cell.native.tolist(), calls, rule)
        except InvalidInput:  # the guarded rule needs more calls than these
            return None
        return sample_forecast(cell.velocity, cell.x, cell.native, nodes=nodes)

    return method


def self_calibrated(cell: Cell, calls: int) -> Tensor:
    """Nodes found from one earlier picture of the early rule, along its own trajectory."""
    recorder = Recorder(cell.native)
    first = partial(sample_forecast, cell.flow.velocity, cell.spare[:1], cell.native)
    first(calls=calls, rule="early", callback=recorder)
    nodes = self_calibrate(recorder.gram(), recorder.nodes, cell.native.tolist(), calls)
    return sample_forecast(cell.velocity, cell.x, cell.native, nodes=nodes)


def rehearsed(cell: Cell, calls: int) -> tuple[Rehearsal, Nodes]:
    """What eight runs of other noise, and checks with so many calls, have shown."""
    if calls not in cell.rehearsals:
        recorder = deepcopy(cell.record)

        def check(nodes: list[int]) -> None:
            run = partial(sample_forecast, cell.flow.velocity, cell.spare, cell.native)
            run(nodes=nodes, callback=recorder)

        cell.rehearsals[calls] = rehearse([recorder], cell.native.tolist(), calls, check)
    return cell.rehearsals[calls]


def calibrated(cell: Cell, calls: int) -> Tensor:
    """Nodes found from eight 30-step runs of other noise and checked in runs of that noise."""
    _, nodes = rehearsed(cell, calls)
    return sample_forecast(cell.velocity, cell.x, cell.native, nodes=nodes)


def calibrated_for_10(cell: Cell, calls: int) -> Tensor | None:
    """The same calibration's lists for other numbers of calls, which were not checked."""
    if calls == 10:
        return None
    nodes = rehearsed(cell, 10)[0].best(calls)
    return sample_forecast(cell.velocity, cell.x, cell.native, nodes=nodes)


def adaptive(cell: Cell, calls: int) -> Tensor | None:
    """Tolerance 0.01, 0.02, 0.03: quality, usual, draft; the calls are what they are."""
    tolerance = {20: 0.01, 14: 0.02, 10: 0.03}.get(calls)
    if tolerance is None:
        return None
    return sample_forecast(cell.velocity, cell.x, cell.native, tolerance=tolerance)


def ode(cell: Cell, calls: int) -> Tensor:
    """Aims at the ODE, on a grid of its own whatever the family's."""
    return sample_ode(cell.velocity, cell.x, ode_grid(calls))


def unipc_on_ode_grid(cell: Cell, calls: int) -> Tensor:
    """What the grid of ``ode`` alone does for an ordinary solver."""
    return sample_forecast(cell.velocity, cell.x, ode_grid(calls), solver=unipc, calls=calls)


METHODS: dict[str, Method] = {
    "Euler": euler,
    "StableVS, best split": paper_best,
    "DPM++(2M)": on_native_grid(dpmpp_2m),
    "UniPC": on_native_grid(unipc),
    "RES multistep": on_native_grid(res_multistep),
    "UniPC, grid of ode": unipc_on_ode_grid,
    "ours, density": forecast("density"),
    "ours, fixed": forecast("auto"),
    "ours, guarded": forecast("guarded"),
    "ours, self-calibrated": self_calibrated,
    "ours, calibrated": calibrated,
    "ours, calibrated for 10": calibrated_for_10,
    "ours, adaptive": adaptive,
    "ours, ode": ode,
}
ONCE: dict[str, Method] = {
    "Euler, 30 steps": lambda cell, calls: euler(cell, STEPS),
    "StableVS, published": paper,
    "ours, safe": forecast("safe"),
}
"""Methods whose number of calls is their own."""
