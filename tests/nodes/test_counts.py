"""The nodes Count Calls and Call Report: one counts, the other hands out what was counted."""

from importlib import import_module

import pytest

from tests.nodes.fewer_calls_runs import GRID20, sampler
from tests.nodes.loaded_pack import NAME, sample
from tests.nodes.moded_flow import MODES

pytestmark = pytest.mark.inside
counts = import_module(".nodes.counts", NAME)


def test_the_report_is_of_what_was_sampled_since():
    model, counted = counts.CountCalls.execute(MODES, "first").args
    assert counts.CallReport.execute(counted, None).ui["counts"][0]["calls"] == 0
    picture = sample(sampler("euler"), GRID20, model=model)
    told = counts.CallReport.execute(counted, picture)
    numbers = told.ui["counts"][0]
    assert (numbers["runs"], numbers["calls"], numbers["cond"]) == (1, 20, 20)
    assert told.args[0].startswith("20 calls, 20 network evaluations")


def test_the_report_waits_and_is_run_for_itself():
    schema = counts.CallReport.define_schema()
    assert schema.is_output_node
    assert [i.id for i in schema.inputs] == ["counts", "after"]
