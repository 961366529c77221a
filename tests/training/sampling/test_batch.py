"""Batches of an order: whose class, whose noise, on which grid; by a field in closed form."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from sv_core.latent import pixels
from sv_core.schedules import regime_split, shift, uniform_grid
from training.rng import generator
from training.sampling import batch

ORDER = batch.Order(
    n=10, classes=[0, 2, 1], sampler="euler", steps=6, shift=3.0, split=0.85, low_steps=2,
    guidance=1.0, interval=(0.0, 1.0), seed=5, batch=4,
)  # fmt: skip


def of_class(scale: float = 0.25) -> SimpleNamespace:
    """v = c / 4: from noise n every sampler comes to n - c / 4."""
    return SimpleNamespace(
        model=nn.Linear(1, 1),
        config=SimpleNamespace(in_channels=1, input_size=4, num_classes=3),
        latent=pixels(1),
        velocity=lambda x, t, cond: 0 * x + scale * cond.view(-1, 1, 1, 1),
        average_velocity=lambda x, r, t, cond: 0 * x + scale * cond.view(-1, 1, 1, 1),
    )


def shown(order: batch.Order, number: int, classes: list[float]) -> torch.Tensor:
    noise = torch.randn(len(classes), 1, 4, 4, generator=generator(order.seed, number, "sample"))
    x = noise - 0.25 * torch.tensor(classes).view(-1, 1, 1, 1)
    grey = (((x + 1) / 2).clamp(0, 1) * 255).round().byte()
    return grey.expand(-1, 3, -1, -1).permute(0, 2, 3, 1)


@pytest.mark.parametrize("sampler", ["euler", "heun", "ode", "stable", "meanflow"])
def test_classes_are_taken_in_turn_and_the_last_batch_is_short(sampler):
    order = replace(ORDER, sampler=sampler)
    studio = batch.Studio(of_class(), lambda latents: latents, bf16=False)
    for number, classes in enumerate(([0, 2, 1, 0], [2, 1, 0, 2], [1, 0])):
        made = studio.make(order, number)
        off = (made.int() - shown(order, number, classes).int()).abs().max()
        assert made.dtype == torch.uint8 and off <= 1, (number, off)


def test_the_grid_is_thinned_for_the_paper_s_sampler_alone():
    whole = shift(uniform_grid(6), 3.0)
    for sampler in ("euler", "heun", "sde", "meanflow"):
        assert torch.equal(replace(ORDER, sampler=sampler).grid(), whole)
    assert torch.equal(replace(ORDER, sampler="stable").grid(), regime_split(whole, 0.85, 2))


def test_numbers_that_are_none_are_never_written_as_pictures():
    studio = batch.Studio(of_class(float("nan")), lambda latents: latents, bf16=False)
    with pytest.raises(FloatingPointError, match="the pictures of batch 1 are not finite"):
        studio.make(ORDER, 1)
