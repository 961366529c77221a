"""Plans: what goes together, what contradicts itself, and what a run notes in its pictures."""

from itertools import product

import pytest

from tests.nodes.loaded_pack import complaint
from tests.nodes.moded_flow import Plan, call_rules, plan

pytestmark = pytest.mark.inside
SOLVERS = plan.SOLVERS


def test_everything_that_is_offered_goes_together():
    for mode, solver, rule in product(plan.MODES, SOLVERS, call_rules.CALL_RULES):
        made = Plan(mode, solver, rule=rule)
        if mode == plan.CALIBRATED:
            assert "needs a calibration" in complaint(made.check)
        else:
            made.check()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"mode": "fast"}, "mode has no choice 'fast': choose forecast"),
        ({"solver": "rk4"}, "solver has no choice 'rk4': choose "),
        ({"rule": "none"}, "rule has no choice 'none': choose "),
        ({"calls": 1}, "calls must lie between 2 and 1000"),
        ({"mode": "ode", "nodes": (0, 2)}, "grid of its own"),
    ],
)
def test_the_rest_is_refused_with_what_there_is(settings, words):
    assert words in complaint(Plan(**settings).check)


def test_a_list_of_calls_stands_in_for_a_calibration():
    Plan(plan.CALIBRATED, nodes=(0, 3)).check()


def test_all_samplers_of_a_prompt_note_into_one_list():
    pnginfo = {"workflow": {}}
    plan.metadata_writer(pnginfo, "7")({"nodes": "0 2"})
    plan.metadata_writer(pnginfo, "9")({"nodes": "0 5"})
    assert pnginfo["stable_velocity"] == [
        {"node": "7", "nodes": "0 2"},
        {"node": "9", "nodes": "0 5"},
    ]
    plan.metadata_writer(None, "7")({"nodes": "0 2"})  # a prompt without a place for it


@pytest.mark.parametrize(
    "pnginfo", [[], "text", 7, {"stable_velocity": "theirs"}, {"stable_velocity": {}}]
)
def test_metadata_of_another_shape_is_left_as_it_is(pnginfo):
    before = repr(pnginfo)
    plan.metadata_writer(pnginfo, "7")({"nodes": "0 2"})
    assert repr(pnginfo) == before
