"""Lists of calls that runs choose themselves, and what a queue remembers of them."""

import gc

import pytest
import torch

from tests.nodes.loaded_pack import GRID, sample
from tests.nodes.moded_flow import (
    MODES,
    Log,
    calibration_file,
    call_rules,
    make_modes,
    noted,
    planned,
    planned_samplers,
    run,
)

pytestmark = pytest.mark.inside


def test_a_list_that_a_run_chose_is_replayed_bit_for_bit():
    for mode in ("adaptive", "self-calibrating"):
        first, notes = noted(mode=mode, tolerance=0.03, calls=13)
        assert notes == [{"mode": mode, "solver": "euler", "steps": 30, "nodes": notes[0]["nodes"]}]
        again = run(planned(nodes=calibration_file.read_nodes(notes[0]["nodes"])), GRID)
        assert torch.equal(first, again), mode
    assert noted()[1] == []  # a fixed list is in the graph already


def test_a_queue_learns_from_its_first_picture():
    planned_samplers._found.clear()
    early = calibration_file.write_nodes(call_rules.call_nodes(GRID.tolist(), 10, "early"))
    lists = [noted(mode="self-calibrating", calls=10)[1][0]["nodes"] for _ in range(3)]
    assert lists[0] == early != lists[1] == lists[2], lists
    assert noted(mode="self-calibrating", calls=11)[1][0]["nodes"].count(" ") == 10
    other = make_modes(seed=1)  # equal in class and shapes, but other weights: starts anew
    notes = []
    sample(planned(mode="self-calibrating", calls=10, note=notes.append), GRID, model=other)
    assert notes[0]["nodes"] == early and len(planned_samplers._found) == 2
    lora = MODES.clone()
    lora.patches_uuid = "other"
    sample(planned(mode="self-calibrating", calls=10, note=notes.append), GRID, model=lora)
    assert notes[1]["nodes"] == early
    for i in range(planned_samplers.REMEMBERED + 3):
        planned_samplers._lists(MODES)["another grid", i] = (0,)
    run(planned(mode="self-calibrating", calls=9), GRID)
    assert len(planned_samplers._lists(MODES)) <= planned_samplers.REMEMBERED
    del other
    gc.collect()
    assert len(planned_samplers._found) == 1, "the lists of a model that is gone stay"


def test_a_diverged_run_teaches_nothing():
    planned_samplers._found.clear()
    broken = MODES.clone()
    broken.set_model_sampler_post_cfg_function(lambda a: a["denoised"] * float("nan"))
    with Log() as log:
        sample(planned(mode="self-calibrating", calls=10), GRID, model=broken)
    assert any("diverged" in line for line in log.lines) and not planned_samplers._lists(MODES)
