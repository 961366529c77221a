"""The node Coarse First: what its inputs mean, and its mistakes in words."""

from importlib import import_module

import pytest
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

import nodes
from tests.nodes.field_flow import make_field
from tests.nodes.loaded_pack import NAME, complaint
from tests.nodes.moded_flow import MODES

pytestmark = pytest.mark.inside

coarse_first = import_module(".nodes.coarse_first", NAME)
coarse = import_module(".nodes.samplers.coarse", NAME)
spectrum = import_module(".sv_core.spectrum", NAME)
Node = nodes.NODE_CLASS_MAPPINGS["CoarseFirst"]
USUAL = {
    "size": "1/2", "until": "usual", "level": 0.7, "keep_layout": False, "detail": 0.5,
    "full_calls": 2, "edit_models": False,
}  # fmt: skip


def settings(monkeypatch, **inputs):
    seen = []

    class Noting(coarse.CoarseFirst):
        def __init__(self, found, tell):
            seen.append(found)
            super().__init__(found, tell)

    monkeypatch.setattr(coarse_first, "CoarseFirst", Noting)
    Node.execute(make_field(), **(USUAL | inputs))
    return seen[0]


def test_the_inputs_become_settings(monkeypatch):
    assert settings(monkeypatch) == coarse.Settings()
    found = settings(monkeypatch, size="1/4, then 1/2", until="faster", level=0.1, detail=0.0)
    assert found == coarse.Settings(ratios=(4.0, 2.0), tolerance=0.1, detail=0.0)
    found = settings(monkeypatch, until="level", level=0.6, keep_layout=True, edit_models=True)
    assert found == coarse.Settings(until=0.6, keep_layout=True, edit_models=True)


def test_where_the_full_size_begins_follows_from_the_spectrum():
    levels = [1.0, 0.5, 0.0]
    plan = coarse.plan_for(coarse.Settings(), spectrum.FLUX_SPECTRUM, levels)
    assert plan.stages[0].until == pytest.approx(0.718, abs=1e-3)
    plan = coarse.plan_for(coarse.Settings(tolerance=0.1), spectrum.WAN_SPECTRUM, levels)
    assert plan.stages[0].until == pytest.approx(0.52, abs=0.01)
    two = coarse.plan_for(coarse.Settings(ratios=(4.0, 2.0)), spectrum.FLUX_SPECTRUM, levels)
    assert [s.ratio for s in two.stages] == [4, 2]
    assert two.stages[0].until == pytest.approx(0.862, abs=2e-3)
    late = coarse.Settings(ratios=(4.0, 2.0), until=0.95)
    assert [s.until for s in coarse.plan_for(late, spectrum.FLUX_SPECTRUM, levels).stages] == [
        0.95
    ] * 2


def test_models_that_are_no_flows_are_refused():
    other = ModelSamplingDiscrete().patch(MODES, "eps", False)[0]
    assert "needs a flow-matching model" in complaint(lambda: Node.execute(other, **USUAL))
