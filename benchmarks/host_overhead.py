# ruff: noqa: TID251  it measures inside ComfyUI
"""What our samplers cost beside ComfyUI's own: python dev.py bench host_overhead

Then, by ``overhead_host.py``, what Fewer Calls costs beside the model's calls.

Both run in every ComfyUI that dev.py finds, with its own interpreter, on the same tiny SD3.5 of
random weights and the same SIGMAS, turn by turn; the table shows medians. Memory is the most that a
sampler holds at once in tensors of the latent's size, counted over every operation.
"""

import asyncio
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import time
import weakref
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNS = 21
SHAPE = (1, 16, 16, 16)
OURS = {"noise 0": 0.0, "noise 0.3": 0.3}


def measure_inside() -> dict[str, float]:
    """The figures of this ComfyUI; runs in its folder, in its interpreter."""
    sys.path[0] = os.getcwd()  # in place of this folder
    import comfy.options
    from comfy.cli_args import args

    args.cpu = True
    logging.disable(logging.WARNING)
    import comfy.sample
    import comfy.samplers
    import comfy.sd
    import comfy_config.config_parser  # noqa: F401
    import torch

    import nodes

    torch.set_num_threads(1)
    asyncio.run(nodes.load_custom_node(str(ROOT)))
    name = str(ROOT).replace(".", "_x_")
    flow = import_module(".nodes.host.flow", name)
    paper = import_module(".nodes.samplers.paper", name)
    spec = importlib.util.spec_from_file_location("tiny", ROOT / "tests/host/tiny.py")
    spec.loader.exec_module(tiny := importlib.util.module_from_spec(spec))
    model = comfy.sd.load_diffusion_model_state_dict(tiny.diffusion_model(tiny.SD35, 1, 0.7))
    sigmas = flow.host_grid(model, "simple", 20, 1.0)
    positive = [[torch.randn(1, 16, 4096), {"pooled_output": torch.randn(1, 2048)}]]
    samplers = {"euler": comfy.samplers.sampler_object("euler")}
    for label, noise in OURS.items():
        samplers[label] = flow.make_sampler(
            paper.sample_stable_vs, "euler", split=0.85, noise=noise
        )

    def run(sampler) -> float:
        began = time.perf_counter()
        comfy.sample.sample_custom(
            model, torch.randn(SHAPE), 1.0, sampler, sigmas, positive, positive,
            torch.zeros(SHAPE), disable_pbar=True, seed=1, callback=lambda *_: None,
        )  # fmt: skip
        return time.perf_counter() - began

    for sampler in samplers.values():
        run(sampler)
    times = {label: [] for label in samplers}
    for _ in range(RUNS):
        for label, sampler in samplers.items():
            times[label].append(run(sampler))
    result = {"call": statistics.median(times["euler"]) / (len(sigmas) - 1) * 1e3}
    for label in samplers:
        result[f"time {label}"] = statistics.median(times[label]) * 1e3
        pairs = zip(times[label], times["euler"], strict=True)
        result[f"ratio {label}"] = statistics.median(a / b for a, b in pairs)
        result[f"buffers {label}"] = most_at_once(samplers[label], model, sigmas)
    return result


def most_at_once(sampler, model, sigmas) -> float:
    """The most latents that a sampler keeps alive at once, the one it is given not counted."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    x = torch.randn(1, 16, 64, 64)
    live: dict[int, int] = {}
    peak = 0

    def drop(key: int) -> None:
        live[key] -= 1
        if not live[key]:
            del live[key]

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal peak
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.untyped_storage().nbytes() >= x.nbytes:
                key = out.untyped_storage().data_ptr()
                live[key] = live.get(key, 0) + 1
                weakref.finalize(out, drop, key)
                peak = max(peak, len(live.keys() - {x.data_ptr()}))
            return out

    class Denoiser:
        inner_model = type("Guider", (), {"model_patcher": model})()

        def __call__(self, x, sigma, **options):
            return x * 0.5

    with Count():
        sampler.sampler_function(
            Denoiser(), x, sigmas, {"seed": 1}, lambda step: None, True, **sampler.extra_options
        )
    return peak


def main() -> int:
    sys.path.insert(0, str(ROOT))
    from training.networks.comfy.folder import find_all, python_of

    hosts = find_all()
    if not hosts:
        print("no ComfyUI found: set COMFYUI_PATH to the folder that holds its main.py")
        return 2
    print(f"{RUNS} runs of 20 steps each, medians; buffers: most latents held at once")
    for host in hosts:
        done = subprocess.run(
            [python_of(host), __file__, "inside"],
            cwd=host, stdout=subprocess.PIPE, text=True, check=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        got = json.loads(done.stdout.splitlines()[-1])
        print(f"\n{host.name}: {got['call']:.2f} ms per call with euler")
        print(f"{'sampler':<12}{'ms per run':>12}{'ratio':>9}{'buffers':>9}")
        for label in ("euler", *OURS):
            row = (got[f"{kind} {label}"] for kind in ("time", "ratio", "buffers"))
            print("{:<12}{:>12.1f}{:>9.3f}{:>9.0f}".format(label, *row), flush=True)
        command = [python_of(host), ROOT / "benchmarks/overhead_host.py", ROOT]
        subprocess.run(command, cwd=host, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["inside"]:
        print(json.dumps(measure_inside()))
    else:
        sys.exit(main())
