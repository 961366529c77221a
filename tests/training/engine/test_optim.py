"""Optimisers, learning rates and averages of weights, in closed form."""

import math
import sys
import types
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from sv_core.errors import InvalidInput
from training.config.schema import OptimConfig
from training.engine import optim
from training.engine.optim import Ema, build_averages, build_optimizer, lent, lr_at
from training.run.loop import train


@pytest.mark.parametrize(
    ("name", "package"), [("adamw_8bit", "bitsandbytes"), ("schedule_free", "schedulefree")]
)
def test_a_missing_optimiser_is_said(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InvalidInput, match=f"needs the package {package}.*or use adamw") as caught:
        build_optimizer(nn.Linear(1, 1).parameters(), OptimConfig(optimizer=name))
    assert "\n" not in str(caught.value)


class ScheduleFreeSGD(torch.optim.Optimizer):
    """Schedule-free in its plainest form, after the paper's equations: the library's stand-in.

    z <- z - lr g;  x <- (1 - 1/n) x + z / n;  y = (1 - b) z + b x.
    """

    def __init__(self, parameters, lr, weight_decay):
        super().__init__(parameters, {"lr": lr, "betas": (0.9, 0.999), "n": 0})
        self.x = {}

    def train(self):
        pass

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            group["n"] += 1
            for y in group["params"]:
                z = self.state[y].setdefault("z", y.clone())
                x = self.x.setdefault(y, y.clone())
                z.sub_(group["lr"] * y.grad)
                x.lerp_(z, 1 / group["n"])
                y.copy_(0.1 * z + 0.9 * x)


def test_the_schedule_free_average_is_the_x_of_the_paper(monkeypatch):
    library = types.SimpleNamespace(AdamWScheduleFree=ScheduleFreeSGD)
    monkeypatch.setattr(optim, "_library", lambda name, optimizer: library)
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    config = OptimConfig(optimizer="schedule_free", lr=0.1)
    optimizer = build_optimizer(model.parameters(), config)
    (average,) = build_averages(list(model.parameters()), config, optimizer)
    for n in range(1, 6):
        optimizer.zero_grad()
        model(torch.randn(4, 3)).square().mean().backward()
        optimizer.step()
        average.update(n)
        for p, mean in zip(model.parameters(), average.tensors, strict=True):
            torch.testing.assert_close(mean, optimizer.x[p], rtol=1e-5, atol=1e-6)
            assert n == 1 or not torch.allclose(mean, p)


def test_the_real_schedule_free_optimiser_resumes_exactly(tiny, tmp_path):
    pytest.importorskip("schedulefree")
    config = replace(
        tiny,
        optim=replace(tiny.optim, optimizer="schedule_free", schedule="constant", steps=8),
        run=replace(tiny.run, save_every=4),
    )
    whole = replace(config, run=replace(config.run, out=str(tmp_path / "whole")))
    train(whole)
    train(replace(config, optim=replace(config.optim, steps=4)))
    train(config, resume=True)
    one, other = (
        (Path(c.run.out) / "weights-000008.safetensors").read_bytes()[-4000:]
        for c in (whole, config)
    )
    assert one == other


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
