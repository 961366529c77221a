"""Runs of samplers with Fewer Calls behind the model, and what the node reports of them."""

from importlib import import_module

import comfy.samplers

import nodes
from tests.nodes.loaded_pack import NAME, sample
from tests.nodes.moded_flow import MODES, SEEN, grid_of

Node = nodes.NODE_CLASS_MAPPINGS["FewerCalls"]
fewer_calls = import_module(".nodes.fewer_calls", NAME)
GRID20 = grid_of(20)


def behind(way="share", model=MODES, **settings):
    """(the model with the node, what it reports)."""
    reports = []
    before = fewer_calls.show_on_node
    fewer_calls.show_on_node = lambda node, text: reports.append(text)
    try:
        made = Node.execute(model, {"calls": way, **settings}).args[0]
    finally:
        fewer_calls.show_on_node = before
    return made, reports


def sampler(name):
    return comfy.samplers.sampler_object(name)


def through(name, grid=GRID20, **settings):
    """(samples with the node, what it reports, the levels of the calls)."""
    model, reports = behind(**settings)
    SEEN.clear()
    return sample(sampler(name), grid.clone(), model=model), reports, list(SEEN)
