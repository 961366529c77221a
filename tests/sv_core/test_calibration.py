"""sv_core.calibration: what is recorded, and the best of all lists of calls, by brute force."""

import itertools

import numpy as np
import pytest
import torch

from sv_core.calibration import Recorder, calibrate, fill_gaps, self_calibrate
from sv_core.call_rules import EARLY, call_nodes, density
from sv_core.errors import InvalidInput
from sv_core.interpolant import COSINE
from sv_core.sampling import StraightPath, sample_euler, sample_forecast
from sv_core.schedules import shift, uniform_grid
from tests.sv_core.exact_flows import GRID, gram_of


def curved(x, t):
    """A flow with a bend of its own for each coordinate."""
    k = torch.arange(1, x.shape[-1] + 1, dtype=x.dtype)
    return torch.cos(k * t * 1.7) - 0.3 * x * t


def record(x, ts, sampler=sample_euler, velocity=curved, **arguments):
    recorder = Recorder(ts)
    kept = []

    def both(k, x, v, t):
        recorder(k, x, v, t)
        kept.append(v.flatten().double().numpy())

    sampler(velocity, x, ts, callback=both, **arguments)
    return recorder, gram_of(kept)


def test_recorded_products_are_those_of_the_velocities(generator):
    x = torch.randn(3, 2, 50, generator=generator)
    recorder, expected = record(x, GRID)
    assert recorder.nodes == list(range(30))
    # float16 keeps 11 bits of each number; products err by that share of the lengths.
    np.testing.assert_allclose(recorder.gram(), expected, atol=1e-4 * expected.max())
    assert np.linalg.eigvalsh(recorder.gram()).min() > -1e-9


def test_recording_in_blocks_changes_nothing(generator, monkeypatch):
    x = torch.randn(3, 2, 50, generator=generator)
    whole = record(x, GRID)[0].gram()
    monkeypatch.setattr(Recorder, "BLOCK", 7)
    np.testing.assert_allclose(record(x, GRID)[0].gram(), whole, rtol=1e-12)


def test_samples_of_a_batch_are_told_apart_and_add_up(generator):
    x = torch.randn(3, 50, generator=generator)
    parts = np.stack([record(x[i : i + 1], GRID)[0].gram() for i in range(3)])
    together = record(x, GRID)[0]
    np.testing.assert_allclose(together.grams(), parts, rtol=1e-12)
    np.testing.assert_allclose(together.gram(), parts.sum(0), rtol=1e-12)


def test_on_another_path_the_straight_velocity_is_recorded(generator):
    ts = uniform_grid(6)
    x = torch.randn(2, 5, generator=generator, dtype=torch.float64)
    recorder = Recorder(ts, COSINE)
    path = StraightPath(COSINE, ts)
    kept = []

    def both(k, x, v, t):
        recorder(k, x, v, t)
        kept.append(path.velocity(x, v, k).flatten().numpy())

    sample_forecast(curved, x, ts, calls=6, interpolant=COSINE, callback=both)
    np.testing.assert_allclose(recorder.gram(), gram_of(kept), rtol=2e-3, atol=2e-3)


def test_gaps_are_filled_exactly_for_cubics():
    ts = GRID.numpy()
    velocities = [np.array([1, t, t**2, t**3]) @ np.arange(12).reshape(4, 3) for t in ts[:-1]]
    nodes = [0, 4, 7, 12, 16, 19, 23, 26, 29]
    found = fill_gaps(gram_of([velocities[k] for k in nodes]), nodes, ts)
    inner = slice(4, 27)  # a cubic needs two calls to either side
    np.testing.assert_allclose(found[inner, inner], gram_of(velocities)[inner, inner], rtol=1e-9)
    np.testing.assert_allclose(
        found[np.ix_(nodes, nodes)], gram_of(velocities)[np.ix_(nodes, nodes)]
    )


