"""Conditioning made again for a smaller picture."""

from importlib import import_module

import pytest
import torch

from tests.nodes.field_flow import FULL, SHAPE, make_field
from tests.nodes.loaded_pack import NAME

pytestmark = pytest.mark.inside

conditions = import_module(".nodes.host.conditions", NAME)
FIELD = make_field()
NOISE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
TEXT = torch.full((1, 3, 4), 0.5)


def made(entry, size=(32, 32), mask=None):
    inputs = conditions.Inputs(FIELD.model, NOISE, NOISE * 0.5, mask, 0)
    raw = {"positive": [{"cross_attn": TEXT, "uuid": 1, "model_conds": {}} | entry]}
    ratio = 64 / size[0]
    return conditions.conditions_at(raw, inputs, size, ratio, lambda t: t / 2)["positive"][0]


def test_areas_are_of_the_same_part_of_the_picture():
    assert made({"area": (32, 40, 16, 8)})["area"] == (16, 20, 8, 4)
    assert made({"area": (1, 64, 63, 0)})["area"] == (1, 32, 31, 0)
    assert made({"area": ("percentage", 0.5, 0.25, 0.5, 0.0)})["area"] == (16, 8, 16, 0)


def test_latents_keep_their_amplitude():
    flat = torch.full(SHAPE, 3.0)
    found = made({"concat_latent_image": flat, "reference_latents": [flat[..., :40, :24]]})
    torch.testing.assert_close(found["concat_latent_image"], torch.full((1, 4, 32, 32), 3.0))
    torch.testing.assert_close(found["reference_latents"][0], torch.full((1, 4, 20, 12), 3.0))


def test_percentages_are_mapped_and_their_ends_stay():
    found = made({"start_percent": 0.0, "end_percent": 0.5})
    full = FIELD.model.model_sampling.percent_to_sigma(0.5)
    assert found["timestep_end"] == pytest.approx(full / 2) and found["timestep_start"] == 1
    assert made({"end_percent": 1.0})["timestep_end"] == 0


def test_the_mask_that_a_network_reads_is_averaged():
    seen = {}
    before = FIELD.model.extra_conds
    FIELD.model.extra_conds = lambda **options: seen.update(options) or {}
    try:
        mask = torch.zeros(1, 1, *FULL)
        mask[..., :33, :] = 1
        made({}, mask=mask)
    finally:
        FIELD.model.extra_conds = before
    assert seen["denoise_mask"].shape == (1, 1, 32, 32)
    assert seen["denoise_mask"][0, 0, 14:19, 0].tolist() == [1, 1, 0.5, 0, 0]
    assert seen["noise"].shape == seen["latent_image"].shape == (1, 4, 32, 32)


def test_what_is_unfit_is_named():
    def reason(references=False, **entry):
        return conditions.unfit({"positive": [entry]}, FULL, references)

    assert reason(cross_attn=TEXT, mask=torch.ones(1, *FULL)) is None
    assert "GLIGEN" in reason(gligen=("position", object(), []))
    assert "edits a picture" in reason(reference_latents=[NOISE])
    assert reason(references=True, reference_latents=[NOISE]) is None
    assert "has vace_frames" in reason(vace_frames=[torch.zeros(1, 8, 1, *FULL)])
