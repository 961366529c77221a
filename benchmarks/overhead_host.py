# ruff: noqa: TID251
"""What Fewer Calls costs beside the model's calls, in the host: for ``host_overhead.py``."""

import statistics
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from host_cost import Free, Live, small_sd35  # which starts the host

import comfy.sample  # isort: skip
import comfy.samplers
import torch
from host_beds import PACK, flow

any_sampler = import_module(".nodes.samplers.any_sampler", PACK)
table = import_module(".nodes.samplers.sampler_table", PACK)
STEPS, RUNS = 20, 5
IMAGE, VIDEO = (1, 16, 128, 128), (1, 16, 21, 60, 104)
TIMED = ("euler", "res_multistep", "uni_pc", "er_sde")
Run = Callable[..., torch.Tensor]


def with_node(name: str) -> Run:
    """The sampler's function with half of its calls."""
    ours = any_sampler.FewerCalls(any_sampler.Choice(), lambda text: None)
    return ours._with_fewer_calls(comfy.samplers.sampler_object(name).sampler_function, None)


def own(name: str) -> Run:
    return comfy.samplers.sampler_object(name).sampler_function


def left_alone(function: Run) -> bool:
    return table.name_of(function) in table.LEFT_ALONE


def sampled(run: Run, denoiser: Any, x: torch.Tensor, sigmas: torch.Tensor) -> None:
    arguments = {"extra_args": {"seed": 1}, "callback": None, "disable": True}
    run(denoiser, x.clone(), sigmas.clone(), **arguments)


def milliseconds(runs: list[Run], *arguments: Any) -> list[float]:
    """The median of ``RUNS`` turns, in which each is run once."""
    times: list[list[float]] = [[] for _ in runs]
    for turn in range(RUNS + 1):
        for run, taken in zip(runs, times, strict=True):
            began = time.perf_counter()
            sampled(run, *arguments)
            if turn:  # the first one warms up
                taken.append(1000 * (time.perf_counter() - began))
    return [statistics.median(taken) for taken in times]


def call_of(patcher: Any, sigmas: torch.Tensor) -> float:
    """Milliseconds of one call of the small SD3.5 at the picture's size, the least of three."""
    conds = [[torch.randn(1, 16, 4096), {"pooled_output": torch.randn(1, 2048)}]]
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        comfy.sample.sample_custom(
            patcher, torch.randn(IMAGE), 1.0, comfy.samplers.sampler_object("euler"), sigmas[:3],
            conds, conds, torch.zeros(IMAGE), disable_pbar=True, seed=1,
        )  # fmt: skip
        taken.append(500 * (time.perf_counter() - began))
    return min(taken)


def seconds(patcher: Any, sigmas: torch.Tensor) -> None:
    call, calls = call_of(patcher, sigmas), STEPS // 2
    print(f"\n### Fewer Calls beside the model's calls: {calls} of {STEPS}, one core\n")
    print(f"A call of the small SD3.5 at 128 x 128 takes {call:.0f} ms here; in brackets the share")
    print("of it. The network is one product, so that all else is the sampler and the node.\n")
    print("| latent | sampler | its own 20 steps, ms | with the node, ms in all | ms per call |")
    print("|---|---|---|---|---|")
    for shape in (IMAGE, VIDEO):
        for name in TIMED:
            runs = [own(name), with_node(name)]
            by_itself, ours = milliseconds(runs, Free(patcher), torch.randn(shape), sigmas)
            cells = (f"{ms:.1f} ({100 * ms / call:.2f} %)" for ms in (ours, ours / calls))
            size = " x ".join(map(str, shape))
            print(f"| {size} | {name} | {by_itself:.1f} | {' | '.join(cells)} |", flush=True)


def most(run: Run, patcher: Any, x: torch.Tensor, sigmas: torch.Tensor) -> int:
    """The most tensors of x's size at once, the start not counted."""
    with Live(x.untyped_storage().nbytes()) as live:
        sampled(run, Free(patcher), x, sigmas)
    return live.most - 1


def buffers(patcher: Any) -> None:
    sigmas, x = flow.host_grid(patcher, "simple", 40, 1.0), torch.randn(VIDEO)
    print("\n### Tensors of the latent's size at once: 20 calls of 40 on 21 x 60 x 104\n")
    print("| sampler | by itself | with the node |")
    print("|---|---|---|")
    for name in comfy.samplers.SAMPLER_NAMES:
        function = own(name)
        if "cfg_pp" in name or name in ("stable_vs", "dpm_adaptive") or left_alone(function):
            continue
        if name.startswith(("dpmpp_sde", "dpmpp_2m_sde")):  # minutes: Brownian noise
            continue
        found = (most(run, patcher, x, sigmas) for run in (function, with_node(name)))
        print(f"| {name} | {' | '.join(map(str, found))} |", flush=True)


@torch.inference_mode()
def inside() -> None:
    patcher = small_sd35()
    seconds(patcher, flow.host_grid(patcher, "simple", STEPS, 1.0))
    buffers(patcher)


inside()
