"""The table of samplers names the host's own, and says of each one thing."""

from importlib import import_module

import comfy.samplers
import pytest

from tests.nodes.loaded_pack import NAME

pytestmark = pytest.mark.inside

table = import_module(".nodes.samplers.sampler_table", NAME)


def test_every_name_is_a_sampler_of_the_newest_host():
    known = {*comfy.samplers.SAMPLER_NAMES}
    # RES4LYF's own functions of these names answer to them where that pack is.
    newer = {*table.RES4LYF}
    assert {*table.LEFT_ALONE} - newer <= known
    assert len(set(table.RES4LYF)) == len(table.RES4LYF) == 19


def test_a_neighbour_s_samplers_are_known_without_the_neighbour():
    def sample_res_3s(model, x, sigmas, extra_args=None, callback=None, disable=None):
        return x

    assert "draws so much noise" in table.LEFT_ALONE[table.name_of(sample_res_3s)]


def test_a_sampler_is_found_by_its_function():
    for name in ("euler", "lcm", "sa_solver"):
        assert table.name_of(comfy.samplers.sampler_object(name).sampler_function) == name
