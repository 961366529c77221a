"""What StableVM adds to a training step: ``python -m benchmarks.training_cost [--rounds N]``.

SiT-S/2 on 4x32x32 latents, batch 32, a bank of 256 references for each of 1000 classes and the pool
of all, fp32, one CPU core (or the GPU where there is one). The same network steps with and without
the bank in turns, on the same batches; the ratio is that of the medians. On a CPU the time is the
processor's, which other programs lengthen less than the clock's. "added alone" times only what
StableVM does, the bank's ``add`` and the difference of the two targets: the steadiest figure.

The second table is the bank's ``add``: it grows with the batch, not with what the bank holds.
Some minutes on a CPU core; prints two Markdown tables.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from sv_core.bank import MemoryBank
from sv_core.latent import SD_VAE
from training import rng
from training.config.schema import (
    Config,
    DataConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    RunConfig,
)
from training.data import batches as batching
from training.data import dataset as datasets
from training.engine.distributed import Processes
from training.objectives.bank import FromBank
from training.objectives.build import build_objective
from training.run.state import TrainState
from training.run.step import Learner

BATCH, BANK, CLASSES, SHAPE = 32, 256, 1000, (4, 32, 32)
CONFIG = Config(
    model=ModelConfig(name="SiT-S/2"),
    data=DataConfig(batch_size=BATCH),
    objective=ObjectiveConfig(kind="stablevm", bank=BANK),
    optim=OptimConfig(lr=1e-4),
    run=RunConfig(),
)


class Noise:
    """Unit Gaussian latents of random classes: for timing, the values do not matter."""

    latent, shape, num_classes, feature_dims = SD_VAE, SHAPE, CLASSES, ()
    train = held_out = torch.arange(50_000)
    identity = {"data": "noise"}
    text = None

    def draw(self, n: int, generator: torch.Generator) -> Tensor:
        return torch.randint(len(self.train), (n,), generator=generator)

    def gather(self, indices) -> datasets.Gathered:
        x0 = torch.randn(len(indices), *SHAPE, generator=torch.Generator().manual_seed(0))
        return SD_VAE.from_model(x0), torch.as_tensor(indices) % CLASSES, ()

    def draw_labels(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        return indices % CLASSES

    def masks(self, indices) -> None:
        return None

    def require_latent(self, latent, network) -> None: ...

    def require_patch(self, patch_size) -> None: ...

    def notes(self) -> list[str]:
        return []


def seconds(function: Callable[[], object], device: torch.device) -> float:
    """How long one call takes, the GPU's work included."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    began = clock()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def fill(bank: MemoryBank, labels: Tensor) -> None:
    """Full rings for these classes and for the pool: a long-running bank, as far as it is used."""
    for key in [*labels.unique().tolist(), CLASSES]:
        latents = torch.randn(BANK, *SHAPE)
        bank.add(latents, torch.full((BANK,), key))


def measure_steps(rounds: int) -> None:
    processes = Processes(CONFIG.run)
    dataset, device = Noise(), processes.device
    state = TrainState(CONFIG, dataset, processes)
    learner = Learner(CONFIG, state, build_objective(CONFIG.objective, state.backbone))
    batches = [batching.batch(dataset, CONFIG.data, 0, step) for step in range(1, rounds + 2)]
    for batch in batches:
        fill(state.bank, batch.labels)

    def step(bank: MemoryBank | None, batch: batching.Batch, number: int) -> None:
        learner.source = FromBank(bank, dataset.num_classes) if bank else None
        learner.compute(batch, number, report=False)
        learner.update(number)
        for average in state.averages:
            average.update(number)

    def added(batch: batching.Batch, number: int) -> float:
        on_device = batch._replace(x0=batch.x0.to(device))
        source = FromBank(state.bank, dataset.num_classes)
        path = learner.objective.path(on_device.x0, rng.generator(0, number, "path"))
        plain = seconds(lambda: learner.objective.target(path), device)
        whole = seconds(
            lambda: learner.objective.target(path, source.references(on_device)),
            device,
        )
        return whole - plain

    step(state.bank, batches[-1], 1)  # warm up
    step(None, batches[-1], 1)
    taken: dict[str, list[float]] = {"cfm": [], "stablevm": [], "added": []}
    for number, batch in enumerate(batches[:-1], 1):
        # Which of the two goes first changes, or the second would always have the warm caches.
        order = [("cfm", None), ("stablevm", state.bank)]
        for name, bank in order if number % 2 else order[::-1]:
            taken[name].append(seconds(lambda b=bank, x=batch, n=number: step(b, x, n), device))
        taken["added"].append(added(batch, number))
    plain, stable, alone = (statistics.median(taken[name]) for name in taken)
    keys = statistics.mean(len(batch.cond.unique()) for batch in batches)
    print(f"{rounds} rounds on {device}, {keys:.0f} conditions in a batch of {BATCH}\n")
    print("| step | median ms | beside plain CFM |\n|---|---|---|")
    print(f"| plain CFM | {1e3 * plain:.0f} | |")
    print(f"| StableVM | {1e3 * stable:.0f} | {stable / plain - 1:+.1%} |")
    print(f"| added alone | {1e3 * alone:.1f} | {alone / plain:+.1%} |\n", flush=True)


def measure_add(rounds: int = 30) -> None:
    print("| bank.add: batch | conditions | capacity | median ms | per item, microseconds |")
    print("|---|---|---|---|---|")
    cases = [(32, 10, 256), (128, 10, 256), (512, 10, 1024), (32, 1000, 256), (32, 10, 4096)]
    for batch, conditions, capacity in cases:
        bank = MemoryBank(conditions, capacity, SHAPE)
        latents = torch.randn(batch, *SHAPE)
        keys = torch.randint(conditions, (batch,))
        for _ in range(capacity * conditions // batch if conditions == 10 else 50):
            bank.add(latents, torch.randint(conditions, (batch,)))  # touch the memory once
        taken = [seconds(lambda: bank.add(latents, keys), torch.device("cpu"))  # noqa: B023
                 for _ in range(rounds)]  # fmt: skip
        median = statistics.median(taken)
        print(f"| {batch} | {conditions} | {capacity} | {1e3 * median:.2f} "
              f"| {1e6 * median / batch:.1f} |", flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=9)
    torch.set_num_threads(1)
    measure_steps(parser.parse_args().rounds)
    measure_add()


if __name__ == "__main__":
    main()
