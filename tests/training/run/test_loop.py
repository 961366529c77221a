"""What the loop learns, what it reports, and how it stops."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

from sv_core.objective import Objective
from sv_core.targets import Path as NoisyPath
from training import rng
from training.config.schema import OptimConfig
from training.data import batches, digits
from training.data import dataset as datasets
from training.demo import recogniser
from training.engine.optim import Ema, lent, lr_at
from training.networks.sit import build
from training.objectives.bank import FromBank, build_bank
from training.objectives.velocity import describe
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


def test_the_untrained_validation_loss_is_the_second_moment_of_the_target(tiny):
    dataset = datasets.load(tiny.data)
    losses = validation_loss(build(tiny.model, dataset, 0), dataset)  # a new SiT is zero
    x0 = dataset.latent.to_model(dataset.gather(dataset.held_out)[0])
    expected = 1 + x0.square().mean().item()  # E (eps - x0)^2
    assert torch.allclose(losses, torch.full_like(losses, expected), rtol=0.03)
    assert losses.std() < 1e-5  # the same noise at every time


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


def test_each_sample_is_among_its_own_references(tiny):
    dataset = datasets.load(tiny.data)
    bank = build_bank(tiny.objective, dataset, "cpu", 8)
    half = replace(tiny.data, label_dropout=0.5)
    for step in range(1, 6):
        batch = batches.batch(dataset, half, 0, step)
        seen = []
        for rows, refs in FromBank(bank, dataset.num_classes).references(batch):
            seen += rows.tolist()
            for row in rows:
                assert (refs == batch.x0[row]).flatten(1).all(1).any()
        assert sorted(seen) == list(range(8))


@pytest.mark.parametrize("processes", [1, 2])
def test_stablevm_is_unbiased_through_the_bank(tiny, processes):
    """Over many steps the mean of (stable - conditional target) times any fixed function of
    (x_t, t, label) is 0: so is the difference of the expected gradients. Several processes have a
    bank each, of their own share of the batch."""
    dataset = datasets.load(tiny.data)
    objective = Objective(threshold=0.5)
    share = 8 // processes
    parts = [slice(i * share, (i + 1) * share) for i in range(processes)]
    options = replace(tiny.objective, bank=16)
    banks = [build_bank(options, dataset, "cpu", share) for _ in parts]
    generator = torch.Generator().manual_seed(1)
    probe = torch.randn(4, 64, 64, generator=generator) / 8
    sums = []
    for step in range(1, 1501):
        means = []
        for part, bank in zip(parts, banks, strict=True):
            batch = batches.batch(dataset, tiny.data, 0, step, part)
            refs = FromBank(bank, dataset.num_classes).references(batch)
            path = objective.path(batch.x0, rng.generator(0, step, "path"), part, 8)
            difference = objective.target(path, refs) - objective.target(path)
            feature = torch.einsum("kij,bj->bki", probe, path.x_t.flatten(1)).tanh()
            means.append(torch.einsum("bki,bi->bk", feature, difference.flatten(1)).mean(0))
        sums.append(torch.stack(means).mean(0))
    sums = torch.stack(sums)
    error = sums.std(0) / math.sqrt(len(sums))
    assert sums.abs().mean() > 0.05  # the targets do differ
    assert (sums.mean(0).abs() < 4 * error).all()


def test_sixteen_bits_of_a_reference_are_enough(tiny):
    """The targets differ by less than a hundredth of what averaging changes in them."""
    dataset = datasets.load(tiny.data)
    targets = []
    for dtype in ("float32", "float16"):
        options = replace(tiny.objective, bank=64, bank_dtype=dtype)
        bank = build_bank(options, dataset, "cpu", 64)
        batch = batches.batch(dataset, replace(tiny.data, batch_size=64), 0, 1)
        refs = FromBank(bank, dataset.num_classes).references(batch)
        assert bank.items.dtype == getattr(torch, dtype)
        path = Objective().path(batch.x0, rng.generator(0, 1, "path"))
        targets.append(Objective().target(path, refs))
    plain = Objective().target(path)
    assert (targets[0] - targets[1]).norm() < 0.01 * (targets[0] - plain).norm()
    assert targets[1].dtype == torch.float32


def test_a_share_of_a_batch_gets_the_noise_of_its_place():
    objective, x0 = Objective(), torch.randn(6, 1, 2, 2)
    whole = objective.path(x0, torch.Generator().manual_seed(3))
    part = objective.path(x0[2:5], torch.Generator().manual_seed(3), slice(2, 5), 6)
    assert all(torch.equal(a[2:5], b) for a, b in zip(whole, part, strict=True))


def test_effective_size_is_one_near_data_and_all_at_noise(tiny):
    dataset = datasets.load(tiny.data)
    x0 = dataset.latent.to_model(dataset.gather(range(8))[0])
    objective, rows = Objective(threshold=0.0), torch.arange(8)
    for t, size, changed, place in ((0.01, 1.0, 0.0, 0), (1.0, 8.0, 1.0, 7)):
        t = torch.full((8,), t)
        eps = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
        path = NoisyPath(x0, eps, objective.interpolant.x_t(x0, eps, t), t)
        refs = [(rows, x0)]
        said = describe(objective, path, refs, objective.target(path, refs))
        assert said["count"] == [8 if i == place else 0 for i in range(8)]
        assert said["effective_size"][place] == pytest.approx(size, abs=1e-4)
        assert said["changed"][place] == changed and said["changed"].count(None) == 7
    plain = Objective(threshold=1.1)
    said = describe(plain, path, refs, plain.target(path, refs))
    assert said["effective_size"][7] == 1 and said["changed"][7] == 0


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


def test_learning_rate_in_closed_form():
    config = OptimConfig(steps=110, lr=2.0, schedule="cosine", warmup=10)
    assert lr_at(1, config) == pytest.approx(0.2) and lr_at(10, config) == 2.0
    assert lr_at(60, config) == pytest.approx(1 + math.cos(math.pi * 49.5 / 100))
    rates = [lr_at(s, config) for s in range(11, 111)]
    assert rates == sorted(rates, reverse=True) and 0 < rates[-1] < 1e-3
    assert sum(rates) == pytest.approx(100)  # the mean of a cosine to zero is half its height
    assert lr_at(110, replace(config, schedule="constant")) == 2.0


def test_ema_in_closed_form():
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, 0.0)
    ema = Ema(list(model.parameters()), 0.5)
    nn.init.constant_(model.weight, 1.0)
    left = 1.0
    for n in range(1, 30):
        ema.update(n)
        left *= min(0.5, (1 + n) / (10 + n))
        assert ema.tensors[0].item() == pytest.approx(1 - left, abs=1e-6)


def test_an_average_of_half_precision_weights_does_not_stand_still():
    """In bfloat16 a thousandth of the way would round to none of it."""
    weight = nn.Parameter(torch.ones(1, dtype=torch.bfloat16))
    ema = Ema([weight], 0.999)
    weight.data.fill_(2.0)
    for n in range(10_000, 10_100):
        ema.update(n)
    assert ema.tensors[0].item() == pytest.approx(2 - 0.999**100, abs=1e-4)


def test_lent_weights_come_back_to_the_bit():
    weights = [nn.Parameter(torch.randn(3)), nn.Parameter(torch.randn(2).bfloat16())]
    before = [w.detach().clone() for w in weights]
    with pytest.raises(RuntimeError, match="inside"), lent(weights, [w * 0 + 7 for w in before]):
        assert all((w == 7).all() for w in weights)
        raise RuntimeError("inside")
    assert all(torch.equal(w, b) for w, b in zip(weights, before, strict=True))


def test_the_digits_split_is_fixed_disjoint_and_fair():
    train, held_out = digits.load()
    assert (len(train.labels), len(held_out.labels)) == (1437, 360)
    assert train.images.min() == 0 and train.images.max() == 1
    shares = [torch.bincount(part.labels).double() / len(part.labels) for part in (train, held_out)]
    assert (shares[0] - shares[1]).abs().max() < 0.003
    again = digits.load()[1]
    assert torch.equal(held_out.images, again.images)


def test_the_recogniser_knows_real_digits_and_not_their_negatives():
    judge, (_, held_out) = recogniser.Recogniser(), digits.load()
    assert judge.accuracy > 0.98
    assert judge.share(held_out.images, (held_out.labels + 1) % 10) < 0.02
