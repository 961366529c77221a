"""The host contract: each name is hidden in turn, gets another signature, or another range."""

import time
from importlib import import_module

import pytest

from tests.nodes import changed_host
from tests.nodes.changed_host import Change, contract, exists, hidden, resigned
from tests.nodes.loaded_pack import NAME

pytestmark = pytest.mark.inside
HERE = [entry for entry in contract.NAMES if exists(entry)]
CALLED = [entry for entry in HERE if entry.arguments is not None]
MUST = {"sigmas times 1000, later", "denoised data is the velocity"}


def groups_of(off) -> set[str]:
    return {name for name, group in contract.GROUPS.items() if set(group) & set(off)}


def test_this_host_keeps_the_contract():
    assert contract.check() == {}
    optional = {entry.path for entry in contract.NAMES if not exists(entry)}
    assert optional <= {"COSMOS_RFLOW"}


def test_looking_everything_up_is_quick():
    began = time.process_time()
    contract.check()
    assert time.process_time() - began < 0.1


@pytest.mark.parametrize("entry", HERE, ids=str)
def test_a_hidden_name_costs_at_most_one_group(entry):
    with hidden(entry):
        off = contract.check()
    assert set(entry.off) <= off.keys() and len(groups_of(off)) <= 1
    assert len(off) <= 6 and not contract.check()


@pytest.mark.parametrize("entry", CALLED, ids=str)
def test_another_signature_costs_at_most_one_group(entry):
    with resigned(entry):
        off = contract.check()
    assert set(entry.off) <= off.keys() and len(groups_of(off)) <= 1


@pytest.mark.parametrize("label", changed_host.RANGES)
def test_sigmas_of_another_range_cost_the_scheduler_alone(label):
    make = changed_host.RANGES[label]
    with changed_host.altered("comfy.samplers", "calculate_sigmas", make)():
        off = contract.check()
    assert off.keys() == {"RegimeSplitScheduler", contract.REGIME_SPLIT}


def test_whole_packs_in_changed_hosts():
    """A few of the campaign's changes, with every node at work."""
    changes = [change for change in changed_host.changes() if change.label in MUST]
    names = {"KSAMPLER"}
    changes += [
        Change(f"without {entry}", lambda entry=entry: hidden(entry))
        for entry in HERE
        if entry.path in names
    ]
    assert len(changes) == len(MUST) + len(names)
    with changed_host.bench() as bench:
        for change in changes:
            made = bench.outcome(change)
            assert not made.findings, made.findings
            assert made.off or made.refused, change.label
            assert len(made.lines) == bool(made.off) and len(groups_of(made.off)) <= 1
            assert {"RegimePlot", "FidelityReport", "RegimeSplitSigmas"} <= set(made.same)


def test_what_the_host_lacks_is_one_sentence_and_a_defect_inside_is_none():
    def missing():
        return contract.no_such_name

    def deeper():
        missing()

    import comfy.samplers

    called = contract.of_the_host(lambda: comfy.samplers.calculate_sigmas(1, 2, 3, 4))
    for function in (contract.of_the_host(missing), called):
        with pytest.raises(contract.HostChanged) as caught:
            function()
        assert "update Stable Velocity" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(AttributeError):
        contract.of_the_host(deeper)()
    errors = import_module(".sv_core.errors", NAME)
    assert issubclass(contract.HostChanged, errors.InvalidInput)
