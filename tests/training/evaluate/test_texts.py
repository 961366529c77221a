"""Where the prompt and the seeds go."""

import pytest

from sv_core.errors import InvalidInput
from tests.training.evaluate.small import INFO, prompt
from training.evaluate.graph import Place
from training.evaluate.texts import (
    find_seeds,
    find_texts,
    parse_place,
    replaced_texts,
    seed_values,
)

CONTROL = {
    "input": {"required": {"positive": ["CONDITIONING"], "negative": ["CONDITIONING"]}},
    "output": ["CONDITIONING", "CONDITIONING"],
    "output_name": ["positive", "negative"],
}
COMBINE = {"input": {"required": {"a": ["CONDITIONING"], "b": ["CONDITIONING"]}}}


def test_the_text_is_that_of_the_positive_condition():
    assert find_texts(prompt(), INFO, ["5"]) == [Place("2", "text")]


def test_nodes_that_hand_both_conditions_on_keep_them_apart():
    p = prompt()
    p["8"] = {"class_type": "Control", "inputs": {"positive": ["2", 0], "negative": ["3", 0]}}
    p["5"]["inputs"] |= {"positive": ["8", 0], "negative": ["8", 1]}
    assert find_texts(p, INFO | {"Control": CONTROL}, ["5"]) == [Place("2", "text")]


def test_several_texts_must_be_named():
    p = prompt()
    p["8"] = {"class_type": "Combine", "inputs": {"a": ["2", 0], "b": ["3", 0]}}
    p["5"]["inputs"]["positive"] = ["8", 0]
    with pytest.raises(InvalidInput, match=r"several texts \(2.text, 3.text\): name one"):
        find_texts(p, INFO | {"Combine": COMBINE}, ["5"])
    p["3"]["inputs"]["text"] = "a cat"  # the same text twice is one text
    assert len(find_texts(p, INFO | {"Combine": COMBINE}, ["5"])) == 2


def test_a_text_that_a_run_computes_gives_way_and_that_is_said():
    p = prompt()
    p["8"] = {"class_type": "StringConcatenate", "inputs": {"string_a": "a", "string_b": "b"}}
    p["2"]["inputs"]["text"] = ["8", 0]
    (place,) = find_texts(p, INFO, ["5"])
    assert place == Place("2", "text")
    (note,) = replaced_texts(p, [place])
    assert note.startswith("2.text is made by node 8 (StringConcatenate)")


def test_no_text_at_all():
    p = prompt()
    p["2"]["inputs"].pop("text")
    with pytest.raises(InvalidInput, match="not to be found: name it"):
        find_texts(p, INFO, ["5"])


def test_a_place_is_written_as_node_and_input():
    assert parse_place(prompt(), "2.text") == Place("2", "text")
    for wrong in ("text", "99.text", "2."):
        with pytest.raises(InvalidInput, match=r"no NODE\.INPUT"):
            parse_place(prompt(), wrong)


def test_equal_seeds_stay_equal_and_others_stay_apart():
    p = prompt()
    for number, seed in (("8", 7), ("9", 8)):
        p[number] = {"class_type": "KSampler", "inputs": p["5"]["inputs"] | {"seed": seed}}
    p["8"]["inputs"]["latent_image"], p["9"]["inputs"]["latent_image"] = ["5", 0], ["8", 0]
    places = find_seeds(p, INFO, "9")
    values = seed_values(p, places, 100)
    by_node = {place.node: value for place, value in values.items()}
    assert by_node["5"] == by_node["8"] != by_node["9"] and min(by_node.values()) == 100


def test_without_a_seed_nothing_can_be_compared():
    p = prompt()
    p["5"]["inputs"].pop("seed")
    with pytest.raises(InvalidInput, match="no seed"):
        find_seeds(p, INFO, "6")
