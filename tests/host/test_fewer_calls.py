"""Fewer Calls in prompts of a real server."""

from copy import deepcopy

import pytest
import torch

from tests.host.server import NAME, Server
from tests.host.test_server import EULER, LANGUAGES, images, native_grid

pytestmark = pytest.mark.comfy


def with_node(prompt: dict, **settings: object) -> dict:
    """The digits prompt on 20 native steps of euler, with the node behind its model."""
    prompt = deepcopy(prompt)
    nested = {f"calls.{k}": v for k, v in settings.items() if k != "calls"}
    prompt["20"] = {"class_type": "FewerCalls", "inputs": {"model": ["1", 0], **settings, **nested}}
    prompt["3"], prompt["4"] = native_grid(20), EULER
    prompt["5"]["inputs"]["model"] = ["20", 0]
    prompt.pop("9", None)
    return prompt


def test_a_prompt_with_the_node_is_near_to_its_own_20_steps(server: Server, digits: dict) -> None:
    base = with_node(digits, calls="share", share=1.0)
    base["5"]["inputs"]["model"] = ["1", 0]
    reference = images(server, base)
    made = images(server, with_node(digits, calls="share", share=0.5))
    assert "Fewer Calls: 10 of 20 calls (10 saved), 20 network evaluations" in server.log
    error = float((made - reference).square().mean())
    assert 0 < error < 1e-3, error
    every = images(server, with_node(digits, calls="share", share=1.0))
    assert "Fewer Calls: 20 of 20 calls (0 saved), 40 network evaluations" in server.log
    assert torch.equal(every, reference)


def test_mistakes_mark_the_node_with_the_sentence(server: Server, digits: dict) -> None:
    for settings, words in (
        ({"calls": "list", "nodes": "0 two"}, "whole numbers such as 0 2 4 7"),
        ({"calls": "list", "nodes": ""}, "the list is empty"),
        ({"calls": "calibrated", "number": 10}, "connect StableVS Calibrate"),
    ):
        entry = server.finished(server.queue(with_node(digits, **settings)), 60)
        errors = [m[1] for m in entry["status"]["messages"] if m[0] == "execution_error"]
        assert errors and errors[0]["node_type"] == "FewerCalls", entry["status"]
        assert words in errors[0]["exception_message"]


def test_every_input_explains_itself_in_both_languages_and_is_found(server: Server) -> None:
    info = server.get("/object_info/FewerCalls")["FewerCalls"]
    inputs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
    english, chinese = (server.get("/i18n")[lang]["nodeDefs"]["FewerCalls"] for lang in LANGUAGES)
    assert english["inputs"].keys() == chinese["inputs"].keys()
    assert (english["display_name"], english["description"]) == (
        info["display_name"],
        info["description"],
    )
    nested = {
        f"calls_{name}": spec
        for option in inputs["calls"][1].get("options", ())
        if isinstance(option, dict)
        for part in option["inputs"].values()
        for name, spec in part.items()
    }
    for name, spec in {**inputs, **nested}.items():
        assert english["inputs"][name]["tooltip"] == spec[1]["tooltip"], name
        assert chinese["inputs"][name]["tooltip"] and chinese["inputs"][name]["name"]
    aliases = info.get("search_aliases")
    assert aliases is None or {"faster", "speed", "cache", "teacache", "skip"} <= set(aliases)
    for page in ("FewerCalls.md", "FewerCalls/zh.md"):
        text = server.request(f"/extensions/{NAME}/docs/{page}").decode()
        assert text.startswith("# ") and len(text) > 1000
