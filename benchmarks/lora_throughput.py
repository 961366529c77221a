"""Our LoRA training beside ComfyUI's TrainLoraNode: python -m benchmarks.lora_throughput

In every ComfyUI that dev.py finds, in its own Python: the same model file of random weights, the
same latents and texts, rank, batch, dtype, AdamW and checkpointing of each block, on one CPU core.
Every trainer is a process of its own; they take turns step by step, so that what else the machine
does falls on all. Times are medians over steps, ratios medians over rounds; CPU time is the figure
to read, as other programs lengthen it less than the clock's.

"rows" are the samples that the network is run on in a step. The node runs every row of a batch with
every caption of it and averages the predictions: at batch 4 that is 16 rows, and another method.
"tensors" is the most that a step allocates beyond what is there when it begins (torch's profiler);
"process" is how much the process grew from its imports to its peak, the model and its loading
included. The node's default checkpoints the network as a whole (depth 1), which saves nothing; it
is given depth 2, the blocks, in all rows but the one that says so. "bypass" is its mode without
merged weights. (Older versions have neither choice, and checkpoint the blocks.) The node trains
biases and norms of all layers too, and cannot be told not to; "all layers" are ours on every linear
layer instead of those in the blocks.

On SD3.5 and Wan only: with checkpointing the node's gradients for Flux are wrong, so its speed
there says nothing. Linux; some ten minutes for each ComfyUI, and 14 GB of memory.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sv_core.models.families import SD35, WAN22_14B, Family
from tests.host import circle
from tests.host.server import Host, find_hosts
from tests.training.toml_files import configure
from training.caching.plan import settings_of
from training.config.prepare import PrepareConfig
from training.data.format import LATENTS, CacheFolder, Index, Shard
from training.data.text import write_text

SCRIPT = Path(__file__).with_name("lora_throughput_host.py")
RANK, PICTURES, CAPTIONS = 16, 32, 2  # 16 references each for StableVM
WARM_UP = 2  # steps beside the first


def sd35(depth: int) -> dict[str, Any]:
    """Changes of the tests' SD3.5, whose width is 64 times its depth."""
    parameters = {"in_features": 4096, "out_features": 64 * depth}
    context = {"target": "torch.nn.Linear", "params": parameters}
    return {"depth": depth, "context_embedder_config": context}


@dataclass(frozen=True)
class Case:
    """A model, kept and trained in ``dtype``; the latents' ``side``, the texts' ``tokens``."""

    name: str
    family: Family
    config: str
    changes: dict[str, Any]
    side: int
    tokens: int
    batch: int = 1
    dtype: str = "fp32"
    frames: int | None = None
    whole: bool = False
    """Whether all trainers are measured, or those that matter most."""


_WAN = {"dim": 640, "num_heads": 5, "ffn_dim": 2560, "num_layers": 8}
_MID = Case("SD3.5, 9 blocks of 576", SD35, "SD35", sd35(9), side=24, tokens=77, whole=True)
CASES = {
    "tiny": Case("SD3.5, 2 blocks of 128", SD35, "SD35", {}, side=16, tokens=77, whole=True),
    "mid": _MID,
    "bf16": replace(_MID, dtype="bf16", whole=False),
    "batch": replace(_MID, batch=4, side=16, whole=False),
    "wan": Case("Wan, 8 blocks of 640", WAN22_14B, "WAN_14B", _WAN, side=12, tokens=512, frames=9),
}
NODES: dict[str, dict[str, Any]] = {
    "TrainLoraNode": {},
    "TrainLoraNode, bypass": {"bypass_mode": True},
    "TrainLoraNode, depth 1": {"checkpoint_depth": 1},
}
FEW = ("TrainLoraNode", "TrainLoraNode, bypass", "cfm", "stablevm")
OURS: dict[str, dict[str, dict[str, Any]]] = {
    "cfm": {},
    "all layers": {"lora": {"targets": ["*"]}},
    "stablevm": {"objective": {"kind": "stablevm"}},
    "stablevm, average": {"objective": {"kind": "stablevm"}, "optim": {"ema": [0.9999]}},
}


