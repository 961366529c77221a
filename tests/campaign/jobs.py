"""What the campaign disturbs: a training, a preparation and a sampling, half a second each.

A job is started again after every disturbance, as a person would, and must end with the results of
an undisturbed one.
"""

import contextlib
import hashlib
import io
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from sv_core.latent import pixels
from sv_core.models.sit import SiT, SiTConfig
from sv_core.models.sit_file import to_metadata
from training import finetune, prepare, sample
from training.data import digits
from training.data.cache import LatentCache
from training.files import read_weights, save_weights
from training.run.folder import RunFolder

STEPS, EVERY = 6, 2
CONFIG = f"""
[model]
patch_size = 4
hidden_size = 16
depth = 1
num_heads = 2
[data]
batch_size = 8
[objective]
bank = 8
[optim]
steps = {STEPS}
lr = 3e-3
ema = [0.9, 0.5]
[run]
device = "cpu"
save_every = {EVERY}
keep_last = 2
"""


class Job(NamedTuple):
    """``start`` begins it in a folder or goes on there; ``result`` is what it made, to the bit."""

    start: Callable[[Path], int]
    result: Callable[[Path], str]
    kept: Callable[[Path], int]
    """How much of it is safe on the disk: a number that no disturbance may lower."""


def quietly(main: Callable[[list[str]], int], arguments: list[object]) -> tuple[int, str]:
    """(exit code, what it says on both streams) of a command."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            code = main([str(a) for a in arguments])
        except SystemExit as e:
            code = e.code if isinstance(e.code, int) else 1
        except Exception:  # guard should have let none through
            said.write(traceback.format_exc())
            code = 1
    return code, said.getvalue()


class Failed(Exception):
    """A command called an error of its own a defect: its text."""


def _go(main: Callable[[list[str]], int], arguments: list[object]) -> int:
    code, said = quietly(main, arguments)
    if code not in (0, 2, 130):
        raise Failed(said[-2000:])
    return code


def _train(folder: Path) -> int:
    resume = ["--resume"] if RunFolder(folder / "run").begun() else []
    config = folder.parent / "train.toml"
    return _go(finetune.main, [config, "--set", f'run.out="{folder}/run"', *resume])


def _trained(folder: Path) -> str:
    run = RunFolder(folder / "run")
    tensors = [read_weights(run.weights(STEPS, d))[0] for d in (None, 0.5)]
    losses = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    facts = [(x["step"], x["loss"]) for x in losses]
    left = sorted(p.name for p in run.out.glob("weights-*")) + run.states.steps()
    return _digest(*(t for named in tensors for t in named.values())) + repr((facts, left))


def _saved(folder: Path) -> int:
    states = RunFolder(folder / "run").states
    for step in states.steps():
        with contextlib.suppress(ValueError):
            return states.verify(step).step
    return 0


def _prepare(folder: Path) -> int:
    pictures, sets = folder.parent / "pictures", ("size=8", "channels=1", "shard=4", "workers=1")
    arguments = [part for s in sets for part in ("--set", s)]
    return _go(prepare.main, [pictures, folder / "cache", *arguments])


def _prepared(folder: Path) -> str:
    cache = LatentCache(folder / "cache")
    latents, labels, _ = cache.gather(range(len(cache)))
    return _digest(latents, labels) + repr(cache.identity)


def _sample(folder: Path) -> int:
    options = ["--n", "5", "--batch", "2", "--steps", "2"]
    return _go(sample.main, [folder.parent / "sit.safetensors", folder / "samples", *options])


def _sampled(folder: Path) -> str:
    with np.load(folder / "samples" / "samples.npz", allow_pickle=False) as file:
        images = torch.from_numpy(file["arr_0"])
    return _digest(images) + repr(sorted(p.name for p in (folder / "samples").glob("[!.]*")))


def _digest(*tensors: torch.Tensor) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


JOBS = {
    "train": Job(_train, _trained, _saved),
    "prepare": Job(_prepare, _prepared, lambda f: len(list((f / "cache").glob("latents-*")))),
    "sample": Job(_sample, _sampled, lambda f: int((f / "samples/samples.npz").exists())),
}


def furnish(home: Path) -> None:
    """What the jobs read: a configuration, pictures, a checkpoint. Each works in a folder below."""
    tqdm.monitor_interval = 0  # no thread beside a process that is going to be copied
    tqdm.set_lock(threading.RLock())  # its own is shared with copies, and a killed one keeps it
    torch.set_num_threads(1)
    (home / "train.toml").write_text(CONFIG)
    data = digits.load()[0]
    for i in range(10):
        path = home / "pictures" / str(int(data.labels[i])) / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((data.images[i, 0] * 255).byte().numpy()).save(path)
    config = SiTConfig(8, 4, 1, 16, 1, 2, num_classes=3)
    torch.manual_seed(0)
    model = SiT(config)
    torch.nn.init.normal_(model.final_layer.linear.weight, std=0.1)
    facts = to_metadata(config, pixels(1))
    save_weights(home / "sit.safetensors", model.state_dict(), facts)
    sys.stdout.flush()


class Whole(NamedTuple):
    """What an undisturbed job made, and in how many seconds."""

    result: str
    seconds: float


def undisturbed(home: Path) -> dict[str, Whole]:
    """Each job without a disturbance; the second time, as the first one loads libraries."""
    found = {}
    for name, job in JOBS.items():
        for folder in (home / f"{name} one", home / f"{name} two"):
            folder.mkdir()
            began = time.monotonic()
            assert job.start(folder) == 0, name
            found[name] = Whole(job.result(folder), time.monotonic() - began)
    return found


HANG = 10.0
"""Seconds that a job may take after whatever was done to it, on a machine that is not busy."""


def hang() -> float:
    """HANG, longer by as much as others keep the machine busy."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 1.0
    return HANG * max(1.0, load / (os.cpu_count() or 1))


def finish(job: Job, whole: Whole, work: Path) -> tuple[str, str] | None:
    """Start a job that was disturbed once more; (outcome, detail) when it ends wrong."""
    began = time.monotonic()
    try:
        if job.start(work):
            return "loss", "it could not go on"
    except Failed as e:
        return "traceback", str(e)
    if time.monotonic() - began > hang():
        return "hang", f"{time.monotonic() - began:.0f} s"
    made = job.result(work)
    if made == whole.result:
        return None
    return "silent", f"another result: ...{made[-300:]}, and not ...{whole.result[-300:]}"
