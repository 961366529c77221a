"""Five objectives on digits, several seeds: ``python -m benchmarks.digits_objectives``.

CFM, StableVM, REPA (alignment at every t), VA-REPA (below the split) and StableVM + VA-REPA, with
the recipe of training/configs/digits.toml and equal steps. Interrupted, the same command goes on;
finished runs are reused. Writes OUT/results.md, which it also prints.

How it is judged:

- validation loss: on the 360 held-out digits, per eighth of t, of the averaged weights. Always the
  conditional target, so its floor is not 0 and the same for all.
- recognised: of 1000 samples, 100 a class, without guidance, by the ODE sampler of order 3 in 25
  calls, the share that a support vector machine takes for their class.
- Fréchet distance: between these samples and the 1437 training digits, Gaussians in the 32
  penultimate features of a small fully connected classifier. What the held-out digits have to the
  training digits is printed as the yardstick.

REPA's encoder is DINOv2, which knows nothing of 8x8 digits. Its place is taken by a small
convolutional classifier of the training digits, and its 4x4 feature map lies on the network's
tokens. It has seen labels, so it tells the network more than a self-supervised encoder would: this
compares the objectives under a good encoder, it does not forecast ImageNet. The judges are other
networks than the encoder.

The last table is the noise of the gradient: the trace of its covariance over batches of 64 at the
first CFM network's weights, with a bank of 256 per class drawn anew for every batch.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from sv_core.interpolant import LINEAR
from sv_core.objective import Objective
from sv_core.sampling import sample_ode
from sv_core.schedules import ode_grid
from sv_core.targets import Path as NoisyPath
from training import rng
from training.caching.encode import prepare
from training.config.load import load
from training.config.prepare import PrepareConfig
from training.config.schema import AlignConfig, Config
from training.data import batches as batching
from training.data import dataset as datasets
from training.data import digits
from training.data.format import LATENTS, CacheFolder, FeatureSpec, Shard
from training.demo import recogniser
from training.files import write_atomically
from training.networks.base import Backbone
from training.networks.sit import load as load_backbone
from training.objectives.bank import FromBank, build_bank
from training.objectives.base import BINS, TIMES
from training.run.folder import RunFolder
from training.run.loop import train
from training.run.validate import validation_loss

RECIPE = Path(__file__).parents[1] / "training" / "configs" / "digits.toml"
ENCODER, PATCH = "digits-conv", 2
ALIGN = AlignConfig(encoders=(ENCODER,), block=2, hidden=256)
OBJECTIVES: dict[str, tuple[str, AlignConfig]] = {
    "CFM": ("cfm", AlignConfig()),
    "StableVM": ("stablevm", AlignConfig()),
    "REPA": ("cfm", replace(ALIGN, weighting="constant")),
    "VA-REPA": ("cfm", ALIGN),
    "StableVM + VA-REPA": ("stablevm", ALIGN),
}
EACH, CALLS = 100, 25


def fit(model: nn.Module, seed: int, steps: int = 400) -> nn.Module:
    """Train a classifier on the training digits: the same one on every run."""
    images, labels = digits.load()[0]
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(steps):
        rows = torch.randint(len(labels), (128,), generator=generator)
        loss = F.cross_entropy(model(images[rows] * 2 - 1), labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval().requires_grad_(False)


def encoder() -> nn.Module:
    """Digits (b, 1, 8, 8) of [-1, 1] -> a 4x4 feature map (b, 64, 4, 4)."""
    torch.manual_seed(1)
    features = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.GELU(), nn.Conv2d(32, 64, 3, stride=2, padding=1)
    )
    fit(nn.Sequential(features, nn.GELU(), nn.Flatten(), nn.Linear(1024, 10)), seed=1)
    return features


class Judge:
    """Fréchet distances to the training digits, in a fully connected classifier's features."""

    def __init__(self) -> None:
        torch.manual_seed(2)
        self.features = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 32), nn.GELU()
        )
        fit(nn.Sequential(self.features, nn.Linear(32, 10)), seed=2)
        train, held_out = digits.load()
        self.real = self._gaussian(train.images)
        self.floor = self.distance(held_out.images)

    def _gaussian(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        z = self.features(images * 2 - 1).double().numpy()
        return z.mean(0), np.cov(z, rowvar=False)

    def distance(self, images: Tensor) -> float:
        """|m - m'|^2 + tr(C + C' - 2 (C C')^(1/2)). [Heusel et al. 2017]"""
        (m, c), (n, d) = self._gaussian(images), self.real
        # The trace of the root of a product of two covariances: its eigenvalues are not negative.
        root = np.sqrt(np.linalg.eigvals(c @ d).real.clip(0)).sum()
        return float(((m - n) ** 2).sum() + np.trace(c) + np.trace(d) - 2 * root)


def make_cache(out: Path) -> Path:
    """The digits as a cache with the encoder's features; its held-out part is the digits' own."""
    root, cache = out / "pictures", out / "cache"
    for part, split in zip(("train", "val"), digits.load(), strict=True):
        for i, (image, label) in enumerate(zip(*split, strict=True)):
            path = root / part / str(int(label)) / f"{i:04d}.png"
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray((image[0] * 255).round().byte().numpy())
                write_atomically(path, lambda file, p=picture: p.save(file, "PNG"))
    prepare(root, cache, PrepareConfig(size=8, channels=1, shard=256, batch=256))
    folder = CacheFolder.open(cache)
    if ENCODER not in folder.index.features:
        see = encoder()
        for number in range(len(folder.index.shards())):
            shard = folder.read(LATENTS, number)  # (rows, 1 view, 1, 8, 8) bytes
            z = see(shard.data.whole()[:, 0].float() / 255 * 2 - 1).flatten(2).transpose(1, 2)
            made = Shard(z[:, None].half(), ENCODER, shard.rows, shard.skipped, {})
            folder.write(ENCODER, number, made)
        spec = FeatureSpec(ENCODER, z.shape[-1], PATCH)
        folder.update(features={ENCODER: spec})
    return cache


def configure(name: str, seed: int, steps: int, cache: Path, out: Path) -> Config:
    """The recipe with another objective."""
    kind, align = OBJECTIVES[name]
    config = load(RECIPE)
    folder = out / f"{name.lower().replace(' + ', '-')}-{seed}-{steps}"
    return replace(
        config,
        data=replace(config.data, cache=str(cache)),
        objective=replace(config.objective, kind=kind),
        align=align,
        optim=replace(config.optim, steps=steps),
        run=replace(config.run, out=str(folder), seed=seed, device="cpu", save_every=250,
                    preview_every=0, validate_every=0),
    )  # fmt: skip


class Score(NamedTuple):
    """What a trained network is worth: loss (8,), recognised share, Fréchet distance."""

    losses: Tensor
    recognised: float
    distance: float


@torch.inference_mode()
def make_digits(backbone: Backbone) -> tuple[Tensor, Tensor]:
    """1000 pictures and their classes, from the same noise for every network."""
    labels = torch.arange(10).repeat_interleave(EACH)
    noise = torch.randn(len(labels), 1, 8, 8, generator=Generator().manual_seed(0))

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return backbone.velocity(x, t.expand(len(x)), labels)

    x0 = sample_ode(velocity, noise, ode_grid(CALLS))
    return backbone.latent.from_model(x0).clamp(0, 1), labels


def score(
    weights: Path, dataset: datasets.Dataset, judge: Judge, eye: recogniser.Recogniser
) -> Score:
    """Computed once; beside the weights from then on."""
    file = weights.with_name(f"score-{EACH}-{CALLS}.json")
    if not file.exists():
        backbone = load_backbone(weights)
        images, labels = make_digits(backbone)
        losses = validation_loss(backbone, dataset).tolist()
        found = json.dumps([losses, eye.share(images, labels), judge.distance(images)])
        write_atomically(file, lambda f: f.write(found.encode()))
    losses, recognised, distance = json.loads(file.read_text())
    return Score(torch.tensor(losses), recognised, distance)


def gradient_noise(
    weights: Path,
    dataset: datasets.Dataset,
    config: Config,
    low: float,
    high: float,
    batches: int = 48,
) -> tuple[float, float]:
    """tr Cov of a batch's gradient for t in [low, high]: (CFM, StableVM), on the same batches."""
    backbone = load_backbone(weights)
    parameters = [p for p in backbone.model.parameters() if p.requires_grad]
    for p in backbone.model.parameters():
        p.requires_grad_(any(p is q for q in parameters))
    objective = Objective(threshold=0.0)
    sums = {False: [0.0, 0.0], True: [0.0, 0.0]}  # of the gradients, and of their squared norms
    options = replace(config.objective, kind="stablevm")
    for step in range(batches):
        batch = batching.batch(dataset, replace(config.data, label_dropout=0.0), 7, step)
        x0, cond = batch.x0, batch.cond
        drawn = rng.generator(7, step, "noise")
        t = low + (high - low) * torch.rand(len(x0), generator=drawn)
        eps = torch.randn(x0.shape, generator=drawn)
        path = NoisyPath(x0, eps, LINEAR.x_t(x0, eps, t), t)
        bank = build_bank(options, dataset, "cpu", len(x0))
        others = dataset.draw(12 * options.bank, drawn)
        latents, keys, _ = dataset.gather(others)
        latents = dataset.latent.to_model(latents)
        for rows in torch.arange(len(keys)).split(options.bank):
            bank.add(latents[rows], keys[rows])
        refs = FromBank(bank, dataset.num_classes).references(batch)
        v = backbone.velocity(path.x_t, path.t, cond)
        for stable in (False, True):
            target = objective.target(path, refs if stable else ())
            loss = (v - target).square().mean()
            gradients = torch.autograd.grad(loss, parameters, retain_graph=not stable)
            g = torch.cat([x.flatten() for x in gradients]).double()
            sums[stable][0] = sums[stable][0] + g
            sums[stable][1] += float(g.square().sum())
    traces = []
    for stable in (False, True):
        total, squares = sums[stable]
        mean = total / batches
        traces.append((squares / batches - float(mean.square().sum())) * batches / (batches - 1))
    return traces[0], traces[1]


def plus_minus(values: list[float], digits_shown: int) -> str:
    """Mean ± standard error."""
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.{digits_shown}f} ± {error:.{digits_shown}f}"


