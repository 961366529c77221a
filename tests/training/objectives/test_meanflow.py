"""MeanFlow's targets, losses and reports in the trainer, against the formulas and closed forms."""

import functools
from dataclasses import replace

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import nn

from sv_core.interpolant import LINEAR
from sv_core.meanflow import (
    DERIVATIVES,
    difference_derivative,
    guided_velocity,
    mean_velocity_target,
)
from sv_core.timesteps import logit_normal, time_pairs
from tests.training.linear_field import Linear
from training import rng
from training.config.schema import RunConfig
from training.data import batches
from training.data import dataset as datasets
from training.engine.distributed import Processes
from training.objectives import meanflow
from training.objectives.base import Setup
from training.objectives.build import build_objective
from training.run.state import TrainState
from training.run.step import Learner


def shake(tensors, scale: float, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for x in tensors:
            x.add_(scale * torch.randn(x.shape, generator=generator))


def learner_of(config) -> tuple[Learner, TrainState, batches.Batch]:
    """Off the initial zero, and with averages that are other weights than the trained ones."""
    dataset = datasets.load(config.data, config.align.encoders)
    state = TrainState(config, dataset, Processes(config.run))
    shake(state.trained.values(), 0.1)
    for average, weight in zip(state.averages[0].tensors, state.trained.values(), strict=True):
        average.copy_(weight.detach())
    shake(state.averages[0].tensors, 0.1, seed=1)
    learner = Learner(config, state, build_objective(config.objective, state.backbone))
    return learner, state, batches.batch(dataset, config.data, config.run.seed, 1)


def outcome(config) -> list[torch.Tensor]:
    learner, state, batch = learner_of(config)
    losses, aligned, _ = learner.compute(batch, 1, report=False)
    assert torch.isfinite(losses).all()
    return [p.grad for p in state.parameters if p.grad is not None] + [losses, aligned]


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"beta": 0.3, "power": 0.0},
        {"guidance": 2.5, "mix": 0.25, "beta": 0.5, "anchor": 0.1},
        {"trace_weight": True, "power": 0.0},
    ],
)
def test_the_gradient_is_the_formulas(mean_config, keys):
    """Written down once more, in one piece, with the averaged weights in a network of their own."""
    config = mean_config(**keys)
    m = config.meanflow
    learner, state, batch = learner_of(config)
    model, dataset = state.model, datasets.load(config.data)
    drawn = rng.generator(0, 1, "path")
    r, t = time_pairs(8, drawn, functools.partial(logit_normal, mean=-0.4), m.equal)
    assert 2 <= (r < t).sum() <= 6
    eps = torch.randn(batch.x0.shape, generator=drawn)
    x_t = LINEAR.x_t(batch.x0, eps, t)
    v = eps - batch.x0
    with state.averaged() as own, torch.no_grad():
        v_hat = own.velocity(x_t, t, batch.cond)
        null = own.velocity(x_t, t, torch.full_like(batch.cond, dataset.num_classes))
    named = (batch.cond < dataset.num_classes)[:, None, None, None]
    v = torch.where(named, guided_velocity(v, v_hat, null, m.guidance, m.mix), v)

    def u(x, r, t):
        return model(x, t, batch.cond, r)

    target = mean_velocity_target(u, x_t, r, t, v, v_hat=v_hat, beta=m.beta)
    error = (u(x_t, r, t) - target).square().flatten(1).mean(1)
    weight = (error.detach() + 0.01) ** -m.power
    if m.trace_weight:
        jacobian = torch.func.vmap(
            torch.func.jacfwd(lambda x, r, t, y: model(x[None], t[None], y[None], r[None])[0])
        )
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            j = jacobian(x_t, r, t, batch.cond).reshape(8, 64, 64)
        j = ((t - r)[:, None, None] * j - torch.eye(64)).detach()
        inside = torch.nonzero(r < t).flatten()
        # The only free choice: which signs the probe of an inner row has.
        z = torch.randint(2, x_t[inside].shape, generator=drawn) * 2.0 - 1
        trace = torch.ones(8)
        trace[inside] = (j[inside] @ z.flatten(1)[..., None]).square().flatten(1).mean(1)
        weight = 1 / (1 + t**4 * trace)
    loss = weight * error
    if m.anchor:
        near = u(x_t, t - 1e-3, t) - v
        loss = loss + m.anchor * near.square().flatten(1).mean(1)
    parameters = list(state.trained.values())
    expected = torch.autograd.grad(loss.mean(), parameters, allow_unused=True)
    losses, _, _ = learner.compute(batch, 1, report=False)
    torch.testing.assert_close(losses, error.detach(), rtol=1e-4, atol=1e-5)
    for one, p in zip(expected, parameters, strict=True):
        torch.testing.assert_close(p.grad, one, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "keys", [{"guidance": 2.0, "beta": 0.25, "anchor": 0.1}, {"velocity": "stable"}]
)
def test_parts_of_a_batch_add_up(mean_config, keys):
    config = mean_config(**keys)
    parts = replace(config, optim=replace(config.optim, accumulate=4))
    for one, four in zip(outcome(config), outcome(parts), strict=True):
        torch.testing.assert_close(one, four, rtol=1e-3, atol=1e-5)


