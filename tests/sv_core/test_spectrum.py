"""The cosine transform's inverse laws, and the fit of a power law whose truth is known."""

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.spectrum import (
    FLUX_SPECTRUM,
    WAN_SPECTRUM,
    PowerLaw,
    amplitude_ratio,
    band_powers,
    cosine,
    fit_power_law,
    fractions,
    inverse_cosine,
    lift,
    low,
)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("shape", [(2, 3, 8, 12), (1, 4, 3, 13, 7), (5, 5)])
def test_the_transform_is_orthonormal(shape):
    x = drawn(*shape)
    torch.testing.assert_close(inverse_cosine(cosine(x)), x)
    torch.testing.assert_close(cosine(x).square().sum(), x.square().sum())


def test_the_transform_of_a_cosine_is_one_coefficient():
    n, k = 16, 5
    wave = torch.cos(torch.pi * (torch.arange(n, dtype=torch.float64) + 0.5) * k / n)
    found = cosine(wave.expand(4, n))
    expected = torch.zeros(4, n, dtype=torch.float64)
    expected[0, k] = (4 * n / 2) ** 0.5
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("size", [(6, 10), (13, 7), (4, 4)])
def test_low_undoes_lift_and_lift_keeps_the_low_block(size):
    y, full = drawn(2, 3, *size), (16, 20)
    torch.testing.assert_close(low(lift(y, full), size), y)
    kept = cosine(lift(low(drawn(2, 3, *full), size), full))
    assert float(kept[..., size[0] :, :].abs().max()) < 1e-12
    torch.testing.assert_close(low(drawn(1, *full), full), drawn(1, *full))


def test_white_noise_stays_white():
    small = low(drawn(20_000, 8, 8), (4, 4)).flatten(1)
    covariance = small.T @ small / len(small)
    assert float((covariance - torch.eye(16)).abs().max()) < 0.04


def test_a_constant_keeps_its_value_over_the_ratio():
    torch.testing.assert_close(low(torch.full((8, 12), 3.0), (4, 6)), torch.full((4, 6), 6.0))


def test_half_precision_is_transformed_in_single():
    assert cosine(drawn(4, 4).bfloat16()).dtype == torch.float32
    assert low(drawn(4, 4), (2, 2)).dtype == torch.float64


def test_the_published_spectra():
    assert FLUX_SPECTRUM.power_at(0.5) == pytest.approx(0.267, abs=1e-3)
    assert WAN_SPECTRUM.power_at(0.5) == pytest.approx(0.116, abs=1e-3)


def field(law: PowerLaw, *shape: int, seed: int = 0) -> torch.Tensor:
    q = fractions((shape[-2], shape[-1]))
    q[0, 0] = 1.0
    return inverse_cosine(drawn(*shape, seed=seed) * law.power(q).sqrt())


@pytest.mark.parametrize("law", [FLUX_SPECTRUM, WAN_SPECTRUM, PowerLaw(0.3, 1.0)])
def test_the_fit_finds_a_known_law_at_any_size(law):
    for size in ((64, 64), (48, 80)):
        found = fit_power_law(field(law, 16, 4, *size))
        assert found.exponent == pytest.approx(law.exponent, abs=0.05)
        assert found.amplitude == pytest.approx(law.amplitude, rel=0.05)


def test_bands_count_every_coefficient_once():
    edges = torch.tensor([0.0, 0.25, 0.5, 1.0, 1.5], dtype=torch.float64)
    powers, counts = band_powers(drawn(2000, 3, 16, 20), edges)
    assert int(counts.sum()) == 16 * 20 - 1 and powers.shape == (3, 4)
    torch.testing.assert_close(powers, torch.ones(3, 4, dtype=torch.float64), rtol=0.03, atol=0)


@pytest.mark.parametrize(
    "latents", [torch.zeros(4, 2, 32, 32), torch.ones(1, 1, 2, 2)], ids=["flat", "small"]
)
def test_what_has_no_spectrum_is_refused(latents):
    with pytest.raises(InvalidInput, match="no spectrum"):
        fit_power_law(latents)


@pytest.mark.parametrize(("amplitude", "exponent"), [(0, 1), (1, -1), (float("nan"), 1)])
def test_laws_that_no_data_has_are_refused(amplitude, exponent):
    with pytest.raises(InvalidInput, match="amplitude above 0"):
        PowerLaw(amplitude, exponent)


def test_smaller_pictures_of_a_vae_that_treats_sizes_alike_are_weaker_by_the_ratio():
    full = field(FLUX_SPECTRUM, 4, 3, 64, 64)
    assert amplitude_ratio(full, low(full, (32, 32)) / 2) == pytest.approx(2)
    assert amplitude_ratio(full + 5, low(full, (32, 32)) / 1.5) == pytest.approx(1.5)
    with pytest.raises(InvalidInput, match="not the same pictures"):
        amplitude_ratio(full, low(full, (32, 32))[:1])
    with pytest.raises(InvalidInput, match="of one colour"):
        amplitude_ratio(full, torch.zeros(4, 3, 32, 32))
