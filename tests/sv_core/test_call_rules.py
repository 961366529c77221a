"""sv_core.calls: the rules' published lists, and their laws on grids nobody published."""

import itertools

import pytest
import torch

from sv_core.call_rules import CALL_RULES, adaptive_block, call_nodes
from sv_core.schedules import shift, uniform_grid

GRID = shift(uniform_grid(30), 3.0)
"""The 30-step grid of shift 3."""
SD35 = torch.cat(
    [
        shift(torch.linspace(1, 3 * 0.001 / 1.002, 30, dtype=torch.float64), 3.0),
        torch.zeros(1, dtype=torch.float64),
    ]
)
"""SD3.5's own: shift 3, the last node before 0 is 0.0089."""
rules = pytest.mark.parametrize("rule", CALL_RULES)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("rule", "calls", "expected"),
    [
        ("density", 10, "0 5 9 12 16 19 22 25 27 29"),
        ("density", 12, "0 4 7 10 13 16 19 21 24 26 28 29"),
        ("density", 14, "0 3 6 9 11 14 16 18 21 23 25 26 28 29"),
        ("auto", 10, "0 5 9 12 16 19 22 25 27 29"),
        ("auto", 12, "0 2 4 7 10 13 16 19 23 25 27 29"),
        ("early", 12, "0 2 4 7 10 13 16 19 23 25 27 29"),
        ("late", 6, "0 8 14 20 25 29"),
        ("late", 10, "0 5 10 14 17 21 24 27 28 29"),
        ("late", 15, "0 2 4 5 8 10 13 15 18 21 23 25 27 28 29"),
        ("safe", 14, "0 1 2 3 4 5 6 7 8 9 10 11 15 20 24 27 29"),
    ],
)
def test_lists_at_shift_3(rule, calls, expected, dtype):
    nodes = call_nodes(GRID.to(dtype).tolist(), calls, rule)
    assert nodes == [int(k) for k in expected.split()]


def test_guarded_list_on_the_native_grid_of_sd35():
    expected = [0, 1, 2, 4, 6, 8, 10, 11, 15, 18, 21, 24, 26, 28]
    assert call_nodes(SD35.tolist(), 14, "guarded") == expected


def assert_calls(nodes, steps):
    assert nodes[0] == 0 and nodes[-1] < steps
    assert all(a < b for a, b in itertools.pairwise(nodes))


@rules
@pytest.mark.parametrize("factor", [1.0, 3.0, 8.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 9, 30, 51])
@pytest.mark.parametrize("part", ["whole", "denoise 0.5", "tiny denoise", "ends early", "no low"])
def test_every_rule_gives_as_many_calls_as_asked_on_every_grid(rule, factor, steps, part):
    whole = shift(uniform_grid(4 * steps), factor)
    ts = {
        "whole": shift(uniform_grid(steps), factor),
        "denoise 0.5": shift(uniform_grid(2 * steps), factor)[-steps - 1 :],
        "tiny denoise": shift(uniform_grid(steps), factor) * 0.02,
        "ends early": whole[: steps + 1],
        "no low": 1 - 0.1 * (1 - whole[: steps + 1]),
    }[part].tolist()
    for calls in (2, 3, 7, 14, steps - 1, steps, steps + 5):
        if calls < 2:
            continue
        try:
            nodes = call_nodes(ts, calls, rule)
        except ValueError as error:
            assert rule == "guarded" and "needs at least" in str(error)
            continue
        assert_calls(nodes, steps)
        if calls >= steps:
            assert nodes == list(range(steps))
        elif rule != "safe":
            assert len(nodes) == calls


def test_safe_keeps_every_early_node_and_six_below():
    for factor in (1.0, 3.0, 8.0):
        ts = shift(uniform_grid(30), factor)
        high = int((ts[:-1] >= 0.85).sum())
        nodes = call_nodes(ts.tolist(), 14, "safe")
        assert nodes[:high] == list(range(high))
        assert len(nodes) == high + 6


def test_adaptive_block_is_the_longest_within_the_tolerance():
    ts = uniform_grid(20).tolist()
    curvature, called_nodes = 10.0, [8, 5]
    error = [
        curvature * (h**3 / 3 + h**2 * (ts[5] - ts[8]) / 2)
        for h in (ts[8] - ts[8 + m] for m in range(1, 7))
    ]
    for m in range(1, 6):
        tolerance = (error[m - 1] + error[m]) / 2
        assert adaptive_block(ts, called_nodes, curvature, tolerance) == m


@pytest.mark.parametrize("rule", CALL_RULES)
@pytest.mark.parametrize("first", [1.0, 0.9, 0.05, 0.03, 0.0299])
def test_a_grid_with_one_node_worth_a_call_or_none(rule, first):
    """Shift 1, denoise .03, 10 steps of the host's ``simple`` is such a grid."""
    grid = [first, *(0.0299 * (1 - i / 9) for i in range(1, 10))]
    for calls in range(4, 12):  # fewer are too few for the guarded rule
        nodes = call_nodes(grid, calls, rule)
        assert nodes == sorted(set(nodes)) and nodes[0] == 0 and nodes[-1] < 9
        assert rule == "safe" or len(nodes) == min(calls, 9)
