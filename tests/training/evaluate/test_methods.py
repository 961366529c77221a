"""The methods, their prompts, and how a rival is tuned."""

import pytest

from sv_core.errors import InvalidInput
from tests.training.evaluate.small import INFO, info, prompt
from training.evaluate import methods
from training.evaluate.bed import make_bed
from training.evaluate.methods import Rival

EASY = Rival("EasyCache", "reuse_threshold")
BED = make_bed(prompt(), info())
SHARES = (1 / 2, 1 / 3)


def test_all_methods_in_the_order_of_their_runs():
    found = methods.list_methods(BED, SHARES, [EASY], 100)
    assert [m.key for m in found] == [
        "original", "converged", "ours_50", "ours_33", "steps_50", "steps_33",
        "EasyCache_50", "EasyCache_33",
    ]  # fmt: skip
    assert found[1].settings == {"ratio": 5.0} and found[1].name == "converged, 100 steps"
    assert found[3].name == "Fewer Calls 1/3"
    assert methods.list_methods(BED, SHARES, [], 10)[1].settings == {"ratio": 2.0}


def queued(key):
    (method,) = (m for m in methods.list_methods(BED, SHARES, [EASY], 100) if m.key == key)
    return methods.prompt_of(BED, method, "a dog", 42, "label")


def test_every_method_has_text_seed_and_what_is_its_own():
    for key in ("original", "converged", "ours_33", "EasyCache_50"):
        p = queued(key)
        assert p["2"]["inputs"]["text"] == "a dog" and p["3"]["inputs"]["text"] == "ugly"
        assert p["5"]["inputs"]["seed"] == 42
    assert queued("original")["5"]["inputs"]["steps"] == 20
    assert queued("converged")["5"]["inputs"]["steps"] == 100
    ours = queued("ours_33")["FewerCalls_5_model"]["inputs"]
    assert ours["calls.share"] == pytest.approx(1 / 3)
    cache = queued("EasyCache_50")["EasyCache_5_model"]["inputs"]
    assert cache == {"model": ["1", 0], "reuse_threshold": 0.2, "verbose": False}


def test_rivals_that_are_installed_are_taken_and_those_named_too():
    told = []
    assert methods.installed_rivals(INFO, [], told.append) == [EASY]
    tea = info(
        TeaCache={"input": {"required": {"rel_l1_thresh": ["FLOAT", {}], "model_type": [["flux"]]}}}
    )
    assert methods.installed_rivals(tea, [], told.append) == [EASY]
    assert "TeaCache is installed but must be told the model" in told[0]
    named = methods.parse_rival("TeaCache:rel_l1_thresh,model_type=flux,start=0.1,x=true")
    assert named.settings == {"model_type": "flux", "start": 0.1, "x": True}
    assert methods.installed_rivals(tea, [named], told.append) == [named, EASY]
    with pytest.raises(InvalidInput, match="has no node Nope"):
        methods.installed_rivals(INFO, [Rival("Nope", "x")], told.append)
    with pytest.raises(InvalidInput, match="EasyCache has no input x"):
        methods.installed_rivals(INFO, [Rival("EasyCache", "x")], told.append)


@pytest.mark.parametrize("text", ["", "TeaCache", "TeaCache:a=1", "TeaCache:a,b", ":a"])
def test_a_rival_that_is_none_is_refused(text):
    with pytest.raises(InvalidInput, match="names no rival: write CLASS:INPUT"):
        methods.parse_rival(text)


def test_a_share_is_a_fraction_or_a_number():
    assert methods.parse_share("1/3") == pytest.approx(1 / 3)
    assert methods.parse_share("0.25") == 0.25
    for wrong in ("2", "half", "1/0", "0.01", "-1/2"):
        with pytest.raises(InvalidInput, match="no share of the calls"):
            methods.parse_share(wrong)


def test_a_knob_s_range_is_what_its_node_says():
    assert methods.knob_range(INFO, EASY) == (pytest.approx(3e-4), 3.0)
    with pytest.raises(InvalidInput, match="is no number"):
        methods.knob_range(INFO, Rival("EasyCache", "verbose"))


@pytest.mark.parametrize("target", [3, 10, 19])
def test_tuning_finds_a_monotonic_knob(target):
    """Calls fall from 20 to 2 on the logarithm of the knob."""
    import math

    def calls(value):
        return round(20 - 18 * math.log(value / 3e-4) / math.log(1e4))

    known = {}
    for _ in range(12):
        value = methods.next_trial(known, target, 3e-4, 3.0)
        if value is None:
            break
        known[value] = calls(value)
    assert known[methods.best_trial(known, target)] == target


def test_a_knob_that_does_nothing_ends():
    known = {}
    for _ in range(100):
        value = methods.next_trial(known, 10, 3e-4, 3.0)
        if value is None:
            break
        known[value] = 20
    assert value is None and list(known)[1:] == [3.0], "the largest value shows it at once"
    assert methods.best_trial({0.1: 12, 0.2: 8}, 10) == 0.1, "in the rival's favour"
    assert methods.share_in_words(0.4142) == "0.41"
