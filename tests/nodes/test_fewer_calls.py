"""The node Fewer Calls: its settings, its mistakes in words, what it reports."""

from importlib import import_module

import pytest
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

from tests.nodes.fewer_calls_runs import GRID20, Node, fewer_calls, through
from tests.nodes.loaded_pack import NAME, complaint
from tests.nodes.moded_flow import MODES, grid_of, make_modes

pytestmark = pytest.mark.inside

calibration = import_module(".nodes.calibration_file", NAME)


def test_the_result_says_what_was_done():
    _, reports, seen = through("euler")
    first, second = reports[0].split("\n")
    assert first.startswith("10 of 20 calls (10 saved), 10 network evaluations, ")
    assert first.endswith(" s in the model") and second.startswith("at 0 ")
    listed = [int(word) for word in second.removeprefix("at ").split()]
    assert [float(GRID20[k]) for k in listed] == seen
    again, reports, _ = through("euler", way="list", nodes=second.removeprefix("at "))
    assert torch.equal(again, through("euler")[0]) and reports[0].startswith("10 of 20")


def test_every_way_of_choosing_calls():
    for settings, calls in (
        ({"way": "share", "share": 0.25}, 5),
        ({"way": "number", "number": 7}, 7),
        ({"way": "quality", "quality": "draft"}, 7),
        ({"way": "quality", "quality": "high"}, 14),
        ({"way": "list", "nodes": "0 5, 9 12"}, 4),
        ({"way": "number", "number": 99}, 20),
    ):
        _, reports, seen = through("euler", **settings)
        assert len(seen) == calls and reports[0].startswith(f"{calls} of 20"), (settings, reports)
    few, many = (len(through("euler", way="adaptive", tolerance=t)[2]) for t in (0.1, 0.002))
    assert few < many <= 20


def made_calibration(grid=GRID20, **changes):
    found = {
        "sigmas": tuple(round(float(s), 7) for s in grid), "nodes": {6: (0, 4, 8, 12, 15, 18)},
        "drift": (), "split": None, "runs": 1, "seed": 0, "checked": 6,
    }  # fmt: skip
    return calibration.Calibration(*calibration.fingerprint(MODES), **(found | changes))


def test_a_calibration_decides_where_it_fits():
    found = made_calibration()
    _, reports, seen = through("euler", way="calibrated", calibration=found, number=6)
    assert reports[0].endswith("at 0 4 8 12 15 18") and len(seen) == 6
    _, reports, seen = through("euler", grid_of(24), way="calibrated", calibration=found, number=6)
    assert "belongs to a grid of 20 steps" in reports[0] and len(seen) == 24
    _, reports, _ = through("dpm_2", way="calibrated", calibration=found, number=6)
    assert "once a step" in reports[0], reports


def test_mistakes_are_refused_at_the_node_in_words():
    def words(way, model=MODES, **settings):
        return complaint(lambda: Node.execute(model, {"calls": way, **settings}))

    assert "list is empty" in words("list", nodes=" ")
    assert "whole numbers" in words("list", nodes="0 two")
    assert "begin with 0 and ascend" in words("list", nodes="1 2")
    assert "connect StableVS Calibrate" in words("calibrated")
    assert "has no list of 9 calls" in words("calibrated", calibration=made_calibration(), number=9)
    other = make_modes()
    other.model.diffusion_model.means = torch.nn.Parameter(torch.zeros(3, 4))
    assert "whose weights have other shapes" in words(
        "calibrated", calibration=made_calibration(), number=6, model=other
    )
    assert "tolerance must be above 0" in words("adaptive", tolerance=0.0)
    other = ModelSamplingDiscrete().patch(MODES, "eps", False)[0]
    assert "needs a flow-matching model" in words("share", model=other)


def test_the_plain_form_of_the_inputs_means_the_same():
    for plain, nested in (
        ({"calls": "share", "share": 0.25}, {"calls": "share", "share": 0.25}),
        ({"calls": "number", "share": 0.25, "number": 7}, {"calls": "number", "number": 7}),
        ({"calls": "share"}, {"calls": "share", "share": 0.5}),
    ):
        assert fewer_calls.choice_of(plain, MODES) == fewer_calls.choice_of(nested, MODES)
    assert len(Node.execute(MODES, "number", number=7).args) == 1
