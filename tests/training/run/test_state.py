"""What a step changes: averaged weights are lent and given back, a state is taken up whole."""

from dataclasses import replace

import pytest
import torch

from training.data import dataset
from training.engine.distributed import Processes
from training.run.state import TrainState


@pytest.fixture
def made(aligned):
    """States of the tiny run with everything on, from a seed."""

    def make(seed=0):
        config = replace(aligned, run=replace(aligned.run, seed=seed))
        data = dataset.load(config.data, config.align.encoders)
        return TrainState(config, data, Processes(config.run))

    return make


def stir(state: TrainState) -> None:
    """As a step might: weights, moments of the optimiser, averages."""
    draw = torch.Generator().manual_seed(3)
    for p in state.parameters:
        p.grad = torch.randn(p.shape, generator=draw)
    state.optimizer.step()
    for average in state.averages:
        for x in average.tensors:
            x.add_(torch.randn(x.shape, generator=draw))
    state.step += 1


def copied(state: TrainState) -> dict:
    return {name: p.detach().clone() for name, p in state.trained.items()}


def test_averaged_weights_are_lent_and_the_trained_ones_come_back_to_the_bit(made):
    state = made()
    stir(state)
    before = copied(state)
    for number, average in enumerate(state.averages):
        with state.averaged(number) as backbone:
            assert not backbone.model.training
            for x, p in zip(average.tensors, state.trained.values(), strict=True):
                assert torch.equal(x, p)
        assert state.model.training
        assert all(torch.equal(before[name], p) for name, p in state.trained.items())
    assert len(state.averages) == 2

    with pytest.raises(ZeroDivisionError), state.averaged():
        1 / 0  # noqa: B018
    assert all(torch.equal(before[name], p) for name, p in state.trained.items())
    assert state.model.training


def flat(tree, path=()):
    if isinstance(tree, dict):
        for key, value in tree.items():
            yield from flat(value, (*path, key))
    elif isinstance(tree, list | tuple):
        for number, value in enumerate(tree):
            yield from flat(value, (*path, number))
    else:
        yield path, tree


def test_another_process_takes_the_state_up_whole(made):
    state, other = made(), made(seed=1)
    stir(state)
    stir(state)
    saved = dict(flat(state.state_dict()))
    assert any(
        not torch.equal(v, dict(flat(other.state_dict())).get(k, v + 1))
        for k, v in saved.items()
        if isinstance(v, torch.Tensor) and v.is_floating_point()
    )
    other.load_state_dict(state.state_dict())
    found = dict(flat(other.state_dict()))
    assert found.keys() == saved.keys() and other.step == 2
    for key, value in saved.items():
        same = torch.equal(found[key], value) if torch.is_tensor(value) else found[key] == value
        assert same, key
