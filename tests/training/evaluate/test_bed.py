"""From a file to what can be measured."""

import json

import pytest

from sv_core.errors import InvalidInput
from tests.training.evaluate.small import info, prompt
from training.evaluate.bed import describe, make_bed, read_file
from training.evaluate.graph import Place


def test_everything_is_found_in_the_plainest_workflow():
    bed = make_bed(prompt(), info())
    assert bed.models == (Place("5", "model"),) and bed.texts == (Place("2", "text"),)
    assert bed.seeds == (Place("5", "seed"),) and [g.own for g in bed.grids] == [20]
    words = "\n".join(describe(bed))
    assert "node 5 (KSampler): sampler_name euler, scheduler simple, cfg 3.0" in words
    assert "one picture in place of 4" in words


def test_a_place_named_by_the_user_is_taken():
    assert make_bed(prompt(), info(), texts=["3.text"]).texts == (Place("3", "text"),)


def test_samplers_that_draw_noise_are_said():
    p = prompt()
    p["5"]["inputs"]["sampler_name"] = "dpmpp_2m_sde"
    assert any("dpmpp_2m_sde draws noise" in note for note in make_bed(p, info()).notes)


def test_a_list_of_levels_leaves_out_what_needs_steps():
    p = prompt()
    p["5"]["inputs"].pop("steps")
    p["5"]["class_type"] = "SamplerCustom"
    custom = info(SamplerCustom={"input": info()["KSampler"]["input"]})
    custom["SamplerCustom"]["input"]["required"].pop("steps")
    bed = make_bed(p, custom)
    assert bed.grids == () and any("no converged reference" in note for note in bed.notes)


def test_a_server_without_the_pack_is_told_so():
    lacking = info()
    del lacking["CountCalls"]
    with pytest.raises(InvalidInput, match="no node CountCalls: install this version"):
        make_bed(prompt(), lacking)


def test_files_that_are_none(tmp_path):
    (tmp_path / "a.json").write_text("{")
    (tmp_path / "b.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(InvalidInput, match="no JSON file"):
        read_file(tmp_path / "a.json")
    with pytest.raises(InvalidInput, match="there is no workflow"):
        read_file(tmp_path / "none.json")
    assert read_file(tmp_path / "b.json") == {"a": 1}
