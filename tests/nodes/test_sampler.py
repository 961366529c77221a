"""The sampler node refuses settings that contradict each other, in words."""

import pytest
import torch

from tests.nodes.loaded_pack import GRID, complaint
from tests.nodes.moded_flow import (
    FIXED,
    Sampler,
    planned,
    run,
)

pytestmark = pytest.mark.inside


def test_settings_that_contradict_are_refused_in_words():
    def words(**changes):
        given = {"base": "euler", "split": 0.85, "noise": 0.0} | changes
        return complaint(lambda: Sampler.execute(**given))

    assert "noise 0.1 is for mode paper" in words(mode="forecast", noise=0.1)
    assert "choose mode forecast" in words(nodes="0 2 4")
    assert "grid of its own" in words(mode="ode", nodes="0 2 4")
    assert "whole numbers" in words(mode="forecast", nodes="0 two 4")
    assert "begin with 0 and ascend" in words(mode="forecast", nodes="1 2 4")
    assert "begin with 0 and ascend" in words(mode="forecast", nodes="0 4 4")
    assert "mode has no choice" in words(mode="fast")
    assert "belongs to another grid" in complaint(lambda: run(planned(nodes=(0, 40)), GRID))
    assert "guarded rule needs" in complaint(lambda: run(planned(calls=3, rule="guarded"), GRID))
    assert "tolerance must be above 0" in complaint(
        lambda: run(planned(mode="adaptive", tolerance=0.0), GRID)
    )
    assert "noise must lie between 0 and 1" in words(noise=float("nan"))
    assert "noise must lie between 0 and 1" in words(noise=-0.5)
    assert "calls must lie between 2 and 1000" in words(mode="forecast", calls=10**9)
    for bad in ([0.0, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0], [1000.0, 500.0, 0.0]):
        for sampler in (planned(), FIXED):
            assert "SIGMAS" in complaint(lambda: run(sampler, torch.tensor(bad)))  # noqa: B023
