"""Which network a configuration says, as far as no ComfyUI is needed for it."""

from dataclasses import replace

import pytest
import torch

from sv_core.errors import InvalidInput
from training.config.schema import ComfyConfig, RunConfig
from training.data.dataset import load
from training.engine.distributed import Processes
from training.networks import sit
from training.networks.build import build, with_interval


@pytest.fixture
def made(tiny):
    data, processes = load(tiny.data), Processes(RunConfig(device="cpu"))

    def make(seed=0, interval=False, **comfy):
        return build(tiny.model, ComfyConfig(**comfy), data, processes, seed, interval)

    return make


def test_without_a_file_of_comfyui_s_it_is_the_sit_of_its_seed(made, tiny):
    network, other = made(), made(seed=1)
    assert isinstance(network, sit.SiTBackbone)
    expected = sit.build(tiny.model, load(tiny.data), 0).weights()
    assert all(torch.equal(w, expected[name]) for name, w in network.weights().items())
    assert any(not torch.equal(w, expected[name]) for name, w in other.weights().items())


@pytest.mark.parametrize("interval", [False, True])
def test_a_sit_is_told_intervals_when_that_is_learnt(made, interval):
    network = made(interval=interval)
    assert network.interval is interval
    if interval:  # it has its own
        assert with_interval(network, [None, "nothing.safetensors"], 0) is network


def test_a_file_of_comfyui_s_that_is_not_there_is_refused_in_words(made, tmp_path):
    gone = str(tmp_path / "gone.safetensors")
    with pytest.raises(InvalidInput) as caught:
        made(checkpoint=gone, folder=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_a_sit_of_other_sizes_is_another_network(made, tiny):
    deeper = replace(tiny.model, depth=3)
    network = sit.build(deeper, load(tiny.data), 0)
    assert len(network.blocks) == 3 and len(made().blocks) == tiny.model.depth