def write_cache(cache: Path, case: Case) -> None:
    """Random latents and texts."""
    draw = torch.Generator().manual_seed(0)
    latent, layout = case.family.latent, case.family.layout
    assert latent is not None and layout is not None
    frames = [] if case.frames is None else [1 + (case.frames - 1) // 4]
    shape = (latent.channels, *frames, case.side, case.side)
    raw = latent.from_model(torch.randn(PICTURES, *shape, generator=draw))[:, None].half()
    numbers = list(range(PICTURES))
    settings = settings_of(PrepareConfig(shard=PICTURES), latent, "captions")
    cache.mkdir()
    pixels = (case.side * latent.downscale,) * 2
    index = Index(
        settings=settings,
        latent=latent,
        conditions=[f"caption {number}" for number in range(CAPTIONS)],
        buckets=[pixels if case.frames is None else (case.frames, *pixels)],
        paths=[f"{number}.png" for number in numbers],
        sizes=[1] * PICTURES,
        mtimes=[1] * PICTURES,
        condition=[number % CAPTIONS for number in numbers],
        held_out=[0] * PICTURES,
        bucket=[0] * PICTURES,
        aside={},
        complete=True,
    )
    folder = CacheFolder(cache, index)
    folder.write(LATENTS, 0, Shard(raw, settings["vae"], numbers, {}, {}))
    folder.update()
    pooled = {"pooled": 2048} if layout.pooled else {}
    sizes = {name: (width,) for name, width in pooled.items()}
    sizes["context"] = (case.tokens, 4096)
    texts = [
        {name: torch.randn(size, generator=draw) for name, size in sizes.items()}
        for _ in range(CAPTIONS + 1)
    ]
    write_text(folder, texts)


class Trainer:
    """A process that does a step whenever it is told to."""

    def __init__(self, host: Host, arguments: list[object], variables: dict, log: Path):
        self.log, self.steps = log, []
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                [str(a) for a in (host.python, SCRIPT, host.folder, *arguments)],
                cwd=log.parent, env=variables, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=out,
            )  # fmt: skip
        self.able = bool(self._answer())  # the first step is over

    def _answer(self) -> dict[str, float]:
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(self.log.read_text(errors="replace")[-3000:])
        return json.loads(line)

    def _tell(self, word: str) -> dict[str, float]:
        self._process.stdin.write(f"{word}\n")
        self._process.stdin.flush()
        return self._answer()

    def step(self) -> dict[str, float]:
        return self._tell("go")

    def last(self) -> dict[str, float]:
        return self._tell("last")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def jobs(case: Case, host: Host, folder: Path) -> dict[str, list[object]]:
    """The arguments of each trainer's process, by its name in the table."""
    checkpoint, cache = str(folder / "model.safetensors"), str(folder / "cache")
    options = {
        "batch_size": case.batch, "steps": 100_000, "grad_accumulation_steps": 1,
        "learning_rate": 1e-4, "rank": RANK, "optimizer": "AdamW", "loss_function": "MSE",
        "seed": 0, "training_dtype": case.dtype, "lora_dtype": "fp32",
        "quantized_backward": False, "algorithm": "LoRA", "gradient_checkpointing": True,
        "checkpoint_depth": 2, "offloading": False, "existing_lora": "[None]",
        "bucket_mode": False, "bypass_mode": False,
    }  # fmt: skip
    result: dict[str, list[object]] = {}
    for name, changes in NODES.items():
        if not case.whole and name not in FEW:
            continue
        file = folder / f"node{len(result)}.json"
        job = {"checkpoint": checkpoint, "cache": cache, "options": options, "changes": changes}
        file.write_text(json.dumps(job))
        result[name] = ["node", file]
    for name, changes in OURS.items():
        if not case.whole and name not in FEW:
            continue
        sections: dict[str, dict[str, Any]] = {
            "comfy": {"checkpoint": checkpoint, "folder": str(host.folder)},
            "data": {
                "cache": cache, "batch_size": case.batch, "label_dropout": 0.0, "held_out": 0.0
            },
            "objective": {"kind": "cfm"},
            "lora": {"rank": RANK},
            "optim": {"steps": 100_000, "lr": 1e-4, "ema": []},
            "run": {
                "out": str(folder / f"run{len(result)}"), "device": "cpu", "recompute": True,
                "precision": case.dtype,
            },
        }  # fmt: skip
        for section, values in changes.items():
            sections[section] = sections[section] | values
        file = configure(folder / f"run{len(result)}.toml", **sections)
        result[f"ours, {name}"] = ["ours", file]
    return result


def measure(case: Case, host: Host, rounds: int, variables: dict, folder: Path) -> None:
    """Print the table of a case."""
    write_cache(folder / "cache", case)
    subprocess.run(
        [
            host.python, SCRIPT, host.folder, "write",
            folder / "model.safetensors", case.config, json.dumps(case.changes), case.dtype,
        ],
        env=variables, check=True, capture_output=True,
    )  # fmt: skip
    trainers: dict[str, Trainer] = {}
    found: dict[str, dict[str, float]] = {}
    taken: dict[str, list[dict[str, float]]] = {}
    try:
        for name, arguments in jobs(case, host, folder).items():
            log = folder / f"{arguments[1].stem}.log"
            trainer = Trainer(host, arguments, variables, log)
            if trainer.able:
                trainers[name] = trainer
            else:
                trainer.stop()
        taken = {name: [] for name in trainers}
        for _ in range(WARM_UP + rounds):
            for name, trainer in trainers.items():
                taken[name].append(trainer.step())
        found = {name: trainer.last() for name, trainer in trainers.items()}
    finally:
        for trainer in trainers.values():
            trainer.stop()
    frames = "" if case.frames is None else f" x {case.frames} frames"
    print(
        f"\n### {host.name}: {case.name}, latents of {case.side} x {case.side}{frames}, "
        f"{case.tokens} text tokens, batch {case.batch}, {case.dtype}\n"
    )
    print("| trainer | trained | rows | CPU s | ratio | clock s | ratio | tensors MB | ratio "
          "| process MB | ratio |\n|---|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
    first = next(iter(trainers))
    for name in trainers:
        steps = {key: [t[key] for t in taken[name][WARM_UP:]] for key in ("cpu", "wall")}
        cells = [f"{found[name]['trained'] / 1e6:.2f} M", f"{found[name]['rows']}"]
        for key, values in steps.items():
            others = [t[key] for t in taken[first][WARM_UP:]]
            ratio = statistics.median(a / b for a, b in zip(values, others, strict=True))
            cells += [f"{statistics.median(values):.3f}", f"{ratio:.2f}"]
        for key in ("tensors", "process"):
            ratio = found[name][key] / found[first][key]
            cells += [f"{found[name][key] / 1e6:.0f}", f"{ratio:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--case", choices=CASES, action="append", help="default: all")
    said = parser.parse_args()
    hosts = find_hosts()
    if not hosts:
        print("no ComfyUI found: set COMFYUI_PATH to the folder that holds its main.py")
        return 2
    print(f"rank {RANK}, AdamW, blocks checkpointed, {said.rounds} rounds on one CPU core")
    for host in hosts:
        for name in said.case or CASES:
            with tempfile.TemporaryDirectory() as folder:
                base = Path(folder)
                variables = circle.environment(base / "packages")
                measure(CASES[name], host, said.rounds, variables, base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
