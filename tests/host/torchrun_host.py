"""Runs of python -m training.finetune in a host's Python, some alone, some as two processes.

    PYTHON torchrun_host.py COMFY PLAN

PLAN is a JSON file: ``starts``, a list of [FAMILY, DTYPE, FILE] to be written as models of random
weights, and ``phases``, each of which has jobs for ``one`` process and for ``two`` that work
together (with what torchrun tells them), both at the same time. A job is {"config": FILE, "resume":
true or false, "stop": the step after which the last process is asked to end, or 0, "copy": a folder
that the run's is then copied to, or null}. What they say is in one.log, two0.log and two1.log
beside PLAN.

ComfyUI is imported once, and all processes are forked from that.
"""

import json
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import circle_host  # opens the ComfyUI of sys.argv[1], and puts the stand-ins in place
import torch
from safetensors.torch import load_file, save_file

from training import finetune
from training.config.load import load
from training.engine.distributed import Processes
from training.networks.comfy import backbone as comfy_backbone
from training.networks.comfy import self_check
from training.run import preview
from training.run.step import Learner

PATIENCE = 150.0
STOPPED = 130
WORLD = 2


def start(family: str, dtype: str, file: str) -> None:
    """A model of random weights; 8 bits are for matrices only."""
    circle_host.tiny.as_dit = lambda state: state  # no LoRA would have a gradient at first
    circle_host.tiny.start(family, file)
    kind = getattr(torch, dtype)
    state = load_file(file)
    save_file(
        {k: v.to(kind) if kind.itemsize > 1 or v.ndim > 1 else v for k, v in state.items()}, file
    )


def hasten() -> None:
    """What these runs are not about, and would repeat in each, takes most of a tiny run's time."""
    preview.SHEETS, preview.CALLS = ((float("inf"), (2, 1, 2)),), 6
    self_check.self_check = lambda backbone, host: (
        None
    )  # the families' derivatives have their own tests
    known: dict[str, list[str]] = {}
    idle = comfy_backbone._without_gradient

    def remembered(backbone) -> list[str]:
        name = backbone.family.name
        if name not in known:
            known[name] = idle(backbone)
        return known[name]

    comfy_backbone._without_gradient = remembered


def asking_to_end(update, stop: int):
    """Learner.update that ends in what Ctrl-C does, once, after that step."""

    def updated(self, step):
        done = update(self, step)
        if step == stop:
            signal.raise_signal(signal.SIGTERM)
        return done

    return updated


def work(jobs: list[dict], name: str, rank: int, world: int, port: int, folder: Path) -> None:
    """One process's whole life."""
    log = os.open(folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(log, stream)
    if world > 1:
        os.environ |= {
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank),
            "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world),
        }  # fmt: skip
    Processes.leave = lambda self: None  # the connection is for all jobs
    hasten()
    update = Learner.update
    for job in jobs:
        began = time.perf_counter()
        last = rank == world - 1
        Learner.update = asking_to_end(update, job["stop"]) if last and job["stop"] else update
        code = finetune.main([job["config"], *["--resume"] * job["resume"]])
        print(f"{job['config']} {code} {time.perf_counter() - began:.2f} s", flush=True)
        if code != (STOPPED if job["stop"] else 0):
            sys.exit(f"{job['config']} ended with {code}")
        if job["copy"] and rank == 0:
            shutil.copytree(load(Path(job["config"])).run.out, job["copy"])
    if world > 1:
        torch.distributed.destroy_process_group()


def main() -> int:
    plan = Path(sys.argv[2])
    said = json.loads(plan.read_text())
    for family, dtype, file in said["starts"]:
        start(family, dtype, file)
    fork = multiprocessing.get_context("fork")
    for phase in said["phases"]:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        who = [(phase["one"], "one", 0, 1)]
        who += [(phase["two"], f"two{rank}", rank, WORLD) for rank in range(WORLD)]
        processes = [
            fork.Process(target=work, args=(*arguments, port, plan.parent), daemon=True)
            for arguments in who
        ]
        for process in processes:
            process.start()
        ends = time.monotonic() + PATIENCE
        while any(p.is_alive() for p in processes) and time.monotonic() < ends:
            time.sleep(0.05)
            if any(p.exitcode for p in processes):  # the others would wait in vain
                break
        codes = [p.exitcode for p in processes]
        for process in processes:
            process.kill()
        if any(codes) or None in codes:
            print(f"one and two ended with {codes}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
