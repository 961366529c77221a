# ruff: noqa: TID251  it measures inside ComfyUI
"""Seconds of a run with Coarse First beside the plain one: python -m benchmarks.host_coarse_first

Both run in every ComfyUI that dev.py finds, turn by turn, on an SD3.5 of random weights, 384 wide
and six blocks deep, at 128 x 128 latents (a picture of 1024 x 1024), without guidance.
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
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (1, 16, 128, 128)
COUNTS = ((8, 3.0, "usual", 2), (30, 3.0, "faster", 1))
"""Steps, shift, the node's ``until`` and how often both are run."""


def measure_inside() -> list[dict]:
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
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    import nodes

    torch.set_num_threads(1)
    asyncio.run(nodes.load_custom_node(str(ROOT)))
    spec = importlib.util.spec_from_file_location("tiny", ROOT / "tests/host/tiny.py")
    spec.loader.exec_module(tiny := importlib.util.module_from_spec(spec))
    context = {"target": "torch.nn.Linear", "params": {"in_features": 4096, "out_features": 384}}
    config = tiny.SD35 | {"depth": 6, "context_embedder_config": context}
    weights = tiny.diffusion_model(config, 1, 0.7)
    model = comfy.sd.load_diffusion_model_state_dict(weights)
    text = [[torch.randn(1, 77, 4096), {"pooled_output": torch.randn(1, 2048)}]]
    sampler = comfy.samplers.sampler_object("euler")

    def run(model, steps: int, shift: float) -> float:
        model = ModelSamplingSD3().patch(model, shift)[0]
        sampling = model.get_model_object("model_sampling")
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
        began = time.perf_counter()
        comfy.sample.sample_custom(
            model, torch.randn(SHAPE), 1.0, sampler, sigmas, text, text, torch.zeros(SHAPE),
            disable_pbar=True, seed=1,
        )  # fmt: skip
        return time.perf_counter() - began

    found = []
    for steps, shift, until, repeats in COUNTS:
        node = nodes.NODE_CLASS_MAPPINGS["CoarseFirst"]
        ours = node.execute(model, "1/2", until, 0.7, False, 0.5, 2, False).args[0]
        pairs = [(run(model, steps, shift), run(ours, steps, shift)) for _ in range(repeats)]
        plain, coarse = (statistics.median(times) for times in zip(*pairs, strict=True))
        found.append({"steps": steps, "until": until, "plain": plain, "coarse": coarse})
    return found


def main() -> int:
    """Measure in every host and print a table."""
    sys.path.insert(0, str(ROOT))
    from training.networks.comfy.folder import find_all, python_of

    hosts = find_all()
    if not hosts:
        print("no ComfyUI found: set COMFYUI_PATH to the folder that holds its main.py")
        return 2
    print("| ComfyUI | steps | until | plain, s | Coarse First, s | ratio |")
    print("|---|---|---|---|---|---|")
    for host in hosts:
        done = subprocess.run(
            [python_of(host), __file__, "inside"],
            cwd=host, stdout=subprocess.PIPE, text=True, check=True,
            env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        for row in json.loads(done.stdout.splitlines()[-1]):
            ratio = row["plain"] / row["coarse"]
            print(
                f"| {host.name} | {row['steps']} | {row['until']} | {row['plain']:.1f} | "
                f"{row['coarse']:.1f} | {ratio:.2f} |",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    if sys.argv[1:] == ["inside"]:
        print(json.dumps(measure_inside()))
    else:
        sys.exit(main())
