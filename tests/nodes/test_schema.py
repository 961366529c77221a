"""The parts of the schemas: a widget is of its default's type, and has its limits and its text."""

from importlib import import_module

import pytest
from comfy_api.latest import io

from tests.nodes.loaded_pack import NAME

pytestmark = pytest.mark.inside
schema = import_module(".nodes.schema", NAME)


def test_a_choice_offers_its_options_in_their_order():
    made = schema.choice("c", (name for name in "bac"), "why", default="a")
    assert made.options == ["b", "a", "c"] and made.default == "a"


def test_an_output_is_known_by_its_name_in_capitals():
    made = schema.output(io.Sigmas, "high", "why")
    assert (made.id, made.display_name, made.tooltip) == ("HIGH", "high", "why")


def test_the_shared_widgets_are_the_papers():
    assert schema.split_input("why").default == 0.85
    boundary = schema.boundary_input(" More.")
    assert boundary.default == 0 and boundary.tooltip.endswith("one expert. More.")


def test_a_number_is_a_float_or_an_int_by_its_default():
    whole = io.Int.Input("calls", default=3, min=1, max=8, tooltip="How many.")
    made = schema.number("calls", 3, (1, 8), "How many.")
    assert (made.get_io_type(), made.as_dict()) == (whole.get_io_type(), whole.as_dict())
    share = io.Float.Input("noise", default=0.0, min=0.0, max=1.0, step=0.1, optional=True)
    made = schema.number("noise", 0.0, (0.0, 1.0, 0.1), None, optional=True)
    assert (made.get_io_type(), made.as_dict()) == (share.get_io_type(), share.as_dict())


def test_what_the_host_does_not_know_is_left_out():
    made = schema.text("name", "", "The file's name.", advanced=True, of_a_later_version=True)
    assert made.as_dict()["tooltip"] == "The file's name." and made.id == "name"
