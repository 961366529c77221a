"""The node Latent Spectrum: a known spectrum is found, and Coarse First follows it."""

from importlib import import_module

import pytest
import torch

import nodes
from tests.nodes.field_flow import make_field
from tests.nodes.loaded_pack import NAME, complaint

pytestmark = pytest.mark.inside

spectrum = import_module(".sv_core.spectrum", NAME)
coarse_first = import_module(".nodes.coarse_first", NAME)
coarse = import_module(".nodes.samplers.coarse", NAME)
Node = nodes.NODE_CLASS_MAPPINGS["LatentSpectrum"]
FIELD = make_field()


def field(*shape, ratio=1.0, law=None):
    generator = torch.Generator().manual_seed(0)
    q = spectrum.fractions(shape[-2:]) / ratio
    q[0, 0] = 1.0
    white = torch.randn(*shape, generator=generator, dtype=torch.float64)
    power = (law or spectrum.FLUX_SPECTRUM).power(q) / ratio**2
    return {"samples": spectrum.inverse_cosine(white * power.sqrt())}


def test_it_finds_the_law_and_where_half_the_size_suffices():
    law, plot, level, report = Node.execute(FIELD, field(16, 4, 64, 64)).args
    assert law.exponent == pytest.approx(1.915, abs=0.05)
    assert level == pytest.approx(0.718, abs=0.01)
    assert plot.shape == (1, 660, 1200, 3) and f"{level:.2f} usual" in report
    assert "pictures of half the size" not in report


def test_the_smaller_pictures_show_what_the_vae_does():
    full = field(16, 4, 64, 64)
    alike = {"samples": spectrum.low(full["samples"], (32, 32)) / 2}
    report = Node.execute(FIELD, full, alike).args[3]
    assert report.endswith("over 2 (2 would be exact)")
    assert "not the same pictures" in complaint(
        lambda: Node.execute(FIELD, full, {"samples": alike["samples"][:3]})
    )


def test_the_latents_are_those_of_the_network():
    model = make_field()
    model.model.process_latent_in = lambda latent: latent * 3
    law = Node.execute(model, field(16, 4, 64, 64)).args[0]
    plain = Node.execute(FIELD, field(16, 4, 64, 64)).args[0]
    assert law.amplitude == pytest.approx(9 * plain.amplitude)


def test_coarse_first_follows_it(monkeypatch):
    seen = []

    class Noting(coarse.CoarseFirst):
        def __init__(self, found, tell):
            seen.append(found)
            super().__init__(found, tell)

    monkeypatch.setattr(coarse_first, "CoarseFirst", Noting)
    law = spectrum.PowerLaw(0.5, 1.0)
    Coarse = nodes.NODE_CLASS_MAPPINGS["CoarseFirst"]
    Coarse.execute(FIELD, "1/2", "usual", 0.7, False, 0.5, 2, False, law)
    assert seen[0].spectrum == law


def test_what_has_no_spectrum_is_refused():
    flat = {"samples": torch.zeros(2, 4, 32, 32)}
    assert "no spectrum" in complaint(lambda: Node.execute(FIELD, flat))
    sound = {"samples": torch.zeros(2, 8, 100)}
    assert "pictures or videos" in complaint(lambda: Node.execute(FIELD, sound))
