"""What a run tells the progress bar and the log."""

import pytest

from tests.nodes.loaded_pack import GRID
from tests.nodes.moded_flow import (
    FIXED,
    SEEN,
    Log,
    call_rules,
    planned,
    run,
)

pytestmark = pytest.mark.inside


def test_the_bar_counts_calls_and_ends_full():
    def bar(sampler, grid=GRID):
        shown = []
        run(sampler, grid, callback=lambda i, x0, x, n: shown.append((i + 1, n)))
        return shown

    for settings, total in (
        ({}, 14),
        ({"calls": 8}, 8),
        ({"nodes": (0, 4, 9)}, 3),
        ({"mode": "ode", "calls": 12}, 12),
        ({"mode": "ode", "calls": 40}, 30),
        ({"mode": "self-calibrating", "calls": 11}, 11),
        ({"calls": 99}, 30),
    ):
        assert bar(planned(**settings)) == [(i, total) for i in range(1, total + 1)], settings
    shown = bar(planned(mode="adaptive"))
    counted, (last, total) = shown[:-1], shown[-1]
    assert counted == [(i, 30) for i in range(1, len(counted) + 1)] and last == total < 30
    in_steps = bar(FIXED)  # whose total the host fixes at 30
    assert len(in_steps) == 15 and in_steps[-1] == (30, 30)
    assert [i for i, _ in in_steps] == sorted({i for i, _ in in_steps})


def test_calls_are_counted_in_words_and_really_made():
    for sampler, calls, rule in ((planned(), 14, "auto"), (FIXED, 15, "late")):
        SEEN.clear()
        with Log() as log:
            run(sampler, GRID)
        words = f"{calls} of 30 calls at 0 "
        assert len(SEEN) == calls and any(words in line for line in log.lines), log.lines
        asked = [k for k in range(30) if any(abs(float(GRID[k]) - t) < 1e-6 for t in SEEN)]
        assert asked == call_rules.call_nodes(GRID.tolist(), calls, rule)
