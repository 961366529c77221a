"""bf16 weights: the mean of what is rounded, small steps that add up, resumed runs."""

import math
import weakref

import pytest
import torch
from torch import nn

from training.engine import stochastic_rounding
from training.engine.stochastic_rounding import step_in_float32, stochastic_round

BF16 = torch.bfloat16


def test_the_mean_is_the_value():
    # Of 20,000 draws each, within 4 standard errors of a coin between two neighbours.
    n = 20_000
    x = torch.tensor([1.0009765625, -3.14159, 7e-5, 1e-40, 0.2, -1e30, 511.7])
    draws = stochastic_round(x.expand(n, -1), torch.Generator().manual_seed(1)).double()
    down, up = draws.amin(0), draws.amax(0)
    share = (x.double() - down) / (up - down)
    error = (draws.mean(0) - x.double()).abs()
    assert (up > down).all() and (share > 0).all() and (share < 1).all()
    assert (error <= 4 * (up - down) * (share * (1 - share) / n).sqrt()).all()
    # One of the two neighbours, and no other value.
    assert ((draws == down) | (draws == up)).all()
    nearest = x.to(BF16).double()
    assert ((nearest == down) | (nearest == up)).all()


def test_what_bf16_holds_stays():
    bits = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16)
    every = bits.view(BF16)
    back = stochastic_round(every.float(), torch.Generator().manual_seed(1))
    assert torch.equal(back.isnan(), every.isnan())
    known = ~every.isnan()
    assert torch.equal(back.view(torch.int16)[known], bits[known])
    low = torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32)  # a NaN of low bits
    assert stochastic_round(low).isnan().all()


def weights(dtype=BF16, n=4096):
    return nn.Parameter(torch.full((n,), 1.0, dtype=dtype))


def test_steps_below_the_precision_add_up():
    # 100 steps of 1e-4 relative: 1 % in all; to the nearest, bf16 moves not at all.
    def run(wrap):
        p = weights()
        optimizer = wrap(torch.optim.SGD([p], lr=1e-4))
        for _ in range(100):
            p.grad = torch.full_like(p, -1.0)
            optimizer.step()
        return p.detach().double()

    lost, kept = run(lambda o: o), run(lambda o: step_in_float32(o, 1))
    assert torch.equal(lost, torch.ones_like(lost))
    # Each weight walks on the grid of 1/128: 1 or 1 + 1/128 or a bit further.
    error = kept.std() / math.sqrt(len(kept))
    assert abs(kept.mean() - 1.01) < 4 * error and error < 2e-4


@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"foreach": False}])
def test_adamw_is_that_of_float32_on_average(options):
    # The moments are exactly those of the same gradients in float32, and so is the mean weight.
    exact, low = weights(torch.float32), weights()
    first = torch.optim.AdamW([exact], lr=3e-4, **options)
    second = step_in_float32(torch.optim.AdamW([low], lr=3e-4, **options), 1)
    generator = torch.Generator().manual_seed(2)
    for _ in range(30):
        gradient = torch.randn((), generator=generator).to(BF16) + torch.ones_like(low) / 2
        exact.grad, low.grad = gradient.float(), gradient
        first.step(), second.step()
    for name, value in first.state[exact].items():
        assert second.state[low][name].dtype == torch.float32
        assert torch.equal(second.state[low][name], value), name
    assert low.dtype == BF16 and set(second.state) == {low}
    mean, error = low.double().mean(), low.double().std() / math.sqrt(len(low))
    assert 0 < error < 1e-4 and abs(mean - exact[0].double()) < 4 * error + 1e-6


def test_float32_weights_and_groups_are_stepped_as_ever():
    def make(dtype):
        return [nn.Parameter(torch.linspace(1, 2, 8, dtype=dtype)) for _ in range(2)]

    (norm, still), (low, _) = make(torch.float32), make(BF16)
    twin = nn.Parameter(norm.detach().clone())
    groups = [{"params": [low, norm], "lr": 0.1}, {"params": [still], "lr": 0.2}]
    optimizer = step_in_float32(torch.optim.AdamW(groups), 1)
    plain = torch.optim.AdamW([twin], lr=0.1)
    for _ in range(3):
        norm.grad, twin.grad, low.grad = (torch.ones(8), torch.ones(8), torch.ones(8).to(BF16))
        optimizer.step(), plain.step()
    assert torch.equal(norm, twin)
    assert torch.equal(still, torch.linspace(1, 2, 8)) and still not in optimizer.state
    assert [group["params"] for group in optimizer.param_groups] == [[low, norm], [still]]
    assert (low.float() - norm).abs().max() < 2**-6


class Counting(torch.optim.Optimizer):
    """Counts its steps in the group, as schedule-free does, and moves by that number."""

    def __init__(self, parameters):
        super().__init__(parameters, {"lr": 1.0, "k": 0})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["k"] += 1
            for p in group["params"]:
                if p.grad is not None:
                    p += group["k"]


def test_what_a_group_counts_is_counted_once_a_step():
    parameters = [nn.Parameter(torch.zeros(3, dtype=BF16)) for _ in range(3)]
    optimizer = step_in_float32(Counting(parameters), 1)
    for _ in range(2):
        for p in parameters:
            p.grad = torch.zeros_like(p)
        optimizer.step()
    assert optimizer.param_groups[0]["k"] == 2
    assert all(torch.equal(p, torch.full_like(p, 3)) for p in parameters)


def test_a_resumed_run_is_the_same_run():
    def make(seed=5):
        parameters = [weights(n=64), nn.Parameter(torch.ones(8))]
        return parameters, step_in_float32(torch.optim.AdamW(parameters, lr=1e-3), seed)

    def go(parameters, optimizer, steps):
        for step in steps:
            for p in parameters:
                p.grad = torch.full_like(p, math.sin(step))
            optimizer.step()
        return [p.detach().clone() for p in parameters]

    whole = go(*make(), range(10))
    parameters, optimizer = make()
    half = go(parameters, optimizer, range(4))
    saved = optimizer.state_dict()
    parameters, optimizer = make()
    with torch.no_grad():
        for p, value in zip(parameters, half, strict=True):
            p.copy_(value)
    optimizer.load_state_dict(saved)
    assert all(map(torch.equal, go(parameters, optimizer, range(4, 10)), whole))
    assert not torch.equal(go(*make(6), range(10))[0], whole[0])
    # Each step draws anew.
    parameters, optimizer = make()
    moved = []
    for _ in range(3):
        with torch.no_grad():
            parameters[0].fill_(1.0)
        moved.append((go(parameters, optimizer, [1])[0] == 1).tolist())
    assert moved[0] != moved[1] != moved[2]


def test_one_weight_at_a_time_is_in_memory_twice(monkeypatch):
    alive, most = set(), 0
    real = stochastic_rounding.nn.Parameter

    class Watched:
        def __new__(cls, data):
            nonlocal most
            p = real(data)
            alive.add(id(p))
            weakref.finalize(p, alive.discard, id(p))
            most = max(most, len(alive))
            return p

    parameters = [weights(n=8) for _ in range(5)]
    optimizer = step_in_float32(torch.optim.SGD(parameters, lr=0.1), 1)
    monkeypatch.setattr(stochastic_rounding.nn, "Parameter", Watched)
    for p in parameters:
        p.grad = torch.ones_like(p)
    optimizer.step()
    assert most == 1 and not alive
