"""Train a network: python -m training.finetune CONFIG [--set k=v]... [--resume] [--dry-run]

Everything else is a key of the configuration file; see training/configs. With several processes:
torchrun --nproc_per_node N -m training.finetune CONFIG ...
"""

import argparse
import os
import sys
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open

from . import data
from .cli import add_debug, guard
from .config import Config, load
from .footprint import MOMENTS, tensor_bytes
from .learner import Learner
from .loop import train
from .objective import build_objective
from .parallel import Processes
from .state import CONFIG, TrainState


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training.finetune", description="Train a network from a TOML file."
    )
    parser.add_argument("config", metavar="CONFIG", type=Path, help="a TOML file")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one key of it, such as optim.lr=1e-4; may be repeated",
    )
    parser.add_argument(
        "--resume", action="store_true", help="go on with the run in run.out, exactly"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="build all, try one batch, write nothing"
    )
    add_debug(parser)
    return parser.parse_args(arguments)


def dry_run(config: Config) -> None:
    """Build everything, compute one batch's loss and gradient, say what it takes."""
    processes = Processes(config.run)
    device = processes.device
    dataset = data.load(config.data, config.align.encoders)
    state = TrainState(config, dataset, processes)
    learner = Learner(config, state, build_objective(config.objective, state.backbone))
    losses, aligned, _ = learner.compute(learner.fetch(1), 1, report=False)
    resting = state.offloaded.tensors() if state.offloaded else []
    stays = list(state.model.parameters())
    size = sum(p.numel() for p in (*stays, *resting))
    trained = sum(p.numel() for p in state.trained.values())
    projectors = sum(p.numel() for p in state.parameters) - trained
    # Weights, gradients and two moments of what is trained, and the averages.
    held = tensor_bytes(stays) + tensor_bytes(state.trained.values()) + 8 * projectors
    held += int(MOMENTS[config.optim.optimizer] * (trained + projectors))
    held += 4 * len(state.averages) * trained
    if processes.sharded:
        held //= processes.count
    held += tensor_bytes([state.bank.items]) if state.bank else 0
    if not processes.is_main:
        return
    shapes = " or ".join("x".join(map(str, shape)) for shape in dataset.shapes)
    counts = f"{len(dataset.train)} to learn from, {len(dataset.held_out)} held out"
    print(f"data        {config.data.cache or config.data.name}: {counts}, "
          f"{dataset.num_classes} conditions")  # fmt: skip
    print(f"batch       {config.data.batch_size} x {shapes} ({dataset.latent.kind}) over "
          f"{processes.count} processes")  # fmt: skip
    print(f"network     {size / 1e6:.2f} million parameters on {device}, "
          f"{trained / 1e6:.2f} million trained")  # fmt: skip
    if projectors:
        print(f"projectors  {projectors / 1e6:.2f} million parameters, dropped after training")
    print(f"memory      {held / 2**20:.0f} MiB held, activations not counted")
    if resting:
        print(f"offloaded   {tensor_bytes(resting) / 2**20:.0f} MiB in the computer's memory")
    if device.type == "cuda":
        print(f"peak        {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB on the GPU")
    align = f", alignment {aligned:.4f}" if projectors else ""
    print(f"loss        {losses.mean():.4f} ({config.objective.kind}){align}")
    for note in dataset.notes():
        print(f"note        {note}")
    print("nothing was written; leave out --dry-run to train")


def remedies(config: Config) -> str:
    """What makes a run smaller that this one does not do yet, the least costly first."""
    batch, parts, lora = config.data.batch_size, config.optim.accumulate, config.lora.rank
    resting = config.comfy.offload_blocks
    ways = {
        "set run.recompute = true": not config.run.recompute,
        f"raise optim.accumulate (it is {parts})": batch > parts,
        "set optim.optimizer = adamw_8bit": lora is None and config.optim.optimizer == "adamw",
        f"raise comfy.offload_blocks (it is {resting})": bool(lora and config.comfy.checkpoint),
        "train a LoRA by lora.rank": lora is None and config.comfy.checkpoint is not None,
        f"lower data.batch_size (it is {batch})": batch > 1,
        "prepare a cache of smaller pictures": config.data.cache is not None,
    }
    return ", or ".join(way for way, open_still in ways.items() if open_still) or (
        "take a smaller network"
    )


def damaged(config: Config) -> str | None:
    """Which of the files that a run begins with holds NaN, in one sentence; None: no such one."""
    for path in (config.model.checkpoint, config.comfy.checkpoint, config.lora.checkpoint):
        if path is None or not path.endswith(".safetensors"):
            continue
        with safe_open(path, framework="pt") as file:  # one tensor after the other: it may be large
            for name in file.keys():  # noqa: SIM118  it is no dict
                value = file.get_tensor(name)
                if value.is_floating_point() and not value.float().isfinite().all():
                    return (
                        f"{path} holds numbers that are not finite (in {name}): it is damaged, "
                        f"fetch or save it again"
                    )
    return None


def failure(options: argparse.Namespace, e: Exception) -> str | None:
    """Why numbers were not finite or a network did not compile, in one sentence; None: as it is."""
    if isinstance(e, FloatingPointError):
        return damaged(load(options.config, options.set))
    # Only a run that compiles has this module loaded, and loading it takes seconds.
    dynamo = sys.modules.get("torch._dynamo.exc")
    if dynamo is not None and isinstance(e, dynamo.TorchDynamoException):
        said = " ".join(str(e).split("\n")[:2]) or type(e).__name__  # where, and what
        return f"run.compile failed ({said}): leave it out"
    return None


def begun(options: argparse.Namespace) -> Path | None:
    """The run's folder, once there is one."""
    out = Path(load(options.config, options.set).run.out)
    return out if not options.dry_run and (out / CONFIG).exists() else None


def run(options: argparse.Namespace) -> int:
    """Train; the exit code, 130 for a run that was stopped."""
    config = load(options.config, options.set)
    if options.dry_run:
        dry_run(config)
        return 0
    outcome = train(config, options.resume)
    if os.environ.get("RANK", "0") != "0":
        return 0 if outcome.finished else 130
    if not outcome.finished:
        print(f"stopped at step {outcome.step} and saved; go on with the same command and --resume")
        return 130
    print(f"trained to step {outcome.step}: {outcome.weights}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    return guard(
        partial(run, options),
        options,
        stopped="stopped at once; what was saved is intact, --resume goes on",
        smaller=lambda: remedies(load(options.config, options.set)),
        explain=partial(failure, options),
        folder=partial(begun, options),
    )


if __name__ == "__main__":
    sys.exit(main())
