"""What is found in a prompt: its picture, samplers, models, and who holds a value."""

import pytest

from sv_core.errors import InvalidInput
from tests.training.evaluate.small import INFO, prompt
from training.evaluate.graph import (
    Place,
    find_holder,
    find_picture,
    model_places,
    read,
    require_known,
    samplers_of,
    upstream,
)


def test_the_picture_is_what_is_saved_behind_a_sampler():
    found = find_picture(prompt(), INFO)
    assert found.link == ("6", 0) and not found.is_video


def test_of_several_the_one_behind_the_most_samplers():
    p = prompt()
    p["8"] = {"class_type": "KSampler", "inputs": p["5"]["inputs"] | {"latent_image": ["5", 0]}}
    p["9"] = {"class_type": "VAEDecode", "inputs": {"samples": ["8", 0], "vae": ["1", 2]}}
    p["10"] = {"class_type": "PreviewImage", "inputs": {"images": ["9", 0]}}
    assert find_picture(p, INFO).link == ("9", 0)
    assert find_picture(p, INFO, "7").link == ("6", 0)
    assert samplers_of(p, "9") == ["8", "5"]


def test_a_video_is_judged_by_the_frames_that_it_is_made_of():
    p = prompt()
    p["7"] = {"class_type": "CreateVideo", "inputs": {"images": ["6", 0], "fps": 12.0}}
    p["8"] = {"class_type": "SaveVideo", "inputs": {"video": ["7", 0]}}
    found = find_picture(p, INFO)
    assert (found.link, found.is_video, found.frames_per_second) == (("6", 0), True, 12.0)


def test_without_a_sampler_there_is_nothing_to_measure():
    p = prompt()
    p["6"]["inputs"].pop("samples")
    with pytest.raises(InvalidInput, match=r"nothing to measure.*VAEDecode"):
        find_picture(p, INFO)
    with pytest.raises(InvalidInput, match="node 99 is not behind"):
        find_picture(prompt(), INFO, "99")


def test_models_are_found_at_the_sampler_or_its_guider():
    info = INFO | {
        "SamplerCustomAdvanced": {"input": {"required": {"guider": ["GUIDER"]}}},
        "DualModelGuider": {"input": {"required": {"a": ["MODEL"], "b": ["MODEL"]}}},
    }
    p = prompt()
    assert model_places(p, INFO, "5") == [Place("5", "model")]
    p["8"] = {"class_type": "DualModelGuider", "inputs": {"a": ["1", 0], "b": ["1", 0]}}
    p["5"] = {"class_type": "SamplerCustomAdvanced", "inputs": {"guider": ["8", 0]}}
    assert model_places(p, info, "5") == [Place("8", "a"), Place("8", "b")]
    p["5"]["inputs"].clear()
    with pytest.raises(InvalidInput, match="model of node 5"):
        model_places(p, info, "5")


def test_a_value_is_followed_to_where_it_is_written_down():
    p = prompt()
    p["8"] = {"class_type": "PrimitiveInt", "inputs": {"value": 30}}
    p["9"] = {"class_type": "PrimitiveInt", "inputs": {"value": 4}}
    switch = {"switch": False, "on_false": ["8", 0], "on_true": ["9", 0]}
    p["10"] = {"class_type": "ComfySwitchNode", "inputs": switch}
    p["5"]["inputs"]["steps"] = ["10", 0]
    assert find_holder(p, Place("5", "steps")) == Place("8", "value")
    switch["switch"] = True
    assert read(p, Place("5", "steps")) == 4


def test_a_computed_value_is_nowhere_written_down():
    p = prompt()
    p["8"] = {"class_type": "StringConcatenate", "inputs": {"string_a": "a", "string_b": "b"}}
    p["2"]["inputs"]["text"] = ["8", 0]
    assert find_holder(p, Place("2", "text")) is None and read(p, Place("2", "text")) is None
    p["2"]["inputs"]["text"] = ["2", 0]  # a circle
    assert find_holder(p, Place("2", "text")) is None


def test_unknown_nodes_are_named():
    p = prompt()
    assert upstream(p, ["6"])[0] == "6" and "7" not in upstream(p, ["6"])
    p["6"]["class_type"] = "Foo"
    with pytest.raises(InvalidInput, match=r"node 6 of the workflow is a Foo, .* install its pack"):
        require_known(p, INFO)