def test_recomputing_and_compiling_change_nothing(mean_config, monkeypatch):
    config = mean_config(derivative="exact", guidance=2.0)
    plain = outcome(config)
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    run = replace(config.run, recompute=True, compile=True)
    for one, other in zip(plain, outcome(replace(config, run=run)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("derivative", ["exact", "difference"])
def test_targets_in_bf16_are_within_two_percent(mean_config, derivative):
    """Differences stay in float32, or they would be nothing but rounding."""
    targets = []
    for precision in ("fp32", "bf16"):
        AcceleratorState._reset_state(True)
        config = mean_config(beta=0.5, derivative=derivative, guidance=2.0)
        config = replace(config, run=replace(config.run, precision=precision))
        learner, _, batch = learner_of(config)
        drawn = rng.generator(0, 1, "path")
        aim, _ = learner.criterion.aim(batch, drawn, learner.rows, False)
        targets.append(aim.target[aim.r < aim.path.t])
    one, other = targets
    error = (one - other).flatten(1).norm(dim=1) / one.flatten(1).norm(dim=1)
    assert 0 < error.max() < 0.02


def linear_aim(config, monkeypatch, a: float, c: float = 0.0):
    dataset = datasets.load(config.data)
    state = TrainState(config, dataset, Processes(RunConfig(device="cpu")))
    model = nn.Linear(1, 1)
    state.model, state.backbone = model, Linear(model, a, c)
    state.trained = dict(model.named_parameters())
    state.averages = []
    objective = build_objective(config.objective, state.backbone)
    criterion = meanflow.MeanFlow(config.meanflow, objective, state, Setup(config.data.batch_size))
    batch = batches.batch(dataset, config.data, 0, 1)
    return criterion.aim(batch, rng.generator(0, 1, "path"), slice(0, 8), True)


@pytest.mark.parametrize(("a", "beta"), [(3.0, 0.0), (3.0, 0.4), (-2.0, 0.4)])
def test_the_report_is_the_closed_form(mean_config, monkeypatch, a, beta):
    """With J = k I: Tr(J J^T)/d = k^2, and the target's noise is (1 - (1 - beta) (t - r) a) v'."""
    aim, said = linear_aim(mean_config(beta=beta), monkeypatch, a)
    inside = aim.r < aim.path.t
    h = (aim.path.t - aim.r)[inside]
    v_prime = (aim.v - a * aim.path.x_t)[inside]
    size = v_prime.square().flatten(1).mean(1)
    report = said["meanflow"]
    assert report["beta"] == beta
    assert report["trace"] == pytest.approx(((a * h - 1) ** 2).mean().item(), rel=1e-4)
    expected = ((1 - (1 - beta) * a * h) ** 2 * size).mean().item()
    assert report["variance"] == pytest.approx(expected, rel=1e-4)
    along, square = (a * h * size).sum(), (a * h) ** 2 * size
    best = 1 - (along / square.sum()).item() if along > 0 else 0.0
    assert report["suggested"] == pytest.approx(min(1, max(0, best)), abs=1e-4)


def test_auto_takes_the_estimate_up_to_a_half(mean_config, monkeypatch):
    for a, capped in ((1e3, True), (-2.0, False)):  # (t - r) a >> 1 asks for nearly all of v_hat
        config = mean_config(beta="auto", limit=float("inf"))
        report = linear_aim(config, monkeypatch, a)[1]["meanflow"]
        assert report["beta"] == (0.5 if capped else 0.0)
        assert (report["suggested"] > 0.9) == capped


def test_an_exploding_target_is_marked_and_the_others_are_not(mean_config, monkeypatch):
    """u = c t grows along t alone: the target is v - (t - r) c, long where t - r is."""
    c = 400.0
    aim, _ = linear_aim(mean_config(limit=100.0), monkeypatch, 0.0, c)
    target = aim.v - ((aim.path.t - aim.r) * c).view(-1, 1, 1, 1)
    ratio = target.flatten(1).norm(dim=1) / aim.v.flatten(1).norm(dim=1)
    marked = torch.isinf(aim.target).flatten(1).all(1)
    assert torch.equal(marked, ratio > 100) and marked.any() and not marked.all()
    torch.testing.assert_close(aim.target[~marked], target[~marked], rtol=1e-4, atol=1e-4)


def test_differences_are_taken_without_the_networks_wrappers(mean_config, monkeypatch):
    """The network in half precision, as it is wrapped for training, is not what is differentiated.

    The bound of two percent above would fail by far; this says why it holds.
    """
    seen = []

    def spy(u, x, r, t, dx, dt):
        seen.append(torch.is_autocast_enabled("cpu"))
        value = u(x, r, t)
        with torch.autocast("cpu", enabled=False):
            assert not torch.equal(u(x, r, t), value)  # autocast is outside, not within
        return difference_derivative(u, x, r, t, dx, dt)

    monkeypatch.setitem(DERIVATIVES, "difference", spy)
    config = mean_config(derivative="difference")
    config = replace(config, run=replace(config.run, precision="bf16"))
    outcome(config)
    assert seen == [True]