def cost_by_running(velocities, ts, nodes):
    """Run every block on its own, with polynomials through its calls, and add up the errors."""
    steps, total = len(ts) - 1, 0.0
    ends = [*nodes[1:], steps]
    for m, (j, k) in enumerate(zip(nodes, ends, strict=True)):
        past = [nodes[m - 1], j] if m else [j]

        def error(known, j=j, k=k):
            x = np.zeros_like(velocities[0])
            for i in range(j + 1, k):
                weights = [
                    np.prod([(ts[i] - ts[b]) / (ts[a] - ts[b]) for b in known if b != a])
                    for a in known
                ]
                guess = sum(w * velocities[a] for w, a in zip(weights, known, strict=True))
                x = x + (ts[i + 1] - ts[i]) * (guess - velocities[i])
            return float((x**2).sum())

        total += error(past) if k == steps else error([*past, k]) + 0.3 * error(past)
    return total


@pytest.mark.parametrize("calls", [2, 3, 4, 6])
def test_calibration_finds_the_best_of_all_lists(calls):
    ts = shift(uniform_grid(9), 3.0).numpy()
    rng = np.random.default_rng(calls)
    velocities = list(np.cumsum(rng.normal(size=(9, 5)), 0))
    every = [[0, *rest] for rest in itertools.combinations(range(1, 9), calls - 1)]
    best = min(every, key=lambda nodes: cost_by_running(velocities, ts, nodes))
    assert calibrate(gram_of(velocities), ts, calls) == best


def test_a_strong_prior_keeps_the_shares_of_the_early_rule():
    rng = np.random.default_rng(0)
    gram = gram_of(list(np.cumsum(rng.normal(size=(30, 5)), 0)))
    share = density(GRID.numpy(), 10, EARLY)

    def crowd(nodes):
        return (np.diff([*share[nodes], 1]) ** 6).sum()

    usual, free = call_nodes(GRID.tolist(), 10, "early"), calibrate(gram, GRID.tolist(), 10)
    kept = calibrate(gram, GRID.tolist(), 10, prior=1e6)
    assert crowd(kept) <= crowd(usual) < crowd(free)


def test_calls_cluster_where_the_velocity_turns():
    ts = uniform_grid(40).numpy()
    bend = [np.array([1.0, np.tanh((t - 0.4) * 30)]) for t in ts[:-1]]
    nodes = calibrate(gram_of(bend), ts, 12)
    assert sum(0.3 < ts[k] < 0.5 for k in nodes) >= 7


@pytest.mark.parametrize("calls", [8, 10, 12])
def test_calibrated_and_self_calibrated_runs_are_nearer_than_the_rule(calls, generator):
    """On other noise than they were found with; the self-calibrated list saw forecasts only."""
    spare, x = torch.randn(2, 6, 20, generator=generator, dtype=torch.float64)
    base = sample_euler(curved, x, GRID)
    full = record(spare, GRID)[0]
    first = record(spare[:1], GRID, sample_forecast, calls=calls, rule="early")[0]
    lists = [
        call_nodes(GRID.tolist(), calls),
        self_calibrate(first.gram(), first.nodes, GRID.tolist(), calls),
        calibrate(full.gram(), GRID.tolist(), calls),
    ]
    errors = [
        float((sample_forecast(curved, x, GRID, nodes=nodes) - base).square().mean().sqrt())
        for nodes in lists
    ]
    assert errors[1] < errors[0] and errors[2] < errors[0]


def test_a_grid_with_fewer_steps_than_calls_is_called_everywhere():
    gram = np.eye(5)
    assert calibrate(gram, uniform_grid(5).tolist(), 5) == [0, 1, 2, 3, 4]
    assert calibrate(gram, uniform_grid(5).tolist(), 9) == [0, 1, 2, 3, 4]
    with pytest.raises(InvalidInput, match="at least 2"):
        calibrate(gram, uniform_grid(5).tolist(), 1)


def test_a_flow_without_any_drift_keeps_the_density_rule():
    assert calibrate(np.ones((30, 30)), GRID.tolist(), 10) == call_nodes(GRID.tolist(), 10)