def tables(
    scores: dict[str, list[Score]], judge: Judge, eye: recogniser.Recogniser, steps: int
) -> str:
    seeds = len(next(iter(scores.values())))
    lines = [
        f"{steps} steps, {seeds} seeds, mean ± standard error.\n",
        "| objective | validation loss | recognised, % | Fréchet distance |",
        "|---|---|---|---|",
    ]
    columns: list[tuple[Callable[[Score], float], int]] = [
        (lambda s: float(s.losses.mean()), 4),
        (lambda s: 100 * s.recognised, 1),
        (lambda s: s.distance, 2),
    ]
    for name, own in scores.items():
        cells = [plus_minus([read(s) for s in own], shown) for read, shown in columns]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines.append(f"| held-out real digits | | {100 * eye.accuracy:.1f} | {judge.floor:.2f} |")
    times = " | ".join(f"t = {t:.2f}" for t in TIMES.tolist())
    lines += ["", f"| validation loss | {times} |", "|---" * (BINS + 1) + "|"]
    for name, own in scores.items():
        cells = [plus_minus([float(s.losses[i]) for s in own], 3) for i in range(BINS)]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def noise_table(weights: Path, dataset: datasets.Dataset, config: Config) -> str:
    lines = ["", "| gradient noise | CFM | StableVM | ratio |", "|---|---|---|---|"]
    for low, high in ((0.2, 0.5), (0.5, 0.8), (0.8, 1.0)):
        plain, stable = gradient_noise(weights, dataset, config, low, high)
        lines.append(f"| {low} < t < {high} | {plain:.2e} | {stable:.2e} | {plain / stable:.2f} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("out/digits_objectives"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = make_cache(options.out)
    judge, eye = Judge(), recogniser.Recogniser()
    scores: dict[str, list[Score]] = {name: [] for name in OBJECTIVES}
    for seed in range(options.seeds):
        for name in OBJECTIVES:
            config = configure(name, seed, options.steps, cache, options.out)
            folder = Path(config.run.out)
            weights = RunFolder(folder).weights(options.steps)
            if not weights.exists():
                print(f"{name}, seed {seed}: {folder}", file=sys.stderr)
                if not train(config, resume=RunFolder(folder).state.exists()).finished:
                    return 130
            dataset = datasets.load(config.data)
            scores[name].append(score(weights, dataset, judge, eye))
    config = configure("CFM", 0, options.steps, cache, options.out)
    weights = RunFolder(Path(config.run.out)).weights(options.steps)
    text = tables(scores, judge, eye, options.steps) + "\n"
    text += noise_table(weights, datasets.load(config.data), config) + "\n"
    write_atomically(options.out / "results.md", lambda file: file.write(text.encode()))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
