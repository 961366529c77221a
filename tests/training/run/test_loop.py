"""What the loop learns, what it reports, and how it stops."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from sv_core.objective import Objective
from training.data import batches
from training.data import dataset as datasets
from training.networks.sit import build
from training.run import loop
from training.run.validate import validation_loss


def records(config) -> list[dict]:
    lines = (Path(config.run.out) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("kind", ["cfm", "stablevm"])
def test_both_objectives_lower_the_validation_loss(tiny, charts, kind):
    config = replace(
        tiny,
        objective=replace(tiny.objective, kind=kind, bank=64),
        data=replace(tiny.data, batch_size=32),
        optim=replace(tiny.optim, steps=120, lr=1e-2),
    )
    dataset = datasets.load(config.data)
    start = validation_loss(build(config.model, dataset, 0), dataset).mean()
    assert loop.train(config).finished
    lines = records(config)
    losses = [r["val_loss"] for r in lines if "val_loss" in r]
    assert len(losses) == 12 and losses[-1] < 0.7 * start
    reports = [r["stable"] for r in lines if "stable" in r]
    assert len(reports) == (12 if kind == "stablevm" else 0)
    assert all(sum(r["count"]) == 32 for r in reports)
    bins = [r["val_loss_bins"] for r in lines if "val_loss_bins" in r]
    assert all(sum(b) / 8 == pytest.approx(v) for b, v in zip(bins, losses, strict=True))
    assert (Path(config.run.out) / "bins.png").exists()
    with Image.open(Path(config.run.out) / "previews" / "000120.png") as picture:
        assert picture.size == (10 * 9 * 6, 10 * 9 * 6)
        assert len(picture.getcolors()) > 10


def test_a_batch_depends_on_seed_and_step_alone(tiny):
    dataset = datasets.load(tiny.data)
    one = batches.batch(dataset, tiny.data, seed=3, step=9)
    torch.randn(100)
    again = batches.batch(dataset, tiny.data, seed=3, step=9)
    assert all(map(torch.equal, one[:3], again[:3]))
    part = batches.batch(dataset, tiny.data, seed=3, step=9, part=slice(2, 5))
    assert all(torch.equal(a, b[2:5]) for a, b in zip(part[:3], one[:3], strict=True))
    for other in ((4, 9), (3, 10)):
        assert not torch.equal(one.x0, batches.batch(dataset, tiny.data, *other).x0)


def test_labels_are_dropped_at_the_asked_rate_and_draws_are_even(tiny):
    dataset = datasets.load(tiny.data)
    big = replace(tiny.data, batch_size=20_000)
    batch = batches.batch(dataset, big, 0, 1)
    dropped = batch.cond == dataset.num_classes
    assert abs(dropped.double().mean() - 0.1) < 4 * math.sqrt(0.09 / 20_000)
    assert torch.equal(batch.cond[~dropped], batch.labels[~dropped])
    # Dropping tells nothing about the label: each class is dropped as often.
    for c in range(10):
        share = dropped[batch.labels == c].double().mean()
        assert abs(share - 0.1) < 5 * math.sqrt(0.09 / 2000)


def test_a_share_of_a_batch_gets_the_noise_of_its_place():
    objective, x0 = Objective(), torch.randn(6, 1, 2, 2)
    whole = objective.path(x0, torch.Generator().manual_seed(3))
    part = objective.path(x0[2:5], torch.Generator().manual_seed(3), slice(2, 5), 6)
    assert all(torch.equal(a[2:5], b) for a, b in zip(whole, part, strict=True))


def test_a_loss_that_is_no_number_stops_the_run_and_spares_the_checkpoint(tiny, monkeypatch):
    real = batches.batch

    def poisoned(dataset, config, seed, step, part):
        batch = real(dataset, config, seed, step, part)
        if step == 10:
            batch.x0[3] = float("nan")
        return batch

    monkeypatch.setattr(batches, "batch", poisoned)
    with pytest.raises(FloatingPointError, match=r"step 10, t = 0\.\d+.*weights-000007") as caught:
        loop.train(tiny)
    assert "\n" not in str(caught.value)
    assert [r["step"] for r in records(tiny)] == list(range(1, 10))
    saved = Path(tiny.run.out)
    monkeypatch.setattr(batches, "batch", real)
    assert (
        loop.train(tiny, resume=True).finished and (saved / "weights-000040.safetensors").exists()
    )


def test_no_run_diverges_silently(tiny):
    wild = replace(tiny, optim=replace(tiny.optim, lr=1e30, clip=float("inf"), warmup=0))
    with pytest.raises(FloatingPointError, match=r"not a finite number at step \d+.*optim\.lr"):
        loop.train(wild)
