"""One call against thirty: ``python -m benchmarks.digits_meanflow``.

Trains training/configs/digits_meanflow.toml from the demo's network with several seeds and holds
its pictures against the flow model's, in one table. Interrupted, the same command goes on; finished
runs are reused. Writes OUT/results.md, which it also prints, and OUT/digits_meanflow.safetensors,
the first seed's network, for the workflow of that name.

- calls: of the sampler. A guided flow model computes two passes for each, MeanFlow one.
- seconds: for 100 pictures, one thread, the median of five.
- recognised: of 1000 samples, 100 a class, the share that a support vector machine takes for their
  class; the first 100, ten a class, in brackets.
- Fréchet distance: between these samples and the 1437 training digits, in the features of a small
  classifier (see benchmarks.digits_objectives). Guidance raises it, so the flow model is shown at
  the guidance that is built into MeanFlow, at none, and as the demo guides it.

MeanFlow's figures are means over the seeds, ± their standard error. The second table has a line for
each seed, its pictures from one call. None that diverged would be in it: the trainer stops such a
run, and so this command.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from sv_core.sampling import sample_euler, sample_forecast
from training.config.load import load
from training.config.schema import Config
from training.demo import show
from training.demo.recogniser import Recogniser
from training.files import write_atomically
from training.networks.base import Backbone
from training.networks.sit import load as load_backbone
from training.run.folder import RunFolder
from training.sampling.pictures import GUIDANCE, native_grid, sample, sample_calls

from .digits_objectives import Judge, plus_minus

RECIPE = Path(__file__).parents[1] / "training" / "configs" / "digits_meanflow.toml"
EACH, CLASSES, FORECAST = 100, 10, 14
CALLS = (1, 2, 4, 8)
NAME = "digits_meanflow.safetensors"

Draw = Callable[[Tensor, Tensor], Tensor]
"""Pictures from labels and noise."""


class Score(NamedTuple):
    """Of one way of drawing: shares in percent, and seconds."""

    seconds: float
    recognised: float
    hundred: float
    distance: float


class Bench:
    """The judges, and the noise that all ways begin with."""

    def __init__(self) -> None:
        self.judge, self.eye = Judge(), Recogniser()
        # Class after class, so that any hundred in a row hold ten of each.
        self.labels = torch.arange(CLASSES).repeat(EACH)
        self.noise = torch.randn(CLASSES * EACH, 1, 8, 8, generator=Generator().manual_seed(1))

    def score(self, draw: Draw) -> Score:
        times, images = [], []
        for y, z in zip(self.labels.split(100), self.noise.split(100), strict=True):
            began = time.perf_counter()
            images.append(draw(y, z).clamp(0, 1))
            times.append(time.perf_counter() - began)
        made = torch.cat(images)
        return Score(
            statistics.median(times[:5]),
            100 * self.eye.share(made, self.labels),
            100 * self.eye.share(made[:100], self.labels[:100]),
            self.judge.distance(made),
        )


def start_of(config: Config) -> Path:
    """The flow model, trained by the demo when it is not there."""
    path = Path(config.model.checkpoint)
    if not path.is_file():
        print(f"there is no {path} yet: making it by the demo", file=sys.stderr)
        show.run(path.parent)
    return path


def flow_ways(backbone: Backbone, guidance: float) -> dict[str, tuple[int, Draw]]:
    """Name -> calls and pictures."""
    forecast = partial(sample_forecast, calls=FORECAST)
    ways: dict[str, tuple[int, Draw]] = {
        f"flow, Euler, guidance {scale:g}": (30, partial(_flow, backbone, scale, sample_euler))
        for scale in sorted({1.0, guidance, GUIDANCE})
    }
    name = f"flow, forecast, guidance {guidance:g}"
    return ways | {name: (FORECAST, partial(_flow, backbone, guidance, forecast))}


def _flow(
    backbone: Backbone, scale: float, sampler: Callable[..., Tensor], labels: Tensor, noise: Tensor
) -> Tensor:
    return sample(backbone, labels, CLASSES, noise, native_grid(30), scale, sampler)


def table(bench: Bench, flow: Backbone, trained: list[Backbone], guidance: float) -> str:
    lines = [
        "| way | calls | seconds per 100 | recognised, % | Fréchet distance |",
        "|---|---|---|---|---|",
    ]
    for name, (calls, draw) in flow_ways(flow, guidance).items():
        s = bench.score(draw)
        lines.append(
            f"| {name} | {calls} | {s.seconds:.3f} | {s.recognised:.1f} ({s.hundred:.0f}) | "
            f"{s.distance:.2f} |"
        )
    for calls in CALLS:
        scores = [bench.score(partial(sample_calls, b, calls=calls)) for b in trained]
        seconds, recognised, hundred, distance = (
            list(column) for column in zip(*scores, strict=True)
        )
        lines.append(
            f"| MeanFlow, guidance {guidance:g} built in | {calls} | {min(seconds):.3f} | "
            f"{plus_minus(recognised, 1)} ({min(hundred):.0f} at least) | "
            f"{plus_minus(distance, 2)} |"
        )
    real = 100 * bench.eye.accuracy
    lines.append(f"| held-out real digits | | | {real:.1f} | {bench.judge.floor:.2f} |")
    return "\n".join(lines)


def stability(bench: Bench, folders: list[Path], trained: list[Backbone], batch: int) -> str:
    lines = [
        "| seed | seconds of training | last loss | greatest gradient | recognised, % | "
        "Fréchet distance |",
        "|---|---|---|---|---|---|",
    ]
    for seed, (folder, backbone) in enumerate(zip(folders, trained, strict=True)):
        text = RunFolder(folder).metrics.read_text(encoding="utf-8")
        records = [json.loads(line) for line in text.splitlines()]
        seconds = sum(batch / r["samples_per_s"] for r in records)
        loss = statistics.mean(r["loss"] for r in records[-20:])
        norm = max(r["grad_norm"] for r in records)
        s = bench.score(partial(sample_calls, backbone, calls=1))
        lines.append(
            f"| {seed} | {seconds:.0f} | {loss:.3f} | {norm:.2f} | {s.recognised:.1f} | "
            f"{s.distance:.2f} |"
        )
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/digits_meanflow"))
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    recipe = load(RECIPE)
    flow = load_backbone(start_of(recipe))
    folders, trained = [], []
    for seed in range(options.seeds):
        folder = options.out / f"seed-{seed}"
        run = replace(recipe.run, out=folder.as_posix(), seed=seed, device="cpu", preview_every=0)
        weights = show.obtain_weights(replace(recipe, run=run))
        folders.append(folder)
        trained.append(load_backbone(weights))
        if seed == 0:
            data = weights.read_bytes()
            write_atomically(options.out / NAME, lambda file, data=data: file.write(data))
    bench = Bench()
    text = table(bench, flow, trained, recipe.meanflow.guidance) + "\n\n"
    text += stability(bench, folders, trained, recipe.data.batch_size) + "\n"
    write_atomically(options.out / "results.md", lambda file: file.write(text.encode()))
    print(f"\n{text}\nnetwork   {options.out / NAME}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
