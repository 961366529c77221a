"""Numbers of steps: where they are, and more or fewer of them."""

from tests.training.evaluate.small import INFO, prompt
from training.evaluate.graph import Place
from training.evaluate.steps import Grid, Unchangeable, find_grids, longest, scaled

ADVANCED = {
    "input": {
        "required": {
            name: ["INT", {}] for name in ("noise_seed", "steps", "start_at_step", "end_at_step")
        }
    }
}
CUSTOM = {
    "SamplerCustom": {"input": {"required": {"sigmas": ["SIGMAS"]}}},
    "SplitSigmas": {"input": {"required": {"sigmas": ["SIGMAS"], "step": ["INT", {}]}}},
    "BasicScheduler": {"input": {"required": {"steps": ["INT", {}]}}},
    "ManualSigmas": {"input": {"required": {"sigmas": ["STRING", {}]}}},
}


def test_a_ksampler_s_steps():
    (grid,) = find_grids(prompt(), INFO, ["5"])
    assert grid == Grid(Place("5", "steps"), 20)
    assert scaled(prompt(), [grid], 0.5) == {Place("5", "steps"): 10}


def two_experts(steps=20):
    p = prompt()
    for node, start, end in (("5", 0, 8), ("8", 8, 10000)):
        inputs = {"noise_seed": 1, "steps": steps, "start_at_step": start, "end_at_step": end}
        p[node] = {"class_type": "KSamplerAdvanced", "inputs": inputs}
    return p


def test_two_experts_meet_at_the_same_part_of_the_grid():
    p = two_experts()
    grids = find_grids(p, INFO | {"KSamplerAdvanced": ADVANCED}, ["5", "8"])
    values = scaled(p, grids, 5.0)
    assert values == {
        Place("5", "steps"): 100, Place("5", "start_at_step"): 0, Place("5", "end_at_step"): 40,
        Place("8", "steps"): 100, Place("8", "start_at_step"): 40,
    }  # fmt: skip
    assert longest(grids) == 20


def test_a_number_that_two_samplers_share_is_changed_once():
    p = two_experts()
    p["9"] = {"class_type": "PrimitiveInt", "inputs": {"value": 20}}
    for node in ("5", "8"):
        p[node]["inputs"]["steps"] = ["9", 0]
    grids = find_grids(p, INFO | {"KSamplerAdvanced": ADVANCED}, ["5", "8"])
    assert {grid.steps for grid in grids} == {Place("9", "value")}
    assert scaled(p, grids, 0.5)[Place("9", "value")] == 10


def test_sigmas_are_followed_to_their_scheduler():
    p = {
        "1": {"class_type": "BasicScheduler", "inputs": {"steps": 30}},
        "2": {"class_type": "SplitSigmas", "inputs": {"sigmas": ["1", 0], "step": 6}},
        "3": {"class_type": "SamplerCustom", "inputs": {"sigmas": ["2", 1]}},
    }
    grids = find_grids(p, CUSTOM, ["3"])
    assert scaled(p, grids, 0.5) == {Place("1", "steps"): 15, Place("2", "step"): 3}


def test_a_list_of_levels_has_no_steps_and_computed_ones_are_not_known():
    p = {
        "1": {"class_type": "ManualSigmas", "inputs": {"sigmas": "1, 0.5, 0"}},
        "3": {"class_type": "SamplerCustom", "inputs": {"sigmas": ["1", 0]}},
    }
    found = find_grids(p, CUSTOM, ["3"])
    assert isinstance(found, Unchangeable) and "node 1 (ManualSigmas)" in found.reason
    p = prompt()
    p["8"] = {"class_type": "StringConcatenate", "inputs": {"string_a": "a", "string_b": "b"}}
    p["5"]["inputs"]["steps"] = ["8", 0]
    found = find_grids(p, INFO, ["5"])
    assert isinstance(found, Unchangeable) and "computed" in found.reason
