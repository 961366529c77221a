import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sv_core.fidelity import psnr, ssim


def pictures(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(2, 3, 24, 31, generator=g, dtype=torch.float64)
    a = torch.nn.functional.avg_pool2d(a, 5, stride=1, padding=2)
    noise = 0.05 * torch.randn(a.shape, generator=g, dtype=torch.float64)
    return a, (a + noise).clamp(0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_psnr_and_ssim_agree_with_scikit_image(seed):
    a, b = pictures(seed)
    for i in range(len(a)):
        x, y = (p[i].permute(1, 2, 0).numpy() for p in (a, b))
        assert psnr(a, b)[i].item() == pytest.approx(peak_signal_noise_ratio(x, y, data_range=1))
        theirs = structural_similarity(
            x, y, data_range=1, channel_axis=2, gaussian_weights=True, use_sample_covariance=False
        )
        assert ssim(a, b)[i].item() == pytest.approx(theirs, abs=1e-12)


def test_equal_pictures_are_perfect_and_a_tenth_off_is_20_db():
    a, _ = pictures(0)
    assert torch.equal(ssim(a, a), torch.ones(2, dtype=a.dtype))
    assert torch.isinf(psnr(a, a)).all()
    assert torch.allclose(psnr(a, a + 0.1), torch.full((2,), 20.0, dtype=a.dtype))
