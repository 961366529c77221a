"""From the configuration to an objective: whose times it draws, and what it refuses."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.timesteps import logit_normal, shifted, uniform
from training.config.schema import MeanFlowConfig, ObjectiveConfig
from training.data import dataset
from training.engine.distributed import Processes
from training.objectives.base import Setup
from training.objectives.build import build_criterion, build_objective
from training.run.state import TrainState

AUTO = ObjectiveConfig()


def drawn(draw, n=500):
    return draw(n, torch.Generator().manual_seed(0))


def network(shift=1.0, span=(0.0, 1.0)):
    return SimpleNamespace(shift=shift, span=span)


@pytest.mark.parametrize(
    ("config", "shift", "expected"),
    [
        (AUTO, 1.0, uniform),
        (AUTO, 3.0, lambda n, g: shifted(n, g, 3.0)),
        (replace(AUTO, kind="meanflow"), 3.0, lambda n, g: logit_normal(n, g, -0.4)),
        (replace(AUTO, timesteps="uniform"), 3.0, uniform),
        (
            replace(AUTO, timesteps="logit_normal", timestep_params={"std": 2.0}),
            3.0,
            lambda n, g: logit_normal(n, g, 0.0, 2.0),
        ),
    ],
    ids=["plain", "shifted network", "meanflow", "named", "with parameters"],
)
def test_times_are_the_network_s_own_unless_they_are_named(config, shift, expected):
    made = build_objective(config, network(shift))
    assert torch.equal(drawn(made.timesteps), drawn(expected))


def test_an_expert_learns_its_own_span_unless_told_another():
    high = network(span=(0.875, 1.0))
    for config, low, top in ((AUTO, 0.875, 1.0), (replace(AUTO, span=(0.2, 0.4)), 0.2, 0.4)):
        t = drawn(build_objective(config, high).timesteps)
        assert low <= t.min() < low + 0.05 and top - 0.05 < t.max() <= top


def test_a_parameter_of_other_times_is_refused_with_those_there_are():
    config = replace(AUTO, timesteps="shifted", timestep_params={"mean": 1.0})
    with pytest.raises(InvalidInput, match=r"timestep_params\.mean.*'shifted' \(have: shift\)"):
        build_objective(config, network())


@pytest.mark.parametrize("kind", ["cfm", "stablevm", "meanflow"])
def test_the_kind_decides_what_interval_the_network_is_asked_about(tiny, kind):
    config = replace(tiny, objective=replace(tiny.objective, kind=kind))
    state = TrainState(config, dataset.load(config.data), Processes(config.run))
    objective = build_objective(config.objective, state.backbone)
    criterion = build_criterion(kind, MeanFlowConfig(equal=0.25), objective, state, Setup(8))
    r, t = criterion.times(400, torch.Generator().manual_seed(0))
    assert (r <= t).all()
    inside = float((r < t).double().mean())
    assert inside == (pytest.approx(0.75, abs=0.08) if kind == "meanflow" else 0)


@pytest.mark.parametrize(
    ("span", "params"), [((0.9, 1.0), {"std": 0.001}), ((0.0, 1e-9), {}), ((0.5, 0.5000001), {})]
)
def test_a_span_that_no_time_is_drawn_in_is_refused(span, params):
    """Drawing until there are enough would never end."""
    config = replace(AUTO, timesteps="logit_normal", timestep_params=params, span=span)
    with pytest.raises(InvalidInput, match=r"of 20000 times that .*logit_normal.* draws, 0 are"):
        build_objective(config, network())
