"""What the trainer asks of a network is what both kinds of networks answer."""

from dataclasses import fields, replace

import pytest
import torch

from training.config.schema import ModelConfig
from training.data.dataset import load
from training.networks.base import Backbone
from training.networks.comfy.backbone import ComfyBackbone
from training.networks.sit import SiTBackbone, build

ASKED = {name for name in vars(Backbone) if not name.startswith("_")}


@pytest.mark.parametrize("kind", [SiTBackbone, ComfyBackbone])
def test_everything_that_is_asked_is_there(kind):
    assert not ASKED - {f.name for f in fields(kind)} - set(dir(kind))


@pytest.fixture
def sit(tiny) -> SiTBackbone:
    torch.manual_seed(0)
    model = ModelConfig(patch_size=4, hidden_size=16, depth=2, num_heads=2)
    made = build(model, load(tiny.data), 0, interval=True)
    for p in made.model.parameters():
        if p.requires_grad:
            torch.nn.init.normal_(p, std=0.2)
    return made


@torch.no_grad()
def test_the_average_over_no_interval_is_the_velocity(sit):
    x, t, r = torch.randn(3, 1, 8, 8), torch.rand(3), torch.zeros(3)
    cond = torch.tensor([0, 4, 10])
    v = sit.velocity(x, t, cond)
    assert torch.equal(sit.average_velocity(x, t, t, cond), v)
    assert not torch.allclose(sit.average_velocity(x, r, t, cond), v)


@torch.no_grad()
def test_over_a_wrapped_network_it_is_the_same_adapter(sit):
    x, t, cond = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])
    asked = []

    def wrapped(*args):
        asked.append(len(args))
        return sit.model(*args)

    assert torch.equal(sit.on(wrapped).velocity(x, t, cond), sit.velocity(x, t, cond))
    assert asked == [3] and sit.on(wrapped).latent == sit.latent


@torch.no_grad()
def test_watched_tokens_are_of_the_block_that_is_named_and_only_then(sit):
    x, t, cond = torch.randn(2, 1, 8, 8), torch.rand(2), torch.tensor([1, 2])
    found = []
    for number in (1, 2):
        with sit.watch(number) as tokens:
            sit.velocity(x, t, cond)
        assert [token.shape for token in tokens] == [(2, 4, 16)]
        sit.velocity(x, t, cond)
        assert len(tokens) == 1
        found += tokens
    assert not torch.allclose(found[0], found[1])


def test_metadata_say_what_kind_of_velocity_it_is(sit):
    kinds = [
        replace(sit, config=replace(sit.config, interval=interval)).metadata()
        for interval in (True, False)
    ]
    said = [kind["modelspec.prediction_type"] for kind in kinds]
    assert said == ["average velocity", "velocity"]
