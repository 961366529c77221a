"""Where the calls of Fewer Calls lie: the rules auto and late, on networks and on exact flows.

    python dev.py bench call_lists [CHECKPOINT ...]

Euler on grids of 20 to 50 steps, calls at half and at a third of them. Each CHECKPOINT is a digits
network, out/demo/digits_sit.safetensors unless given, on the host's ``simple`` grid at shift 3, at
guidance 1, 2 and 4; the exact flows are those of benchmarks/flows.py, with few samples, on the
schedules of SD3.5, Qwen-Image and Wan at shift 8. dB: nearness to a call at every step, mean over
samples. Prints Markdown.
"""

import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from sv_core.fewer_calls import convergence_for, fixed_calls, sample_fewer_calls
from sv_core.sampler_levels import Denoiser, find_levels
from sv_core.schedules import shift
from training.networks.sit import load
from training.sampling.pictures import guided_velocity

from .flows import FLOWS, Flow, build
from .networks import CHECKPOINT, CLASSES, SIZE
from .sampler_methods import FAMILIES

RULES = ("auto", "late")
STEPS = (20, 25, 30, 40, 50)
EXACT = {"overlapping": 1.0, "hierarchy": 1.0, "hierarchy_guided": 3.0, "digits": 1.0,
         "digits_guided": 2.0, "patches": 1.0, "fields_guided": 3.5}  # fmt: skip
"""By the guidance that is built in."""
SCHEDULES = ("SD3.5", "Qwen-Image", "Wan shift 8")
Grid = Callable[[int], Tensor]


def simple(steps: int) -> Tensor:
    """The host's: of a table of a thousand sigmas at shift 3."""
    table = shift(torch.linspace(0.001, 1, 1000, dtype=torch.float64), 3.0)
    nodes = [float(table[-(1 + int(k * 1000 / steps))]) for k in range(steps)]
    return torch.tensor([*nodes, 0.0], dtype=torch.float64)


def digits(checkpoint: Path, guidance: float) -> Flow:
    """Two of every digit of a trained network."""
    backbone, labels = load(checkpoint), torch.arange(2 * CLASSES) % CLASSES
    guided = guided_velocity(backbone, labels, CLASSES, guidance)

    @torch.inference_mode()
    def velocity(x: Tensor, t: Tensor) -> Tensor:
        pictures = x.view(-1, 1, SIZE, SIZE).float()
        return guided(pictures, t.float()).flatten(1).to(x)

    name = f"{checkpoint.stem}, guidance {guidance:g}"
    return Flow(name, SIZE**2, len(labels), 0.75, velocity, lambda x: labels)


def euler(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
    for s, r in pairwise(sigmas):
        x = x + (r - s) * (x - denoise(x, s.expand(len(x)))) / s
    return x


def decibels(flow: Flow, grid: Tensor, guidance: float, seed: int) -> list[list[float]]:
    """For half and a third of the steps: of each rule."""
    few = min(flow.batch, 20 if flow.size < 1000 else 4)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(few, flow.size, generator=generator, dtype=torch.float64)

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma[0] * flow.velocity(x, sigma[0])

    base, levels = euler(denoise, x, grid), find_levels(euler, x[:2, :8], grid)
    found = []
    for calls in (round((len(grid) - 1) / 2), round((len(grid) - 1) / 3)):
        row = []
        for rule in RULES:
            made = sample_fewer_calls(
                euler, denoise, x, grid.clone(), levels,
                fixed_calls(levels, grid.tolist(), calls, rule),
                convergence=convergence_for(guidance),
            )  # fmt: skip
            mse = (made - base).square().mean(1) / flow.std**2 + 1e-10
            row.append(float(-10 * mse.log10().mean()))
        found.append(row)
    return found


def line(name: str, flow: Flow, grids: list[Grid], guidance: float, seed: int) -> None:
    """One row: per number of steps, auto and late at half, and at a third; means over grids."""
    cells = []
    for steps in STEPS:
        many = torch.tensor([decibels(flow, g(steps), guidance, seed) for g in grids]).mean(0)
        cells += [f"{a:.1f} {b:.1f}" for a, b in many.tolist()]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def main(checkpoints: list[Path]) -> None:
    calls = [c for n in STEPS for c in (f"{round(n / 2)} of {n}", f"{round(n / 3)} of {n}")]
    print(f"| dB by {' and '.join(RULES)} | " + " | ".join(calls) + " |")
    print("|---|" + "---|" * len(calls))
    for checkpoint in checkpoints:
        for guidance in (1.0, 2.0, 4.0):
            flow = digits(checkpoint, guidance)
            line(flow.name, flow, [simple], guidance, 7)
    grids = [FAMILIES[name][0] for name in SCHEDULES]
    for index, make in enumerate(FLOWS):
        if make.__name__ in EXACT:
            flow = build(index)
            line(flow.name, flow, grids, EXACT[make.__name__], 100 + index)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main([Path(a) for a in sys.argv[1:]] or [CHECKPOINT])
