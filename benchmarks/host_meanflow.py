"""One call against thirty inside ComfyUI: ``python -m benchmarks.host_meanflow``.

Needs the two networks that ``benchmarks.digits_meanflow`` leaves. A server of each ComfyUI that is
found draws a thousand digits each way, a hundred a prompt, through loader, sampler, VAEDecode and
SaveImage; the pictures that it wrote are judged as there. Seconds are the prompt's, from its first
node to its last, the median of ten. One table per ComfyUI.
"""

import argparse
import json
import shutil
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests.host.server import Server, find_hosts
from training.demo.recogniser import Recogniser

from .digits_objectives import Judge

ROOT = Path(__file__).resolve().parent.parent
FLOW, MEANFLOW = "digits_sit.safetensors", "digits_meanflow.safetensors"
HUNDREDS = 10
GUIDANCE = 1.25


def node(kind: str, **inputs: Any) -> dict:
    return {"class_type": kind, "inputs": inputs}


def prompt(file: str, sampler: dict, steps: int, cfg: float) -> dict:
    """The workflow of the digits: ten of each class."""
    return {
        "1": node("SiTLoader", checkpoint=file, shift=3.0, time_direction="auto"),
        "2": node("SiTClassCondition", classes="0-9", copies=10, model=["1", 0]),
        "3": node("BasicScheduler", scheduler="simple", steps=steps, denoise=1.0, model=["1", 0]),
        "4": sampler,
        "5": node(
            "SamplerCustom", add_noise=True, noise_seed=0, cfg=cfg, model=["1", 0],
            positive=["2", 0], negative=["2", 1], sampler=["4", 0], sigmas=["3", 0],
            latent_image=["2", 2],
        ),
        "7": node("VAEDecode", samples=["5", 0], vae=["1", 1]),
        "8": node("SaveImage", filename_prefix="digits", images=["7", 0]),
    }  # fmt: skip


def ways() -> dict[str, tuple[int, dict]]:
    """Name -> calls and prompt."""
    euler = node("KSamplerSelect", sampler_name="euler")
    forecast = node("KSamplerSelect", sampler_name="stable_vs")
    jumps = {
        f"MeanFlow, guidance {GUIDANCE:g} built in, {n} calls": (
            n,
            prompt(MEANFLOW, node("MeanFlowSampler", calls=n), n, 1.0),
        )
        for n in (1, 2, 4, 8)
    }
    flow = {
        f"flow, euler, guidance {cfg:g}": (30, prompt(FLOW, euler, 30, cfg))
        for cfg in (1.0, GUIDANCE)
    }
    name = f"flow, stable_vs, guidance {GUIDANCE:g}"
    return flow | {name: (14, prompt(FLOW, forecast, 30, GUIDANCE))} | jumps


def seconds(entry: dict) -> float:
    """From the prompt's first node to its last, by the host's own clock (in milliseconds)."""
    stamps = {kind: said["timestamp"] for kind, said in entry["status"]["messages"]}
    return (stamps["execution_success"] - stamps["execution_start"]) / 1000


def measure(server: Server, made: dict, judge: Judge, eye: Recogniser) -> tuple[float, ...]:
    """(seconds, recognised, recognised of the first hundred, Fréchet distance)."""
    server.run(made)  # loads the network
    images, times = [], []
    for seed in range(1, HUNDREDS + 1):
        made["5"]["inputs"]["noise_seed"] = seed
        entry = server.finished(server.queue(made))
        times.append(seconds(entry))
        files = server.pictures(entry["outputs"]["8"])
        images.append(np.stack([np.asarray(Image.open(f).convert("L")) for f in files]))
    found = torch.from_numpy(np.concatenate(images))[:, None] / 255
    labels = torch.arange(10).repeat(10 * HUNDREDS)  # 0 to 9, and again
    return (
        statistics.median(times),
        100 * eye.share(found, labels),
        100 * eye.share(found[:100], labels[:100]),
        judge.distance(found),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--flow", type=Path, default=ROOT / "out/demo" / FLOW)
    parser.add_argument("--meanflow", type=Path, default=ROOT / "out/digits_meanflow" / MEANFLOW)
    options = parser.parse_args()
    hosts = find_hosts()
    for missing in (f for f in (options.flow, options.meanflow) if not f.is_file()):
        print(f"there is no {missing}: run the benchmark digits_meanflow first", file=sys.stderr)
        return 2
    if not hosts:
        print("no ComfyUI found: name its folder in COMFYUI_PATH", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    judge, eye = Judge(), Recogniser()
    for host in hosts:
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder) / "models/diffusion_models"
            place.mkdir(parents=True)
            shutil.copy2(options.flow, place / FLOW)
            shutil.copy2(options.meanflow, place / MEANFLOW)
            server = Server(host, Path(folder))
            try:
                print(f"\n{host.name}\n\n| way | calls | seconds per 100 | recognised, % | Fréchet "
                      f"distance |\n|---|---|---|---|---|")  # fmt: skip
                for name, (calls, made) in ways().items():
                    took, share, hundred, distance = measure(server, json.loads(json.dumps(made)),
                                                             judge, eye)  # fmt: skip
                    print(f"| {name} | {calls} | {took:.2f} | {share:.1f} ({hundred:.0f}) | "
                          f"{distance:.2f} |", flush=True)  # fmt: skip
            finally:
                server.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
