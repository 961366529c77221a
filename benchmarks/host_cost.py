# ruff: noqa: TID251
"""What our sampler costs beside the model's calls, in the host: for ``host_methods.py``."""

import importlib.util
import time
import weakref
from functools import partial
from typing import Any

from host_beds import ROOT, STEPS, Bed, planned_samplers, plans  # which starts the host

import comfy.sample  # isort: skip
import comfy.samplers
import comfy.sd
import torch
from torch.utils._python_dispatch import TorchDispatchMode

CALLS = 14
RUNS = 12
SHAPES = ((1, 16, 16, 16), (1, 16, 32, 32), (1, 16, 64, 64), (1, 16, 128, 128))


class Free:
    """A denoiser that costs one product."""

    def __init__(self, patcher: Any):
        parts = {"model_patcher": patcher, "inner_model": patcher.model}
        self.inner_model = type("Guider", (), parts)()

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


def euler_of_the_host(denoiser, x, sigmas, extra_args, disable):
    sampler = comfy.samplers.sampler_object("euler").sampler_function
    return sampler(denoiser, x, sigmas, extra_args=extra_args, disable=disable)


def small_sd35() -> Any:
    """SD3.5 of two blocks and random weights: no model in use has so short a call."""
    spec = importlib.util.spec_from_file_location("tiny", ROOT / "tests/host/tiny.py")
    spec.loader.exec_module(tiny := importlib.util.module_from_spec(spec))
    return comfy.sd.load_diffusion_model_state_dict(tiny.diffusion_model(tiny.SD35, 1, 0.7))


def seconds(bed: Bed) -> None:
    """Time beside the model, by solver, and against a call of a model at the same latent size.

    The least of ``RUNS`` runs, turn by turn: what others do on the machine only adds.
    """
    denoiser, model = Free(bed.patcher), small_sd35()
    conds = [[torch.randn(1, 16, 4096), {"pooled_output": torch.randn(1, 2048)}]]
    solvers = ("euler", "dpmpp_2m", "unipc")
    print(f"\n### What {CALLS} calls of {STEPS} cost beside the model, on one CPU core\n")
    print("ms per call, in brackets the share of a call of that small SD3.5; 5 % of 4 ms are 0.2\n")
    print(
        "| latent | call of a small SD3.5 | "
        + " | ".join(f"ours, {s}" for s in solvers)
        + " | host's euler |"
    )
    print("|---|---|" + "---|" * (len(solvers) + 1))
    for shape in SHAPES:
        x = torch.randn(shape)
        planned = partial(planned_samplers.sample_planned, denoiser, x, bed.native)
        runs = [partial(planned, plan=plans.Plan(solver=s, calls=CALLS)) for s in solvers]
        runs.append(partial(euler_of_the_host, denoiser, x, bed.grid(CALLS)))
        times = [[] for _ in runs]
        for _ in range(RUNS):
            for run, taken in zip(runs, times, strict=True):
                began = time.perf_counter()
                run(extra_args={}, disable=True)
                taken.append(time.perf_counter() - began)
        call = []
        for _ in range(3):
            began = time.perf_counter()
            comfy.sample.sample_custom(
                model, x, 1.0, comfy.samplers.sampler_object("euler"), bed.grid(2), conds, conds,
                torch.zeros(shape), disable_pbar=True, seed=1,
            )  # fmt: skip
            call.append(1000 * (time.perf_counter() - began) / 2)
        call = min(call)
        row = (1000 * min(taken) / CALLS for taken in times)
        cells = (f"{ms:.3f} ({100 * ms / call:.1f} %)" for ms in row)
        print(f"| {' x '.join(map(str, shape))} | {call:.1f} | {' | '.join(cells)} |", flush=True)


def buffers(bed: Bed) -> None:
    """The most tensors of the latent's size that a run keeps."""
    denoiser = Free(bed.patcher)
    print("\n### Buffers of the size of the latent, at most alive at once\n")
    print("| solver | a call at every step (the base solver) | 14 of 30 calls | beyond it |")
    print("|---|---|---|---|")
    x = torch.randn(1, 4, 64, 64)
    for solver in ("euler", "ab2", "dpmpp_2m", "unipc"):
        most = []
        for calls in (STEPS, 14):
            with Live(x.untyped_storage().nbytes()) as live:
                plan = plans.Plan(solver=solver, calls=calls)
                planned_samplers.sample_planned(denoiser, x, bed.native, disable=True, plan=plan)
            most.append(live.most)
        print(f"| {solver} | {most[0]} | {most[1]} | {most[1] - most[0]} |")
