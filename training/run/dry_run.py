"""``--dry-run``: build everything, try one batch, print what a run would need, write nothing."""

import torch
from safetensors import safe_open

from ..config.schema import Config
from ..data import dataset as datasets
from ..engine.distributed import Processes
from ..engine.memory import MOMENTS, tensor_bytes
from ..objectives.build import build_objective
from .state import TrainState
from .step import Learner


def dry_run(config: Config) -> None:
    """Build everything, compute one batch's loss and gradient, print sizes and memory."""
    processes = Processes(config.run)
    device = processes.device
    dataset = datasets.load(config.data, config.align.encoders)
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
    """How this run can need less memory, the cheapest way first."""
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
    """One sentence that names a file the run begins with that holds NaN; None if there is none."""
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
