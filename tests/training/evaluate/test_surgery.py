"""Prompts that are changed: what they were made of stays as it was."""

from copy import deepcopy

import pytest

from sv_core.errors import InvalidInput
from tests.training.evaluate.small import INFO, prompt
from training.evaluate import surgery
from training.evaluate.graph import Picture, Place

MODEL = Place("5", "model")


def test_a_node_goes_between_model_and_sampler():
    before = prompt()
    made = surgery.behind_models(before, [MODEL], "EasyCache", {"reuse_threshold": 0.1})
    assert before == prompt()
    assert made["5"]["inputs"]["model"] == ["EasyCache_5_model", 0]
    assert made["EasyCache_5_model"] == {
        "class_type": "EasyCache", "inputs": {"model": ["1", 0], "reuse_threshold": 0.1},
    }  # fmt: skip


def test_what_leaves_out_calls_is_taken_out_again():
    made = surgery.behind_models(prompt(), [MODEL], "FewerCalls", {"calls": "share"})
    made = surgery.behind_models(made, [MODEL], "EasyCache", {})
    plain, notes = surgery.without_fewer_calls(made, ["EasyCache"])
    assert plain == prompt() and len(notes) == 2


def test_our_sampler_in_the_drop_down_is_replaced_by_the_plain_one():
    p = prompt()
    p["5"]["inputs"]["sampler_name"] = "stable_vs"
    plain, notes = surgery.without_fewer_calls(p, [])
    assert plain == prompt() and notes == ["euler in place of stable_vs in node 5"]


def test_grids_of_ours_are_not_guessed():
    p = prompt()
    p["5"]["class_type"] = "StableVSSampler"
    with pytest.raises(InvalidInput, match=r"node 5 \(StableVSSampler\) leaves out calls itself"):
        surgery.without_fewer_calls(p, [])


def test_the_paper_s_grid_by_name_or_by_link():
    schedules = deepcopy(INFO)
    schedules["KSampler"]["input"]["required"]["scheduler"][1]["options"].append("regime_split")
    made = surgery.with_paper_grid(prompt(), schedules, ["5"])
    assert made is not None and made["5"]["inputs"]["scheduler"] == "regime_split"
    assert made["5"]["inputs"]["steps"] == 13, "the drop-down makes the steps that it is told"
    assert surgery.with_paper_grid(prompt(), INFO, ["5"]) is None, "it is not in the drop-down"
    custom = schedules | {"SamplerCustom": {"input": {}}, "RegimeSplitSigmas": {"input": {}}}
    p = prompt()
    p["5"] = {"class_type": "SamplerCustom", "inputs": {"sigmas": ["8", 0]}}
    p["8"] = {"class_type": "BasicScheduler", "inputs": {"steps": 30}}
    made = surgery.with_paper_grid(p, custom, ["5"])
    assert made is not None and made["5"]["inputs"]["sigmas"] == ["RegimeSplitSigmas_5", 0]
    p["8"]["class_type"] = "SplitSigmas"
    assert surgery.with_paper_grid(p, custom, ["5"]) is None, "a part of a grid"


def test_the_queued_prompt_counts_and_hands_out_without_touching_the_user_s_files():
    made = surgery.measured(prompt(), [MODEL], Picture(("6", 0), False), "run 1")
    assert "7" not in made, "the user's own SaveImage would write into his folder"
    assert made["5"]["inputs"]["model"] == ["CountCalls_5_model", 0]
    assert made["CountCalls_5_model"]["inputs"] == {"model": ["1", 0], "label": "run 1"}
    assert made["CallReport_5_model"]["inputs"]["counts"] == ["CountCalls_5_model", 1]
    assert made[surgery.PICTURES]["inputs"]["images"] == ["6", 0]


def test_the_counter_is_innermost():
    made = surgery.behind_models(prompt(), [MODEL], "EasyCache", {})
    made = surgery.measured(made, [MODEL], Picture(("6", 0), False), "")
    assert made["CountCalls_5_model"]["inputs"]["model"] == ["EasyCache_5_model", 0]


def test_one_picture_of_a_batch():
    made, notes = surgery.single_pictures(prompt())
    assert made["4"]["inputs"]["batch_size"] == 1
    assert notes == ["one picture in place of 4 in node 4"]


def test_a_share_in_both_forms_of_the_node():
    assert surgery.share_settings(INFO, 0.25) == {"calls": "share", "calls.share": 0.25}
    old = deepcopy(INFO)
    old["FewerCalls"]["input"]["required"]["calls"] = [["share", "list"]]
    assert surgery.share_settings(old, 0.25) == {"calls": "share", "share": 0.25}


def test_values_are_set_and_only_what_is_needed_is_kept():
    made = surgery.with_values(prompt(), {Place("2", "text"): "a dog"})
    assert made["2"]["inputs"]["text"] == "a dog"
    assert surgery.keep(prompt(), ["2"]).keys() == {"1", "2"}
    passed = prompt()
    surgery.pass_by(passed, "4")
    assert "4" not in passed
