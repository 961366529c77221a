"""sv_core.latent: the map to model space and back."""

import pytest
import torch

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
