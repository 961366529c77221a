"""training.toy_meanflow: the sets are what they are called, the distance is one, and it learns."""

import pytest
import torch

from sv_core.meanflow import CAP, control_coefficient
from training.toy import meanflow
from training.toy.meanflow import METHODS, coefficient, main, stack, train
from training.toy.models import initial, network
from training.toy.sets import SETS


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
