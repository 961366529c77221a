"""training.toy_meanflow: the sets are what they are called, the distance is one, and it learns."""

import math

import pytest
import torch
from torch import Generator

from sv_core.meanflow import CAP, control_coefficient
from training.toy import meanflow
from training.toy.meanflow import METHODS, coefficient, main, stack, train
from training.toy.models import initial, network
from training.toy.sets import SETS, sliced_wasserstein


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Too small to share: two threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def generator():
    return Generator().manual_seed(0)


@pytest.mark.parametrize("name", SETS)
def test_sets_are_centred_and_of_unit_size(name, generator):
    x = SETS[name](50_000, generator)
    assert x.mean(0).abs().max() < 0.03
    assert abs(x.var(0).mean() - 1) < 0.03
    again = SETS[name](50_000, Generator().manual_seed(0))
    assert torch.equal(x, again)


def test_checkerboard_leaves_half_of_the_squares_empty(generator):
    x = SETS["checkerboard"](20_000, generator)
    low, high = x.min(0).values, x.max(0).values
    cell = ((x - low) / (high - low) * 4).long().clamp_max(3)
    counts = torch.bincount(cell[:, 0] * 4 + cell[:, 1], minlength=16)
    assert (counts > 2000).sum() == 8
    # Only the rounding of the measured border strays into a neighbour.
    assert counts.sort().values[:8].sum() < 40


@pytest.mark.parametrize(
    ("name", "fold"), [("8 gaussians", 8), ("pinwheel", 5), ("two spirals", 2)]
)
def test_sets_look_the_same_after_their_rotation(name, fold, generator):
    x, y = SETS[name](2 * 20_000, generator).view(2, 20_000, 2)
    angle = torch.tensor(2 * math.pi / fold)
    c, s = angle.cos(), angle.sin()
    turned = x @ torch.stack([torch.stack([c, s]), torch.stack([-s, c])])
    assert sliced_wasserstein(turned, y) < 0.03


def test_distance_of_a_shift_is_two_over_pi(generator):
    x = torch.randn(1000, 2, generator=generator)
    shift = torch.tensor([0.6, -0.8])
    torch.testing.assert_close(
        sliced_wasserstein(x, x + 2 * shift).item(), 4 / math.pi, rtol=1e-3, atol=0
    )
    assert sliced_wasserstein(x, x[torch.randperm(1000, generator=generator)]) == 0


def test_distance_of_two_gaussians(generator):
    """W1 of N(0, 1) and N(0, s^2) is (s - 1) sqrt(2 / pi) along every direction."""
    x, y = torch.randn(2, 40_000, 2, generator=generator)
    distance = sliced_wasserstein(x, 1.5 * y)
    assert abs(distance - 0.5 * math.sqrt(2 / math.pi)) < 0.02


def test_each_network_of_a_stack_has_its_own_coefficient(generator):
    parameters = [p.detach() for p in initial(3, generator, times=2, width=8, depth=1)]
    parameters = [4 * p for p in parameters]  # for J to be of either sign
    x, v, v_hat = torch.randn(3, 3 * 40, 2, generator=generator)
    t = 0.5 + 0.5 * torch.rand(120, generator=generator)
    r = 0.5 * t
    mine = [a[40:80] for a in (x, r, t, v, v_hat)]
    alone = coefficient([p[1] for p in parameters], *mine)
    joint = control_coefficient(lambda x, r, t: stack([p[1:2] for p in parameters], x, r, t), *mine)
    torch.testing.assert_close(alone, joint.clamp_max(CAP))
    together = stack(parameters, x, r, t)[40:80]
    one = network([p[1] for p in parameters], x[40:80], t[40:80], (t - r)[40:80])
    torch.testing.assert_close(together, one)


def test_training_brings_one_call_near_the_data(monkeypatch):
    monkeypatch.setattr(meanflow, "POINTS", 1024)

    def draw(n, generator):
        return SETS["moons"](n, generator) + 2

    start, later = (train(draw, seeds=1, steps=n, batch=64) for n in (1, 150))
    for method in METHODS:
        assert later[method.name].distance < 0.5 * start[method.name].distance


def test_methods_differ_in_nothing_but_their_target(monkeypatch):
    """The signed estimate held at 0 is MeanFlow itself, to the last sample."""
    monkeypatch.setattr(meanflow, "CAP", 0.0)
    monkeypatch.setattr(meanflow, "POINTS", 64)
    runs = train(SETS["moons"], seeds=2, steps=12, batch=32)
    assert torch.equal(runs["auto"].samples, runs["beta 0"].samples)
    assert not torch.equal(runs["beta 1"].samples, runs["beta 0"].samples)
    assert not torch.equal(runs["stable"].samples, runs["beta 0"].samples)
    assert runs["beta 0.5"].beta.tolist() == [0.5, 0.5]


def test_command_prints_a_table_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(meanflow, "POINTS", 256)
    file = tmp_path / "clouds.png"
    main([str(file), "--quick"])
    out = capsys.readouterr().out
    assert all(out.count(name) == 2 for name in SETS)
    assert all(method.name in out for method in METHODS)
    assert "nan" not in out
    assert file.read_bytes().startswith(b"\x89PNG")


def test_command_refuses_a_place_it_cannot_write(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / "missing" / "clouds.png")])
    assert "must be a .png in a folder that exists" in capsys.readouterr().err
