"""Samplers and their rivals at equal calls, over four families' schedules.

    python dev.py bench samplers [--beds flows,prompted,failing,digits] [--flows ring] [--seed 1]

Four groups of beds: ``flows``, whose exact velocity is known; ``prompted``, guided flows whose
difference of cond and uncond persists as in trained networks; ``failing``, on which few calls
lose; ``digits``, the network that ``python dev.py demo`` leaves, at guidance 1, 2, 4 and 7. A group
writes table.md, samplers.png and cells.json into OUT/GROUP, and prints table and verdicts. With
--resume, beds that an earlier run has finished are taken from its files.

Rules are chosen on seeds below 100; 101 and above draw other modes, patches and noise, are for
measuring alone, and nothing is chosen by them.

Two aims are measured. E30: the result of 30 native Euler steps from the same noise, which the
paper measures against. ODE: the converged solution. dB = -20 log10(RMSE / std of the data), per
sample, then the mean over samples (as published PSNRs are means over pictures; capped at 100) and,
beside it, pooled: of the RMSE over the whole batch, which one flipped sample decides. A mode flip
is a sample that ends in another mode than the E30 run's. A guided call is two evaluations of the
network, cond + uncond. Seconds are those of one run, of a method with several settings those of
all of them, calibration and its checks included.

A further method is a function of a ``Cell`` and a number of calls: add it to ``METHODS`` of
``sampler_methods`` or to ``RIVALS`` of ``rival_methods``.
"""

import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sv_core.sampling import sample_ode
from sv_core.schedules import ode_grid

from .flows import FLOWS, Flow
from .hard_flows import FAILING, PROMPTED
from .networks import CHECKPOINT, digits_sit
from .rival_methods import RIVALS
from .sampler_methods import FAMILIES, METHODS, ONCE, Cell, Method
from .samplers_report import CALLS, RIVAL_CALLS, report

CAP = 100.0
GUIDANCE = (1, 2, 4, 7)
"""Of the trained digits."""

GROUPS = {"flows": FLOWS, "prompted": PROMPTED, "failing": FAILING}
BEDS = [(group, make.__name__) for group, makes in GROUPS.items() for make in makes]
BEDS += [("digits", f"digits_sit_{scale}") for scale in GUIDANCE]
"""Group and name; a bed's place in this list is part of its seeds."""


def build(index: int, seed: int) -> Flow:
    """The flow of a bed; another seed draws other modes, patches and trees."""
    group, name = BEDS[index]
    if group == "digits":
        return digits_sit(float(name.rpartition("_")[2]))
    makes = {make.__name__: make for make in GROUPS[group]}
    return makes[name](torch.Generator().manual_seed(1000 * seed + index))


def decibels(x: Tensor, target: Tensor, std: float) -> tuple[float, float]:
    """(mean over samples, pooled)."""
    mse = (x - target).square().flatten(1).mean(1) / std**2 + 10 ** (-CAP / 10)
    return float(-10 * mse.log10().mean()), float(-10 * mse.mean().log10())


def measure(cell: Cell, name: str, method: Method, calls: int) -> dict | None:
    """One row: a method with a number of calls on one cell."""
    cell.calls = 0
    began = time.perf_counter()
    x = method(cell, calls)
    seconds = time.perf_counter() - began
    if x is None:
        return None
    flow = cell.flow
    each, pooled = decibels(x, cell.base, flow.std)
    ode_each, ode_pooled = decibels(x, cell.truth, flow.std)
    flips = (flow.modes(x) != flow.modes(cell.base)).double().mean()
    return {
        "flow": flow.name,
        "family": cell.family,
        "method": name,
        "nominal": calls,
        "calls": cell.calls,
        "uncond": cell.calls * flow.guided,
        "seconds": seconds,
        "e30": each,
        "e30_pooled": pooled,
        "ode": ode_each,
        "ode_pooled": ode_pooled,
        "flips": 100 * float(flips),
    }


@dataclass(frozen=True)
class Extent:
    """How much of each bed is measured."""

    schedules: tuple[str, ...] = tuple(FAMILIES)
    samples: int = 512


def cells(flow: Flow, extent: Extent, seed: int) -> list[Cell]:
    """A flow on the schedules, from the same noise and the same converged solution."""
    generator = torch.Generator().manual_seed(seed)
    x, spare = (
        torch.randn(n, flow.size, generator=generator, dtype=torch.float64)
        for n in (min(flow.batch, extent.samples), 8)
    )
    truth = sample_ode(flow.velocity, x, ode_grid(400))
    return [Cell(flow, family, x, spare, truth) for family in extent.schedules]


def run_flow(index: int, extent: Extent, seed: int) -> list[dict]:
    """All rows of one bed."""
    torch.set_num_threads(1)
    rows = []
    flow = build(index, seed)
    for cell in cells(flow, extent, seed=100 * seed + index):
        rows += [measure(cell, name, method, 0) for name, method in ONCE.items()]
        for name, method in METHODS.items():
            rows += [measure(cell, name, method, calls) for calls in CALLS]
        for name, method in RIVALS.items():
            rows += [measure(cell, name, method, calls) for calls in RIVAL_CALLS]
    return [row for row in rows if row is not None]


def kept(index: int, extent: Extent, seed: int, folder: Path, resume: bool) -> list[dict]:
    """``run_flow``, or what it left in the folder."""
    file = folder / f"{BEDS[index][1]}_seed{seed}.json"
    if resume and file.is_file():
        return json.loads(file.read_text())
    rows = run_flow(index, extent, seed)
    file.write_text(json.dumps(rows, indent=1))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/samplers"))
    parser.add_argument("--beds", default="flows,prompted,failing,digits", help="groups of them")
    parser.add_argument("--flows", default="", help="only beds whose name contains one of these")
    parser.add_argument("--schedules", default=",".join(FAMILIES), help="only these")
    parser.add_argument("--samples", type=int, default=512, help="at most so many of each bed")
    parser.add_argument("--seed", type=int, default=1, help="from 101 on: held out")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--resume", action="store_true", help="keep the beds that are finished")
    options = parser.parse_args()
    groups = options.beds.split(",")
    wanted = [w for w in options.flows.split(",") if w]
    chosen = [
        i
        for i, (group, name) in enumerate(BEDS)
        if group in groups and (not wanted or any(w in name for w in wanted))
        if group != "digits" or CHECKPOINT.exists()
    ]
    if not chosen:
        names = ", ".join(f"{name} in {group}" for group, name in BEDS)
        parser.error(f"no bed is called that (have: {names}; digits need python dev.py demo)")
    began = time.perf_counter()
    folder = options.out / "beds"
    folder.mkdir(parents=True, exist_ok=True)
    extent = Extent(tuple(options.schedules.split(",")), options.samples)
    one = partial(kept, extent=extent, seed=options.seed, folder=folder, resume=options.resume)
    with ProcessPoolExecutor(options.jobs) as pool:
        # The largest flows come last in their lists: begin with them.
        found = dict(zip(reversed(chosen), pool.map(one, reversed(chosen)), strict=True))
    for group in groups:
        rows = [row for i in chosen if BEDS[i][0] == group for row in found[i]]
        if rows:
            report(group, rows, options.out / group)
    print(f"{time.perf_counter() - began:.0f} s -> {options.out}")


if __name__ == "__main__":
    main()
