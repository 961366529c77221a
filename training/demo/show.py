"""The demonstration on digits: train, then sample with fewer calls. python -m training.demo --train

Four ways from the same noise at the same guidance: 30 Euler steps, the paper's grid that keeps 20
of those, 20 plain Euler steps, and 30 steps of which 14 call the network. Writes a picture and
prints a table.
"""

import argparse
import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sv_core.fidelity import psnr
from sv_core.sampling import sample_euler, sample_forecast, sample_stable
from sv_core.schedules import regime_split

from ..cli import add_debug, guard
from ..config.load import dump, load
from ..config.schema import Config
from ..files import write_atomically
from ..networks.base import Backbone
from ..networks.sit import load as load_backbone
from ..run.folder import RunFolder
from ..run.loop import train
from ..sampling.pictures import GUIDANCE, native_grid, sample, start_noise
from . import emoji
from .comparison import Panel, write_comparison
from .recogniser import Recogniser

RECIPE = Path(__file__).parents[1] / "configs" / "digits.toml"
CLASSES, SIZE, EACH = 10, 8, 10
SPLIT, LOW_STEPS = 0.85, 9
"""The paper's setting for 30 steps."""

FORECAST_CALLS = 14

HONEST = (
    "At noise 0 on this path the paper's step is an Euler step on a thinner grid: the saving is\n"
    "the grid's. The forecast walks all 30 steps and calls the network at 14 of them."
)


class Row(NamedTuple):
    """One way of sampling: its name, the times of its calls, seconds, pictures (n, 1, 8, 8)."""

    name: str
    called: list[float]
    seconds: float
    images: Tensor


def ways() -> dict[str, tuple[Callable[..., Tensor], Tensor]]:
    """The samplers and time grids that are compared, the reference first."""
    full = native_grid(30)
    return {
        "Euler, 30 steps": (sample_euler, full),
        "Paper's grid": (sample_stable, regime_split(full, SPLIT, LOW_STEPS)),
        "Euler, 20 steps": (sample_euler, native_grid(20)),
        "Forecast": (partial(sample_forecast, calls=FORECAST_CALLS), full),
    }


def labels() -> Tensor:
    """Ten of each class: 0, 0, ..., 9, 9."""
    return torch.arange(CLASSES).repeat_interleave(EACH)


def compare(backbone: Backbone, seed: int = 0) -> list[Row]:
    """Sample the same hundred digits each way."""
    noise = start_noise((1, SIZE, SIZE), CLASSES * EACH, seed)
    sample(backbone, labels(), CLASSES, noise, native_grid(2), GUIDANCE)  # warm up, for the timing
    rows = []
    for name, (sampler, ts) in ways().items():
        called: list[float] = []

        def count(k: int, x: Tensor, v: Tensor, t: Tensor, called: list[float] = called) -> None:
            called.append(float(t))

        began = time.perf_counter()
        images = sample(backbone, labels(), CLASSES, noise, ts, GUIDANCE, sampler, count)
        rows.append(Row(name, called, time.perf_counter() - began, images.clamp(0, 1)))
    return rows


def nearness(row: Row, reference: Row) -> float:
    """Mean PSNR over the pictures, in dB."""
    return float(psnr(row.images, reference.images).mean())


def table(rows: list[Row], judge: Recogniser) -> str:
    """Calls, seconds, nearness to the first row and the share recognised, as text."""
    lines = [f"{'':18}{'calls':>6}{'seconds':>9}{'PSNR to 30':>12}{'recognised':>12}"]
    for row in rows:
        near = "-" if row is rows[0] else f"{nearness(row, rows[0]):.1f} dB"
        share = f"{100 * judge.share(row.images, labels()):.0f} %"
        lines.append(f"{row.name:18}{len(row.called):6}{row.seconds:9.2f}{near:>12}{share:>12}")
    lines.append(f"real digits, held out{100 * judge.accuracy:34.1f} %")
    return "\n".join(lines)


def draw(path: Path, rows: list[Row], judge: Recogniser) -> None:
    """The picture of the comparison."""
    panels = []
    for row in rows:
        near = "" if row is rows[0] else f"{nearness(row, rows[0]):.1f} dB PSNR to 30 steps  ·  "
        share = f"{100 * judge.share(row.images, labels()):.0f} of 100 recognised"
        title = f"{row.name} · {len(row.called)} calls"
        panels.append(Panel(title, near + share, row.called, row.images))
    heading = f"The same noise, sampled four ways (guidance {GUIDANCE:g})"
    write_comparison(path, heading, panels, SPLIT, EACH)


def obtain_weights(config: Config) -> Path:
    """The weights of this configuration's last step: found, or trained, or resumed."""
    out = Path(config.run.out)
    folder = RunFolder(out)
    weights = folder.weights(config.optim.steps)
    same = folder.is_of(config)
    if same and weights.is_file():
        print(f"using the network trained before: {weights} (delete {out} to train again)")
        return weights
    resume = same and folder.begun()
    print(f"{'going on with' if resume else 'training'} {out}: {config.optim.steps} steps")
    outcome = train(config, resume)
    if not outcome.finished:
        raise KeyboardInterrupt
    return outcome.weights


def run(out: Path) -> int:
    """Train (or reuse), sample, write the picture and the weights, print the table."""
    config = load(RECIPE)
    # A folder per configuration: a changed one never meets the files of this one.
    recipe = dump(replace(config, run=replace(config.run, out="")))
    folder = out / f"run-{hashlib.sha256(recipe.encode()).hexdigest()[:8]}"
    config = replace(config, run=replace(config.run, out=folder.as_posix()))
    began = time.perf_counter()
    weights = obtain_weights(config)
    trained = time.perf_counter() - began
    backbone, judge = load_backbone(weights), Recogniser()
    rows = compare(backbone)
    draw(out / "digits.png", rows, judge)
    data = weights.read_bytes()
    write_atomically(out / "digits_sit.safetensors", lambda file: file.write(data))
    print(f"\n{table(rows, judge)}\n\n{HONEST}\n")
    print(f"network   {out / 'digits_sit.safetensors'} ({trained:.0f} s)")
    print(f"picture   {out / 'digits.png'}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.demo",
        description="Draw emoji with fewer calls; or train on digits, and draw those.",
    )
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="default: out/demo")
    parser.add_argument("--train", action="store_true", help="train on digits first: minutes")
    add_debug(parser)
    options = parser.parse_args(arguments)
    return guard(
        partial(run if options.train else emoji.run, options.out),
        options,
        stopped="stopped; run it again to go on from the last saved step",
        folder=lambda: options.out,
    )
