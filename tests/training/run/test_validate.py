"""Validation: losses and gaps that are known in closed form."""

import pytest
import torch
from torch import nn

from tests.training.linear_field import Linear
from training import rng
from training.data import dataset as datasets
from training.networks.sit import build
from training.run.validate import by_interval, one_call_gap, validation_loss


def test_the_untrained_validation_loss_is_the_second_moment_of_the_target(tiny):
    dataset = datasets.load(tiny.data)
    losses = validation_loss(build(tiny.model, dataset, 0), dataset)  # a new SiT is zero
    x0 = dataset.latent.to_model(dataset.gather(dataset.held_out)[0])
    expected = 1 + x0.square().mean().item()  # E (eps - x0)^2
    assert torch.allclose(losses, torch.full_like(losses, expected), rtol=0.03)
    assert losses.std() < 1e-5  # the same noise at every time


def test_losses_by_interval():
    r, t = torch.tensor([0.1, 0.5, 0.2, 0.9]), torch.tensor([0.1, 0.9, 0.4, 0.9])
    losses = torch.tensor([1.0, 3.0, 4.0, 2.0])
    assert by_interval(losses, r, t) == {"boundary": 1.5, "interior": 3.5}
    assert by_interval(losses[1:3], r[1:3], t[1:3]) == {"boundary": None, "interior": 3.5}
    assert by_interval(losses, t, t) == {}


def test_the_one_call_gap_is_that_of_a_linear_field(mean_config):
    """u = a x: one call leaves (1 - a) of the noise, eight leave (1 - a/8)^8."""
    dataset = datasets.load(mean_config().data)
    backbone = Linear(nn.Linear(1, 1), 0.5)
    backbone.latent = dataset.latent
    gap = one_call_gap(backbone, dataset)
    noise = torch.randn(64, 1, 8, 8, generator=rng.generator(0, 0, "one call"))
    expected = ((0.5 - (1 - 0.5 / 8) ** 8) * noise).square().mean().item()
    assert gap == pytest.approx(expected, rel=1e-4)
