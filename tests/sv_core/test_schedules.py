"""sv_core.schedules against the laws that every grid obeys, and the official code's grids."""

import math

import pytest
import torch

from sv_core.errors import InvalidInput
from sv_core.schedules import (
    THINNING_RULES,
    low_count,
    qwen_grid,
    qwen_mu,
    regime_split,
    shift,
    split_index,
    split_to_length,
    uniform_grid,
    with_node,
)

rules = pytest.mark.parametrize("rule", THINNING_RULES)


def assert_grid(ts):
    """1-D, strictly descending, ending at 0."""
    assert ts.ndim == 1 and ts[-1] == 0
    assert (ts.diff() < 0).all()


def test_uniform_grid_is_the_arithmetic_sequence():
    for steps in (1, 2, 7, 30):
        ts = uniform_grid(steps)
        assert_grid(ts)
        expected = [1 - i / steps for i in range(steps + 1)]
        torch.testing.assert_close(ts.tolist(), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0, 12.0])
def test_shift_has_an_inverse_fixed_ends_and_composes(factor):
    ts = uniform_grid(20)
    shifted = shift(ts, factor)
    assert_grid(shifted)
    assert shifted[0] == 1
    torch.testing.assert_close(shift(shifted, 1 / factor), ts, rtol=0, atol=1e-14)
    torch.testing.assert_close(shift(shifted, 2.0), shift(ts, 2 * factor), rtol=0, atol=1e-14)


def test_shift_multiplies_the_odds_of_noise():
    ts = uniform_grid(20)[1:-1]
    s = shift(ts, 3.0)
    torch.testing.assert_close(s / (1 - s), 3 * ts / (1 - ts))
    # Flux's exp(mu) / (exp(mu) + 1/t - 1) is the same curve.
    mu = 1.15
    torch.testing.assert_close(shift(ts, math.exp(mu)), math.exp(mu) / (math.exp(mu) + 1 / ts - 1))


@rules
@pytest.mark.parametrize("split", [0.05, 0.5, 0.85, 0.99])
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 31])
@pytest.mark.parametrize("start", [0, 1], ids=["from noise", "denoise below 1"])
def test_laws_of_every_split(steps, split, rule, start):
    ts = shift(uniform_grid(steps + 2 * start), 3.0)[2 * start :]
    low = low_count(ts, split)
    for keep in range(1, low + 1):
        kept = regime_split(ts, split, keep, rule)
        assert_grid(kept)
        assert kept[0] == ts[0]
        assert torch.isin(kept, ts).all()
        assert len(kept) == split_index(ts, split) + keep + 1
        torch.testing.assert_close(kept[kept >= split], ts[ts >= split], rtol=0, atol=0)
        assert low_count(kept, split) == keep


@rules
def test_all_low_steps_keep_the_whole_grid(rule):
    ts = shift(uniform_grid(30), 3.0)
    assert torch.equal(regime_split(ts, 0.85, low_count(ts, 0.85), rule), ts)


@rules
def test_no_rule_repeats_an_index(rule):
    for count in range(1, 80):
        for keep in range(1, count + 1):
            index = THINNING_RULES[rule](count, keep).round()
            assert index[0] == 0 and index[-1] <= count - 1
            assert (index.diff() >= 1).all()


def test_rules_differ_in_where_they_end():
    ts = uniform_grid(10)
    kept = {rule: regime_split(ts, 0.95, 4, rule) for rule in THINNING_RULES}
    # L = 9 nodes below the split: indices 0 2 5 7 (of 0..7) and 0 3 5 8 (of 0..8) by hand.
    torch.testing.assert_close(kept["flow_match"], ts[[0, 1, 3, 6, 8, 10]])
    torch.testing.assert_close(kept["unipc"], ts[[0, 1, 4, 6, 9, 10]])


@rules
def test_one_low_step_keeps_the_first(rule):
    ts = uniform_grid(10)
    torch.testing.assert_close(regime_split(ts, 0.5, 1, rule), ts[[0, 1, 2, 3, 4, 5, 6, 10]])


def test_a_node_at_the_split_is_high():
    for dtype in (torch.float32, torch.float64):
        ts = torch.tensor([1.0, 0.85, 0.5, 0.0], dtype=dtype)
        assert split_index(ts, 0.85) == 2
        assert low_count(ts, 0.85) == 1


def test_a_grid_without_low_nodes_comes_back_as_a_copy():
    ts = torch.tensor([1.0, 0.95, 0.9, 0.0])
    kept = regime_split(ts, 0.85, 9)
    assert torch.equal(kept, ts)
    assert kept.data_ptr() != ts.data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_the_grids(dtype):
    assert regime_split(uniform_grid(10).to(dtype), 0.85, 3).dtype == dtype


@pytest.mark.parametrize("split", [0, 1, -0.1, 1.7, math.nan])
def test_split_outside_the_unit_interval(split):
    with pytest.raises(InvalidInput, match="split must lie between 0 and 1"):
        regime_split(uniform_grid(10), split, 3)


@rules
def test_too_many_and_too_few_low_steps(rule):
    ts = uniform_grid(10)
    with pytest.raises(InvalidInput, match="at least 1, got 0"):
        regime_split(ts, 0.85, 0, rule)
    # 0.8 ... 0.1 lie below the split.
    with pytest.raises(InvalidInput, match=r"low_steps is 9, but only 8 of the grid's 10 steps"):
        regime_split(ts, 0.85, 9, rule)


def test_unknown_rule_names_the_known():
    with pytest.raises(InvalidInput, match=r"'middle' \(have: flow_match, unipc\)"):
        regime_split(uniform_grid(10), 0.85, 3, "middle")


