# ruff: noqa: TID251
"""The methods and tables of ``host_samplers.py``: run by the host's interpreter, in its folder."""

import sys
import time
import weakref
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

from host_beds import (
    SEED,
    STEPS,
    Bed,
    digits_bed,
    flow_bed,
    forecast,
    host,
    recording,
    sampling,
    schedules,
)

import comfy.sample  # isort: skip  after host_beds, which starts the host
import comfy.samplers
import torch
from comfy_extras.nodes_easycache import EasyCacheNode
from comfy_extras.nodes_optimalsteps import OptimalStepsScheduler
from torch.utils._python_dispatch import TorchDispatchMode

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
    for start in (0.05, 0.15, 0.3):
        for threshold in torch.logspace(-2.3, 0.477, 30).tolist():
            patcher = EasyCacheNode.execute(bed.patcher, threshold, start, 0.95, False).args[0]
            runs.append(bed.run(comfy.samplers.sampler_object("euler"), bed.native, patcher))
    return runs


def easy_cache(bed: Bed, calls: int):
    runs = [run for run in easy_cache_runs(bed) if run[1] <= calls]
    return max(runs, key=lambda run: bed.decibels(run[0], bed.base), default=None)


def paper(bed: Bed, calls: int):
    """StableVS with the split 0.85 on the paper's grid of that many calls; 20 is the published."""
    low = calls - schedules.split_index(bed.native, 0.85)
    if low < 1:
        return None
    sigmas = schedules.regime_split(bed.native, 0.85, low)
    return bed.run(host.make_sampler(sampling.sample_stable_vs, "euler"), sigmas)


def ours(bed: Bed, calls: int, **settings):
    plan = forecast.Plan(**({"calls": calls} | settings))
    return bed.run(forecast.PlannedSampler(plan), bed.native)


def self_calibrated(bed: Bed, calls: int):
    """The second picture of a queue."""
    sampler = forecast.PlannedSampler(forecast.Plan(forecast.SELF, calls=calls))
    bed.run(sampler, bed.native, seed=1000 + calls)
    return bed.run(sampler, bed.native)


@cache
def calibration(bed: Bed):
    guider = comfy.samplers.CFGGuider(bed.patcher)
    guider.set_conds(*bed.conds)
    guider.set_cfg(bed.cfg)
    batch = {"samples": torch.zeros(1, *bed.shape[1:])}
    gram = recording.record_runs(guider, batch, bed.native, 8, 500)
    return recording.calibration_from(gram, bed.patcher, bed.native, 8, 500)


def calibrated(bed: Bed, calls: int):
    return ours(bed, calls, mode=forecast.CALIBRATED, calibration=calibration(bed))


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
    "ours, calibrated": calibrated,
    "ours, ode": partial(ours, mode=forecast.ODE),
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


class Free:
    """A denoiser that costs one product."""

    def __init__(self, patcher: Any):
        self.inner_model = type("Guider", (), {"model_patcher": patcher})()

    def __call__(self, x, sigma, **options):
        return 0.5 * x


class Live(TorchDispatchMode):
    """The most tensors of ``size`` bytes that lived at once, each memory counted once."""

    def __init__(self, size: int):
        super().__init__()
        self.size, self.now, self.most, self.known = size, 0, 0, weakref.WeakSet()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        if isinstance(made, torch.Tensor):
            storage = made.untyped_storage()
            if storage.nbytes() == self.size and storage not in self.known:
                self.known.add(storage)
                self.now += 1
                weakref.finalize(storage, self.gone)
                self.most = max(self.most, self.now)
        return made

    def gone(self) -> None:
        self.now -= 1


def cost(bed: Bed) -> None:
    """What a run costs beside its model calls, and what it keeps."""
    denoiser, plan = Free(bed.patcher), forecast.Plan()
    print("\n### What 14 calls of 30 cost beside the model, on one CPU core\n")
    print("| latent | ms per call | share of a 4 ms call | host's euler, 14 steps, ms per step |")
    print("|---|---|---|---|")
    for shape in ((1, 16, 16, 16), (1, 4, 64, 64), (1, 16, 64, 64), (1, 16, 128, 128)):
        x = torch.randn(shape)
        per_call = []
        for run in (
            partial(forecast.sample_planned, denoiser, x, bed.native, plan=plan),
            partial(euler_of_the_host, denoiser, x, bed.grid(14)),
        ):
            times = []
            for _ in range(12):
                began = time.perf_counter()
                run(extra_args={}, disable=True)
                times.append(time.perf_counter() - began)
            per_call.append(1000 * sorted(times)[len(times) // 2] / 14)
        mine, theirs = per_call
        name = " x ".join(map(str, shape))
        print(f"| {name} | {mine:.3f} | {100 * mine / 4:.1f} % | {theirs:.3f} |")

    print("\n### Buffers of the size of the latent, at most alive at once\n")
    print("| solver | a call at every step (the base solver) | 14 of 30 calls | beyond it |")
    print("|---|---|---|---|")
    x = torch.randn(1, 4, 64, 64)
    for solver in ("euler", "ab2", "dpmpp_2m", "unipc"):
        most = []
        for calls in (STEPS, 14):
            with Live(x.untyped_storage().nbytes()) as live:
                plan = forecast.Plan(solver=solver, calls=calls)
                forecast.sample_planned(denoiser, x, bed.native, disable=True, plan=plan)
            most.append(live.most)
        print(f"| {solver} | {most[0]} | {most[1]} | {most[1] - most[0]} |")


def euler_of_the_host(denoiser, x, sigmas, extra_args, disable):
    sampler = comfy.samplers.sampler_object("euler").sampler_function
    return sampler(denoiser, x, sigmas, extra_args=extra_args, disable=disable)


@torch.inference_mode()
def inside(checkpoint: Path) -> None:
    print(f"ComfyUI in {Path.cwd().name}, torch {torch.__version__}, seed {SEED}")
    beds = [digits_bed(checkpoint), flow_bed(9, 4, 32), flow_bed(10, 16, 8)]
    for bed in beds:
        for name, method in METHODS.items():
            for calls in CALLS:
                RESULTS[bed.name, name, calls] = method(bed, calls)
    fidelity(beds)
    agreement(beds)
    cost(beds[0])


inside(Path(sys.argv[2]))
