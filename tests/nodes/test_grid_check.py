"""The one check of time grids: what a flow can be sampled on passes, the rest is one sentence."""

import math

import pytest
import torch

from sv_core.errors import InvalidInput
from tests.nodes.host_free import host_free

grid_check = host_free("grid_check")
GOOD = [1.0, 0.75, 0.25, 0.0]


def refusal(sigmas, **options) -> str:
    with pytest.raises(ValueError) as caught:
        grid_check.require_flow_grid(sigmas, "used", **options)
    words = str(caught.value)
    assert type(caught.value).__name__ == InvalidInput.__name__
    assert words.startswith("used ") and "\n" not in words and len(words) < 300
    return words


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_a_flow_s_grid_keeps_its_values(dtype):
    sigmas = torch.tensor(GOOD, dtype=dtype)
    grid = grid_check.require_flow_grid(sigmas)
    assert grid.dtype == torch.float64 and grid.tolist() == sigmas.tolist()
    for part in (sigmas[:1], sigmas[1:3], torch.tensor([0.3]), torch.tensor([1.00005, 0.0])):
        grid_check.require_flow_grid(part)


@pytest.mark.parametrize(
    ("sigmas", "words"),
    [
        ([], "is empty"),
        ([1.0, math.nan, 0.0], "not numbers"),
        ([math.inf, 0.5], "not numbers"),
        ([s * 1000 for s in GOOD], "runs from 1000 to 0"),
        ([s * 14.6 for s in GOOD], "lie between 0 and 1"),
        ([s - 0.5 for s in GOOD], "lie between 0 and 1"),
        (GOOD[::-1], "does not descend"),
        ([1.0, 0.5, 0.5, 0.0], "does not descend"),
        ([GOOD, GOOD], "no list of noise levels"),
        (0.5, "no list of noise levels"),
    ],
)
def test_what_is_no_flow_s_grid(sigmas, words):
    assert words in refusal(torch.tensor(sigmas))


def test_things_that_are_no_tensor_or_no_real_one():
    for odd in (None, GOOD, "1 0", torch.tensor(GOOD) * 1j):
        assert "no list of noise levels" in refusal(odd)


def test_the_number_of_steps_has_an_end():
    steps = grid_check.MOST_STEPS
    grid_check.require_flow_grid(torch.linspace(1, 0, steps + 1))
    assert "more than 10000" in refusal(torch.linspace(1, 0, steps + 2))
    assert "more than 2" in refusal(torch.tensor(GOOD), most=2)
    assert "needs at least 5" in refusal(torch.tensor(GOOD), fewest=4)


def test_other_families_have_another_range():
    grid_check.require_flow_grid(torch.tensor([80.0, 1.0, 0.0]), highest=80.0)
    assert "between 0 and 80" in refusal(torch.tensor([81.0, 0.0]), highest=80.0)
    grid_check.require_flow_grid(torch.tensor([1.0, 0.5, 0.5, 0.0]), repeats=True)
    assert "does not descend" in refusal(torch.tensor([0.5, 1.0]), repeats=True)
