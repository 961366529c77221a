"""sv_core.latent: the map to model space and back."""

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.latent import SD_VAE, LatentSpec, pixels

FLUX_LIKE = LatentSpec("flux", 16, scale=0.3611, shift=0.1159, downscale=8)


@pytest.mark.parametrize("spec", [SD_VAE, pixels(3), FLUX_LIKE])
def test_there_and_back(spec, generator):
    x = torch.randn(2, spec.channels, 3, 3, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(spec.from_model(spec.to_model(x)), x, rtol=0, atol=1e-14)


def test_pixels_fill_minus_one_to_one():
    image = torch.tensor([0.0, 0.5, 1.0])
    assert pixels(1).to_model(image).tolist() == [-1, 0, 1]


def test_shift_comes_before_scale():
    latent = torch.tensor([0.1159, 1.1159], dtype=torch.float64)
    expected = torch.tensor([0.0, 0.3611], dtype=torch.float64)
    torch.testing.assert_close(FLUX_LIKE.to_model(latent), expected)
    assert SD_VAE.to_model(torch.tensor(1.0, dtype=torch.float64)) == 0.18215


@pytest.mark.parametrize("rank", [2, 3, 4, 5])
def test_a_number_for_each_channel(rank, generator):
    spec = LatentSpec("wan", 3, scale=(0.5, 2.0, 4.0), shift=(1.0, 0.0, -1.0), downscale=8)
    x = torch.randn(2, 3, *[2] * (rank - 2), generator=generator, dtype=torch.float64)
    for c in range(3):
        alone = LatentSpec("wan", 1, scale=spec.scale[c], shift=spec.shift[c], downscale=8)
        assert torch.equal(spec.to_model(x)[:, c], alone.to_model(x[:, c]))
        assert torch.equal(spec.from_model(x)[:, c], alone.from_model(x[:, c]))


def test_json_s_lists_are_the_same_spec():
    spec = LatentSpec("wan", 2, scale=(0.5, 2.0), shift=(1.0, 0.0), downscale=8)
    assert LatentSpec("wan", 2, scale=[0.5, 2.0], shift=[1.0, 0.0], downscale=8) == spec
    with pytest.raises(InvalidInput, match="2 channels, but their shift has 3 numbers"):
        LatentSpec("wan", 2, scale=1.0, shift=(1.0, 0.0, 0.0), downscale=8)
