"""SiT as a MeanFlow backbone: built, converted, saved and read back."""

from dataclasses import replace

import pytest
import torch

from training.config.schema import ModelConfig
from training.data.dataset import load as load_data
from training.files import save_weights
from training.networks.sit import build, load


@pytest.fixture
def data(tiny):
    return load_data(tiny.data)


def stir(backbone, seed=0):
    """All weights random, so that everything matters."""
    torch.manual_seed(seed)
    for parameter in backbone.model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.2)
    return backbone


def save(backbone, path):
    save_weights(path, backbone.weights(), backbone.metadata())
    return ModelConfig(checkpoint=str(path))


def asked(backbone, n=4):
    """(x_t, r, t, cond) for a backbone."""
    generator = torch.Generator().manual_seed(0)
    sit = backbone.config
    x = torch.randn(n, sit.in_channels, sit.input_size, sit.input_size, generator=generator)
    r, t = torch.rand(2, n, generator=generator).sort(0).values
    return x, r, t, torch.arange(n)


def test_a_plain_checkpoint_becomes_a_start_and_the_seed_decides_its_new_weights(
    tiny, data, tmp_path
):
    plain = stir(build(tiny.model, data, 0))
    assert not plain.interval
    config = save(plain, tmp_path / "plain.safetensors")
    start, same, other = (build(config, data, seed, interval=True) for seed in (5, 5, 6))
    x, r, t, cond = asked(start)
    assert start.interval and start.config == replace(plain.config, interval=True)
    assert torch.equal(start.average_velocity(x, r, t, cond), plain.velocity(x, t, cond))
    assert torch.equal(start.velocity(x, t, cond), plain.velocity(x, t, cond))
    first = "interval_embedder.mlp.0.weight"
    assert torch.equal(start.weights()[first], same.weights()[first])
    assert not torch.equal(start.weights()[first], other.weights()[first])
    assert not build(config, data, 0).interval


def test_a_new_network_has_the_weights_of_a_plain_one_of_its_seed(tiny, data):
    plain, start = (build(tiny.model, data, 3, interval=flag) for flag in (False, True))
    for name, tensor in plain.weights().items():
        assert torch.equal(start.weights()[name], tensor)


def test_its_file_says_what_it_is_and_is_read_back(tiny, data, tmp_path):
    backbone = stir(build(tiny.model, data, 0, interval=True))
    path = tmp_path / "meanflow.safetensors"
    config = save(backbone, path)
    assert backbone.metadata()["modelspec.prediction_type"] == "average velocity"
    x, r, t, cond = asked(backbone)
    expected = backbone.average_velocity(x, r, t, cond)
    assert not torch.allclose(expected, backbone.velocity(x, t, cond), atol=1e-3)
    for read in (load(path), build(config, data, 0), build(config, data, 0, interval=True)):
        assert read.interval
        assert torch.equal(read.average_velocity(x, r, t, cond), expected)
        assert torch.equal(read.velocity(x, t, cond), read.average_velocity(x, t, t, cond))


def test_every_weight_of_a_start_learns_but_the_embedder_s_first_layer_waits(tiny, data):
    """Behind a zero layer there is no gradient at first; after one step there is."""
    backbone = stir(build(tiny.model, data, 0))
    start = build(tiny.model, data, 0, interval=True)
    start.model.load_state_dict(dict(start.weights()) | dict(backbone.weights()))
    x, r, t, cond = asked(start)
    optimizer = torch.optim.SGD(start.model.parameters(), lr=0.1)
    reached = []
    for _ in range(2):
        optimizer.zero_grad()
        start.average_velocity(x, r, t, cond).square().mean().backward()
        mlp = start.model.interval_embedder.mlp
        reached.append([bool(layer.weight.grad.any()) for layer in (mlp[0], mlp[2])])
        optimizer.step()
    assert reached == [[False, True], [True, True]]
