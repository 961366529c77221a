"""Values without names, given back to their inputs."""

import pytest

from tests.training.evaluate.small import INFO
from training.evaluate.widgets import inputs_of, read_widgets

SAMPLER = INFO["KSampler"]


@pytest.mark.parametrize("control", ["randomize", "fixed", True])
def test_the_page_s_own_control_after_a_seed_is_passed_over(control):
    found = read_widgets(SAMPLER, [5, control, 30, 4.5, "heun", "normal"])
    assert found == {
        "seed": 5, "steps": 30, "cfg": 4.5, "sampler_name": "heun", "scheduler": "normal",
    }  # fmt: skip


def test_a_seed_without_the_control_is_read_too():
    assert read_widgets(SAMPLER, [5, 30])["steps"] == 30


def test_what_was_not_saved_is_its_default():
    assert read_widgets(SAMPLER, [5, "fixed"]) == {
        "seed": 5, "steps": 20, "cfg": 8.0, "sampler_name": "euler", "scheduler": "simple",
    }  # fmt: skip


def test_a_choice_brings_its_own_inputs():
    node = INFO["FewerCalls"]
    assert read_widgets(node, ["list", "0 2 4"]) == {"calls": "list", "calls.nodes": "0 2 4"}
    assert read_widgets(node, []) == {"calls": "share", "calls.share": 0.5}


def test_values_by_name_are_taken_by_name_and_the_page_s_own_are_not():
    found = read_widgets(SAMPLER, {"seed": 3, "steps": 9, "videopreview": {}})
    assert found == {"seed": 3, "steps": 9}


def test_the_order_is_the_one_that_the_server_says():
    node = {
        "input": {
            "required": {"b": ["INT", {}], "a": ["INT", {}]},
            "optional": {"c": ["FLOAT", {}]},
        },
        "input_order": {"required": ["a", "b"], "optional": ["c"]},
    }  # fmt: skip
    assert list(inputs_of(node)) == ["a", "b", "c"]
    assert read_widgets(node, [1, 2, 3.0]) == {"a": 1, "b": 2, "c": 3.0}


def test_sockets_are_no_widgets():
    node = {"input": {"required": {"x": ["STRING", {"forceInput": True}], "y": ["STRING", {}]}}}
    assert read_widgets(node, ["hello"]) == {"y": "hello"}
