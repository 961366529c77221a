"""Each node is registered by itself: what is wrong with one takes no other."""

import sys
import types
from importlib import import_module

import pytest

from tests.nodes.changed_host import NODES
from tests.nodes.loaded_pack import NAME

pytestmark = pytest.mark.inside
pack = import_module(".nodes", NAME)
registration = import_module(".nodes.host.registration", NAME)
contract = import_module(".nodes.host.contract", NAME)


class Sound:
    @classmethod
    def GET_SCHEMA(cls):
        return "a schema"


class Broken:
    @classmethod
    def GET_SCHEMA(cls):
        raise TypeError("Schema.__init__() got an unexpected keyword argument")


@pytest.fixture
def package(monkeypatch):
    """A package of two files of nodes, and one that cannot be imported."""
    made = types.ModuleType("nodes_of_a_test")
    made.__path__ = []
    parts = {"first": {"A": Sound}, "second": {"B": Broken, "C": Sound}}
    monkeypatch.setitem(sys.modules, made.__name__, made)
    for name, classes in parts.items():
        module = types.ModuleType(f"{made.__name__}.{name}")
        vars(module).update(classes)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return made.__name__


def test_what_fails_takes_no_other_node(package):
    files = {"first": {"1": "A"}, "second": {"2": "B", "3": "C"}, "third": {"4": "D"}}
    nodes, off = registration.load(package, files)
    assert nodes == {"1": Sound, "3": Sound} and off.keys() == {"2", "4"}
    assert "unexpected keyword" in off["2"] and "third" in off["4"]
    line = contract.summary(off)
    assert "\n" not in line and all(f"{node} (" in line for node in off)


def test_this_host_gets_every_node_and_both_entries():
    nodes, off = registration.load(f"{NAME}.nodes", pack.NODES)
    assert not off and nodes.keys() == set(NODES)
    assert registration.extend(f"{NAME}.nodes", {}) == {}
    everything = {contract.STABLE_VS: "gone", contract.REGIME_SPLIT: "gone"}
    assert registration.extend("no_such_package", everything) == {}
    assert registration.extend("no_such_package", {}).keys() == everything.keys()


def test_every_node_is_in_one_group():
    grouped = [node for group in contract.GROUPS.values() for node in group]
    listed = [node for classes in pack.NODES.values() for node in classes]
    assert sorted(grouped) == sorted([*listed, contract.STABLE_VS, contract.REGIME_SPLIT])
