# ruff: noqa: TID251
"""The methods and tables of ``host_samplers.py``: run by the host's interpreter, in its folder."""

import sys
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

from host_beds import (
    FAMILIES,
    SEED,
    STEPS,
    Bed,
    calibrate,
    digits_bed,
    flow,
    flow_bed,
    paper_sampler,
    planned_samplers,
    plans,
    schedules,
)

import comfy.sample  # isort: skip  after host_beds, which starts the host
import comfy.samplers
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_optimalsteps import OptimalStepsScheduler

from benchmarks.host_cost import buffers, seconds

CALLS = (8, 10, 12, 14, 20)

# Methods: (samples, calls of the network), or None where there is no such setting.


def hosts_own(name: str, bed: Bed, calls: int):
    return bed.run(comfy.samplers.sampler_object(name), bed.grid(calls))


def optimal_steps(kind: str, bed: Bed, calls: int):
    sigmas = OptimalStepsScheduler.execute(kind, calls, 1.0).args[0]
    return bed.run(comfy.samplers.sampler_object("euler"), sigmas)


@cache
def easy_cache_runs(bed: Bed) -> list[tuple]:
    runs = []
    starts, thresholds = bed.easy_cache
    for start in starts:
        for threshold in torch.logspace(-2.3, 0.477, thresholds).tolist():
            patcher = EasyCacheNode.execute(bed.patcher, threshold, start, 0.95, False).args[0]
            try:
                run = bed.run(comfy.samplers.sampler_object("euler"), bed.native, patcher)
            except RuntimeError:  # 0.3.64: the node adds tensors of other sizes with guidance
                continue
            runs.append(run)
    return runs


def easy_cache(bed: Bed, calls: int):
    runs = [run for run in easy_cache_runs(bed) if run[1] <= calls]
    return max(runs, key=lambda run: bed.decibels(run[0], bed.base), default=None)


def paper(bed: Bed, calls: int):
    """StableVS with the split 0.85 on the paper's grid of that many calls."""
    low = calls - schedules.split_index(bed.native, 0.85)
    if low < 1:
        return None
    sigmas = schedules.regime_split(bed.native, 0.85, low, bed.rule)
    return bed.run(flow.make_sampler(paper_sampler.sample_stable_vs, "euler"), sigmas)


def ours(bed: Bed, calls: int, **settings):
    plan = plans.Plan(**({"calls": calls} | settings))
    return bed.run(planned_samplers.PlannedSampler(plan), bed.native)


def self_calibrated(bed: Bed, calls: int):
    """The second picture of a queue."""
    sampler = planned_samplers.PlannedSampler(plans.Plan(plans.SELF, calls=calls))
    bed.run(sampler, bed.native, seed=1000 + calls)
    return bed.run(sampler, bed.native)


@cache
def calibration(bed: Bed):
    """For 10 calls: its list for them is checked, the others are not."""
    guider = comfy.samplers.CFGGuider(bed.patcher)
    guider.set_conds(*bed.conds)
    guider.set_cfg(bed.cfg)
    batch = {"samples": torch.zeros(1, *bed.shape[1:])}
    return calibrate.calibrate(guider, batch, bed.native, 8, 500, 10)


def calibrated(bed: Bed, calls: int):
    return ours(bed, calls, mode=plans.CALIBRATED, calibration=calibration(bed))


METHODS: dict[str, Callable] = {
    "host euler": partial(hosts_own, "euler"),
    "host dpmpp_2m": partial(hosts_own, "dpmpp_2m"),
    "host uni_pc": partial(hosts_own, "uni_pc"),
    "host res_multistep": partial(hosts_own, "res_multistep"),
    "host OptimalSteps FLUX": partial(optimal_steps, "FLUX"),
    "host OptimalSteps Wan": partial(optimal_steps, "Wan"),
    "host EasyCache, best setting": easy_cache,
    "StableVS, the paper's": paper,
    "ours, forecast": ours,
    "ours, self-calibrating": self_calibrated,
    "ours, calibrated for 10": calibrated,
    "ours, ode": partial(ours, mode=plans.ODE),
}


def fidelity(beds: list[Bed]) -> None:
    for title, target in (("E30: nearness to 30 euler steps", "base"), ("ODE", "truth")):
        print(f"\n### {title}, dB at so many real calls\n")
        print("| model | method | " + " | ".join(map(str, CALLS)) + " |")
        print("|---|---|" + "---|" * len(CALLS))
        for bed in beds:
            for name in METHODS:
                row = []
                for calls in CALLS:
                    made = RESULTS[bed.name, name, calls]
                    if made is None:
                        row.append("-")
                        continue
                    note = f" ({made[1]})" if made[1] != calls else ""
                    row.append(f"{bed.decibels(made[0], getattr(bed, target)):.1f}{note}")
                print(f"| {bed.name} | {name} | " + " | ".join(row) + " |", flush=True)


SCHEDULED = (
    "host euler",
    "host OptimalSteps FLUX",
    "host OptimalSteps Wan",
    "host EasyCache, best setting",
    "StableVS, the paper's",
    "ours, forecast",
    "ours, calibrated for 10",
)


def schedules_of_families(beds: list[Bed]) -> None:
    """E30 of some methods, averaged over the models, on every family's schedule."""
    print(f"\n### E30 on the families' schedules, dB, mean over the {len(beds)} models\n")
    print("| schedule | method | " + " | ".join(map(str, CALLS)) + " |")
    print("|---|---|" + "---|" * len(CALLS))
    for family in FAMILIES:
        there = [bed.on(family) for bed in beds]
        for name in SCHEDULED:
            row = []
            for calls in CALLS:
                made = [(bed, METHODS[name](bed, calls)) for bed in there]
                found = [bed.decibels(m[0], bed.base) for bed, m in made if m is not None]
                row.append(f"{sum(found) / len(found):.1f}" if len(found) == len(beds) else "-")
            print(f"| {family} | {name} | " + " | ".join(row) + " |", flush=True)


RESULTS: dict[tuple[str, str, int], tuple | None] = {}


def agreement(beds: list[Bed]) -> None:
    """Ours with a call at every step against the host's sampler of that name."""
    print("\n### The same solver, 30 calls: ours against the host's, dB\n")
    pairs = (
        ("euler", "euler"),
        ("dpmpp_2m", "dpmpp_2m"),
        ("unipc", "uni_pc"),
        ("unipc", "uni_pc_bh2"),
    )
    print("| model | " + " | ".join(f"{a} / {b}" for a, b in pairs) + " |")
    print("|---|" + "---|" * len(pairs))
    for bed in beds:
        row = []
        for own, theirs in pairs:
            x, _ = ours(bed, STEPS, solver=own)
            y, _ = bed.run(comfy.samplers.sampler_object(theirs), bed.native)
            row.append(f"{bed.decibels(x, y):.1f}")
        print(f"| {bed.name} | " + " | ".join(row) + " |")


@torch.inference_mode()
def inside(checkpoint: Path) -> None:
    print(f"ComfyUI in {Path.cwd().name}, torch {torch.__version__}, seed {SEED}")
    beds = [digits_bed(checkpoint), flow_bed(9, 4, 32), flow_bed(10, 16, 8)]
    for bed in beds:
        for name, method in METHODS.items():
            for calls in CALLS:
                RESULTS[bed.name, name, calls] = method(bed, calls)
    fidelity(beds)
    schedules_of_families(beds)
    agreement(beds)
    seconds(beds[0])
    buffers(beds[0])


inside(Path(sys.argv[2]))
