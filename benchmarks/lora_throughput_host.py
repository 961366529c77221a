# ruff: noqa: TID251  it measures inside ComfyUI
"""One trainer at work in a ComfyUI's own Python, step by step: for ``lora_throughput.py``.

    PYTHON lora_throughput_host.py COMFY write FILE ...        a model of random weights
    PYTHON lora_throughput_host.py COMFY ours CONFIG.toml      python -m training.finetune's run
    PYTHON lora_throughput_host.py COMFY node JOB.json         TrainLoraNode, as a graph calls it

A trainer says on standard output, in JSON, what each step took, and goes on when it is told to: so
that several can take turns. A step is what lies between two ends of ``AdamW.step``, which torch
tells of itself: neither trainer is touched. On the word "last" a step is recorded by torch's
profiler and the process ends.
"""

import importlib.util
import inspect
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMFY = Path(sys.argv[1])
sys.path[0] = str(COMFY)  # in place of this folder
ANSWERS = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what ComfyUI prints is no answer

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch.nn.modules.module import register_module_forward_pre_hook  # noqa: E402
from torch.optim.optimizer import register_optimizer_step_post_hook  # noqa: E402
from torch.profiler import ProfilerActivity, profile  # noqa: E402

from training.config import load  # noqa: E402
from training.data.cache import LatentCache  # noqa: E402
from training.networks.comfy.host import open_host  # noqa: E402
from training.run import loop  # noqa: E402

torch.set_num_threads(1)
# Both get what this sets: PyTorch's attention, which ComfyUI takes by itself on a GPU only.
open_host(COMFY, torch.device("cpu"))

import comfy.sd  # noqa: E402
from comfy_extras import nodes_train  # noqa: E402

NETWORKS = ("joint_blocks", "blocks")  # by the list of blocks that a network has


class Done(Exception):
    """All was measured."""


def resident() -> int:
    """The most bytes that this process has had in memory so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Meter:
    """Called at the end of each step; waits there for its turn."""

    def __init__(self) -> None:
        self.before = resident()
        self.profiler: profile | None = None
        self.rows = 0
        self.start()

    def start(self) -> None:
        self.cpu, self.wall = time.process_time(), time.perf_counter()

    def __call__(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self.profiler is not None:
            self.end(optimizer)
        took = {"cpu": time.process_time() - self.cpu, "wall": time.perf_counter() - self.wall}
        say(took)
        if sys.stdin.readline().strip() == "last":
            self.peak = resident()
            register_module_forward_pre_hook(self.count)
            self.profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self.profiler.start()
        self.start()

    def count(self, module: torch.nn.Module, inputs: tuple) -> None:
        if any(hasattr(module, name) for name in NETWORKS):
            self.rows += len(inputs[0])

    def end(self, optimizer: torch.optim.Optimizer) -> None:
        self.profiler.stop()
        events = self.profiler.profiler.kineto_results.events()
        memory = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
        now = most = 0
        for _, change in memory:
            now += change
            most = max(most, now)
        trained = [p for group in optimizer.param_groups for p in group["params"]]
        say(
            {
                "rows": self.rows,
                "trained": sum(p.numel() for p in trained),
                "tensors": most,
                "process": self.peak - self.before,
            }
        )
        raise Done


def say(what: dict[str, Any]) -> None:
    print(json.dumps(what), file=ANSWERS, flush=True)


def write(file: str, name: str, changes: str, dtype: str) -> None:
    """A model of tests/host/tiny.py's configuration of that name, changed; kept in that dtype."""
    spec = importlib.util.spec_from_file_location("tiny", ROOT / "tests/host/tiny.py")
    spec.loader.exec_module(tiny := importlib.util.module_from_spec(spec))
    state = tiny.diffusion_model(getattr(tiny, name) | json.loads(changes), seed=1, gain=0.7)
    kept = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
    save_file({key: value.to(kept) for key, value in state.items()}, file)


def ours(path: str) -> None:
    loop.train(load.load(Path(path)))


def node(path: str) -> None:
    """TrainLoraNode on the whole of a cache, a caption to each latent.

    Says nothing of a step when it knows no such option as is to be changed.
    """
    job = json.loads(Path(path).read_text())
    cache = LatentCache(Path(job["cache"]))
    latents, labels, _ = cache.gather(range(len(cache)))
    positive = []
    for label in labels.tolist():
        entry = cache.text[label]
        pooled = {"pooled_output": entry["pooled"][None]} if "pooled" in entry else {}
        positive.append([entry["context"][None].float(), pooled])
    said = (
        job["options"]
        | job["changes"]
        | {
            "model": comfy.sd.load_diffusion_model(job["checkpoint"]),  # as UNETLoader does
            "latents": {"samples": latents},
            "positive": positive,
        }
    )
    kind = nodes_train.TrainLoraNode
    new = hasattr(kind, "execute")  # its inputs are lists
    run = kind.execute if new else kind().train
    known = inspect.signature(run).parameters
    if any(name not in known for name in job["changes"]):
        say({})
        raise Done
    run(**{name: [value] if new else value for name, value in said.items() if name in known})


def main() -> None:
    job, *arguments = sys.argv[2:]
    if job == "write":
        write(*arguments)
        return
    register_optimizer_step_post_hook(Meter())
    try:
        {"ours": ours, "node": node}[job](*arguments)
    except Done:
        return
    raise RuntimeError("the trainer ended before it was told to")


main()  # it is no module, and no benchmark of its own
