"""The toy of flow matching: the better target trains better, on the same data."""

import pytest
import torch

from tests.training.toy.one_gaussian import ONE
from training.toy.flow_matching import main
from training.toy.measure import (
    METHODS,
    Method,
    train,
)
from training.toy.models import MIXTURES


def test_a_better_target_trains_better():
    """With the exact velocity a network on one Gaussian is nearer than with flow matching's."""
    plain, exact = (train(ONE, m, seeds=4, steps=200) for m in (METHODS[0], METHODS[-1]))
    assert (exact.velocity[-1] < plain.velocity[-1]).all()
    assert (plain.velocity[-1] < plain.velocity[0]).all()


def test_methods_see_the_same_data():
    """A bank that is never used, its threshold being above 1, changes nothing."""
    plain = train(ONE, METHODS[0], seeds=2, steps=9)
    unused = train(ONE, Method("", 64, threshold=2.0), seeds=2, steps=9)
    assert torch.equal(plain.error, unused.error)


def test_command_prints_tables_and_draws(tmp_path, capsys):
    file = tmp_path / "curves.png"
    main([str(file), "--quick"])
    out = capsys.readouterr().out
    assert out.count("variance of the target") == len(MIXTURES)
    assert out.count("Fisher divergence") == len(MIXTURES)
    assert "nan" not in out
    assert file.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("name", ["missing/curves.png", "curves.txt"])
def test_command_refuses_a_place_it_cannot_write(name, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path / name)])
    assert "must be a .png in a folder that exists" in capsys.readouterr().err
