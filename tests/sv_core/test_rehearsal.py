"""Rehearsals against real runs, brute force, and noise that calibration never saw."""

import itertools

import numpy as np
import pytest
import torch

from sv_core.calibration import Recorder, calibrate
from sv_core.call_rules import call_nodes
from sv_core.errors import InvalidInput
from sv_core.rehearsal import CHECKS, Rehearsal, exchange, rehearse
from sv_core.sampling import sample_euler, sample_forecast
from tests.sv_core.exact_flows import GRID, Points

TIMES = GRID.tolist()


def turning(rate):
    """A velocity that bends, and whose errors grow at ``rate`` whatever their direction."""

    def velocity(x, t):
        k = torch.arange(1, x.shape[1] + 1, dtype=x.dtype)
        return torch.cos(k * t * 1.7) + rate * x

    return velocity


def recorded(velocity, x):
    recorder = Recorder(GRID)
    end = sample_euler(velocity, x, GRID, callback=recorder)
    return recorder, end


def checked(velocity, x, *lists):
    """A rehearsal after real runs with these lists, and where the runs with all calls ended."""
    recorder, end = recorded(velocity, x)
    for nodes in lists:
        sample_forecast(velocity, x, GRID, nodes=nodes, callback=recorder)
    return Rehearsal([recorder], TIMES), end


def real(velocity, x, nodes, end):
    """Mean of log10 of the squared error of a real run."""
    error = sample_forecast(velocity, x, GRID, nodes=nodes) - end
    return float(error.square().sum(1).log10().mean())


LISTS = ([0, 5, 9, 12, 16, 19, 22, 25, 27, 29], [0, 2, 4, 9, 20, 26])


def test_a_check_s_error_follows_from_inner_products_alone(generator):
    flow = Points(8, 16, 0.3)
    x = flow.noise(3)
    rehearsal, end = checked(flow.velocity, x, *LISTS)
    assert [*rehearsal.checked] == [tuple(nodes) for nodes in LISTS]
    for nodes, measure in rehearsal.checked.items():
        # Recorded in float16.
        assert measure == pytest.approx(real(flow.velocity, x, nodes, end), abs=0.02)


@pytest.mark.parametrize("rate", [-1.5, 0.0, 0.8])
def test_where_errors_grow_alike_in_all_directions_a_rehearsal_is_the_run(rate, generator):
    x = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    rehearsal, end = checked(turning(rate), x, LISTS[0])
    for nodes in (LISTS[1], [0, 1, 2, 20], call_nodes(TIMES, 8), call_nodes(TIMES, 12, "early")):
        expected = real(turning(rate), x, nodes, end)
        assert rehearsal.cost(tuple(nodes)) == pytest.approx(expected, abs=0.05)


def test_samples_of_a_batch_and_recorders_of_their_own_are_the_same(generator):
    x = torch.randn(3, 20, generator=generator, dtype=torch.float64)
    together, _ = checked(turning(0.5), x, LISTS[0])
    recorders = []
    for row in x.split(1):
        recorders.append(recorded(turning(0.5), row)[0])
        sample_forecast(turning(0.5), row, GRID, nodes=LISTS[0], callback=recorders[-1])
    apart = Rehearsal(recorders, TIMES)
    assert apart.cost(tuple(LISTS[1])) == pytest.approx(together.cost(tuple(LISTS[1])), rel=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_exchange_ends_where_no_single_move_is_better(seed):
    worth = np.random.default_rng(seed).random((3, 12))
    seen = []

    def cost(nodes):
        seen.append(nodes)
        return sum(worth[i, k] for i, k in enumerate(nodes[1:]))

    start = (0, 4, 5, 9)
    least, best = exchange(start, 12, cost)
    assert least == cost(best) <= cost(start)
    assert all(n[0] == 0 and list(n) == sorted(set(n)) and n[-1] < 12 for n in seen)
    for i, move in itertools.product((1, 2, 3), (-2, -1, 1, 2)):
        moved = (*best[:i], best[i] + move, *best[i + 1 :])
        if moved[i - 1] < moved[i] < (*moved, 12)[i + 1]:
            assert cost(moved) >= least


def test_the_best_checked_list_is_chosen_and_checks_are_counted():
    flow = Points(8, 16, 0.2)
    x = flow.noise(4)
    recorder, end = recorded(flow.velocity, x)
    lists = []

    def check(nodes):
        lists.append(tuple(nodes))
        sample_forecast(flow.velocity, x, GRID, nodes=nodes, callback=recorder)

    rehearsal, best = rehearse([recorder], TIMES, 9, check)
    assert lists[0] == tuple(call_nodes(TIMES, 9, "early"))
    assert 2 <= len(lists) == len(set(lists)) <= CHECKS and best in lists
    assert best == min(lists, key=lambda nodes: real(flow.velocity, x, nodes, end))
    for calls in (6, 12):
        nodes = rehearsal.best(calls)
        assert len(nodes) == calls and nodes[0] == 0


def test_where_modes_are_decided_early_it_beats_what_recorded_runs_alone_say():
    """On unseen noise: errors near t = 1 grow there, those of the plateau shrink."""
    flow = Points(48, 1024, 0.2)
    spare, x = flow.noise(6), flow.noise(32)
    recorder, _ = recorded(flow.velocity, spare)
    alone = calibrate(recorder.gram(), TIMES, 8)

    def check(nodes):
        sample_forecast(flow.velocity, spare, GRID, nodes=nodes, callback=recorder)

    _, best = rehearse([recorder], TIMES, 8, check)
    base = sample_euler(flow.velocity, x, GRID)
    near = [
        flow.decibels(sample_forecast(flow.velocity, x, GRID, nodes=nodes), base)
        for nodes in (best, alone, call_nodes(TIMES, 8))
    ]
    assert near[0] > max(near[1:]) + 3, near


def test_a_grid_with_no_more_steps_than_calls_is_refused():
    with pytest.raises(InvalidInput, match="fewer than the 30 steps, got 30"):
        rehearse([Recorder(GRID)], TIMES, 30, lambda nodes: pytest.fail("checked"))


def test_a_straight_flow_has_nothing_to_learn_from(generator):
    """Errors of nothing but rounding must not be taken for growth without bounds."""
    x = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    recorder, _ = recorded(lambda x, t: torch.ones_like(x), x)

    def check(nodes):
        sample_forecast(lambda x, t: torch.ones_like(x), x, GRID, nodes=nodes, callback=recorder)

    rehearsal, best = rehearse([recorder], TIMES, 7, check)
    assert len(best) == 7 and all(np.isfinite([*rehearsal.checked.values()]))
    assert np.isfinite(rehearsal.cost(tuple(LISTS[0])))
