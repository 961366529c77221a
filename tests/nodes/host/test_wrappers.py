"""Wrappers beside those of other packs, on a clone of the MODEL."""

import pytest
import torch
from comfy.patcher_extension import WrappersMP

from tests.nodes.fewer_calls_runs import GRID20, behind, through
from tests.nodes.loaded_pack import sample
from tests.nodes.moded_flow import EULER, MODES, SEEN, run

pytestmark = pytest.mark.inside


def test_other_packs_wrappers_survive_on_either_side():
    order = []

    def noting(label):
        def wrapper(executor, *args, **options):
            order.append(label)
            return executor(*args, **options)

        return wrapper

    first = MODES.clone()
    first.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "a", noting("before"))
    model, reports = behind(model=first)
    model.add_wrapper_with_key(WrappersMP.SAMPLER_SAMPLE, "z", noting("after"))
    made = sample(EULER, GRID20, model=model)
    assert order == ["before", "after"] and "10 of 20" in reports[0]
    assert torch.equal(made, through("euler")[0])


def test_the_model_given_is_left_as_it_is():
    behind()
    SEEN.clear()
    run(EULER, GRID20)
    assert len(SEEN) == 20
