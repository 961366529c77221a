"""Whole runs of a GUIDER are those of ComfyUI's own sampling nodes."""

from importlib import import_module

import comfy.samplers
import pytest
import torch

from tests.nodes.loaded_pack import GRID, MODEL, NAME, SHAPE, sample, sit_model

pytestmark = pytest.mark.inside
guider = import_module(".nodes.host.guider", NAME)
EULER = comfy.samplers.sampler_object("euler")


def conditions():
    return [sit_model.conditioning_from_classes(c) for c in ([0], None)]


def test_a_run_sees_what_sample_custom_sees():
    theirs, ours = [], []
    sample(EULER, GRID, seed=3, callback=lambda i, x0, x, n: theirs.append((i, x0.clone(), n)))
    guider.run_guider(
        guider.cfg_guider(MODEL, *conditions(), 1.0),
        torch.zeros(SHAPE),
        {},
        EULER,
        GRID,
        3,
        lambda i, x0, x, n: ours.append((i, x0.clone(), n)),
    )
    assert [(i, n) for i, _, n in ours] == [(i, n) for i, _, n in theirs] and len(ours) == 30
    assert all(torch.equal(a[1], b[1]) for a, b in zip(ours, theirs, strict=True))


def test_an_empty_latent_gets_the_model_s_channels_and_a_full_one_stays():
    empty = guider.starting_latent(MODEL, {"samples": torch.zeros(2, 16, 8, 8)})
    assert empty.shape == (2, 4, 8, 8) and not empty.any()
    full = torch.randn(2, 4, 8, 8)
    assert guider.starting_latent(MODEL, {"samples": full}) is full