def test_official_grids(golden):
    for entry in golden.index["schedules"]:
        rule = "unipc" if entry["family"] == "wan" else "flow_match"
        native, expected = (golden.arrays[entry["key"] + end] for end in ("_native", ""))
        ours = regime_split(torch.from_numpy(native), entry["split"], entry["low_steps"], rule)
        assert_grid(ours)
        assert len(ours) - 1 == entry["calls"]
        torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=1e-6)


def test_qwen_grid_is_the_official_pipelines(golden):
    entries = [e for e in golden.index["schedules"] if e["family"] == "qwen"]
    assert {e["native_steps"] for e in entries} == {20, 30, 50}
    for entry in entries:
        official = torch.from_numpy(golden.arrays[entry["key"] + "_native"]).double()
        assert entry["base"]["mu"] == pytest.approx(qwen_mu(4096), abs=1e-15)
        for ours in (
            qwen_grid(entry["native_steps"]),
            qwen_grid(entry["native_steps"], entry["base"]["mu"], entry["base"]["shift_terminal"]),
        ):
            torch.testing.assert_close(ours, official, rtol=0, atol=1e-6)


def test_qwen_mu_is_the_line_through_the_pipelines_two_points():
    assert qwen_mu(256) == 0.5 and qwen_mu(8192) == pytest.approx(0.9, abs=1e-15)
    assert qwen_mu(6889) - qwen_mu(4096) == pytest.approx((6889 - 4096) * 0.4 / 7936, abs=1e-15)


@pytest.mark.parametrize("steps", [1, 2, 3, 30])
@pytest.mark.parametrize("terminal", [0.02, 0.2])
def test_qwen_grid_obeys_the_laws_and_keeps_its_terminal(steps, terminal):
    ts = qwen_grid(steps, 0.9, terminal)
    assert_grid(ts)
    assert ts[0] == 1 and len(ts) == steps + 1
    if steps > 1:
        assert float(ts[-2]) == pytest.approx(terminal, abs=1e-15)
        # The stretch is affine: ratios of distances from noise are those of the shifted grid.
        plain = 1 - shift(uniform_grid(steps), math.exp(0.9))[1:-1]
        torch.testing.assert_close((1 - ts[1:-1]) / (1 - ts[1]), plain / plain[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, 5.0, 12.0])
@pytest.mark.parametrize("t", [0.001, 0.3, 0.875, 0.9, 0.999])
def test_with_node_moves_the_nearest_inner_node_and_nothing_else(t, factor, dtype):
    for steps in (2, 3, 8, 30):
        ts = shift(uniform_grid(steps), factor).to(dtype)
        moved = with_node(ts, t)
        assert_grid(moved)
        changed = (moved != ts).nonzero().flatten().tolist()
        nearest = min(range(1, steps), key=lambda i: abs(float(ts[i]) - t))
        assert changed in ([], [nearest])
        assert moved[nearest] == torch.tensor(t, dtype=dtype)


def test_with_node_at_the_edges():
    ts = torch.tensor([0.8, 0.4, 0.0])
    for outside in (0.0, 0.8, 0.875, 1.0):
        assert torch.equal(with_node(ts, outside), ts)
    torch.testing.assert_close(
        with_node(torch.tensor([1.0, 0.0]), 0.9), torch.tensor([1.0, 0.9, 0.0])
    )


@rules
@pytest.mark.parametrize("factor", [0.3, 1.0, 3.0, 5.0, 8.0, 12.0, 40.0])
@pytest.mark.parametrize("split", [0.5, 0.85, 0.99])
def test_split_to_length_has_exactly_that_many_calls(factor, split, rule):
    def native(steps):
        return shift(uniform_grid(steps), factor)

    for calls in range(1, 61):
        ts = split_to_length(native, calls, split, rule)
        assert len(ts) == calls + 1 and ts[0] == 1
        assert_grid(ts)
        assert any(
            torch.isin(ts, whole).all() and torch.equal(ts[ts >= split], whole[whole >= split])
            for whole in map(native, range(calls, round(1.5 * calls) + 1))
        )


def test_split_to_length_is_the_papers_grid_at_20_calls():
    for factor, steps in ((3.0, 30), (math.exp(1.15), 30), (5.0, 25), (8.0, 22)):
        ts = split_to_length(lambda n, s=factor: shift(uniform_grid(n), s), 20, 0.85)
        whole = shift(uniform_grid(steps), factor)
        expected = regime_split(whole, 0.85, 20 - split_index(whole, 0.85))
        torch.testing.assert_close(ts, expected, rtol=0, atol=1e-12)
    # At shift 12 seven of ten steps lie above the split: no longer grid leaves enough below.
    ts = split_to_length(lambda n: shift(uniform_grid(n), 12.0), 20, 0.85)
    assert torch.equal(ts, shift(uniform_grid(20), 12.0))


def test_split_to_length_passes_over_grids_that_repeat_values():
    def table(steps):  # as a host does it: nearest entry of a table of 40
        return uniform_grid(40)[(torch.arange(steps + 1) * 40 / steps).long()]

    for calls in (20, 30, 40):
        ts = split_to_length(table, calls, 0.85)
        assert_grid(ts)
        assert len(ts) == calls + 1


def test_pictures_too_large_for_qwen_s_grid_are_refused_in_words():
    assert (qwen_grid(30, qwen_mu(384 * 384)).diff() < 0).all()
    for tokens in (30_000**2, 10**12, -(10**12)):
        with pytest.raises(InvalidInput, match="too large for Qwen-Image's own grid"):
            qwen_grid(30, qwen_mu(tokens))
