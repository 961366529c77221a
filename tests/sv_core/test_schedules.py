"""sv_core.schedules against the laws that every grid obeys, and the official code's grids."""

import math

import pytest
import torch

from sv_core.schedules import RULES, low_count, regime_split, shift, split_index, uniform_grid

rules = pytest.mark.parametrize("rule", RULES)


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
            index = RULES[rule](count, keep).round()
            assert index[0] == 0 and index[-1] <= count - 1
            assert (index.diff() >= 1).all()


def test_rules_differ_in_where_they_end():
    ts = uniform_grid(10)
    kept = {rule: regime_split(ts, 0.95, 4, rule) for rule in RULES}
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
    with pytest.raises(ValueError, match="split must lie between 0 and 1"):
        regime_split(uniform_grid(10), split, 3)


@rules
def test_too_many_and_too_few_low_steps(rule):
    ts = uniform_grid(10)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        regime_split(ts, 0.85, 0, rule)
    # 0.8 ... 0.1 lie below the split.
    with pytest.raises(ValueError, match=r"low_steps is 9, but only 8 of the grid's 10 steps"):
        regime_split(ts, 0.85, 9, rule)


def test_unknown_rule_names_the_known():
    with pytest.raises(ValueError, match=r"'middle' \(have: flow_match, unipc\)"):
        regime_split(uniform_grid(10), 0.85, 3, "middle")


def test_official_grids(golden):
    for entry in golden.index["schedules"]:
        rule = "unipc" if entry["family"] == "wan" else "flow_match"
        native, expected = (golden.arrays[entry["key"] + end] for end in ("_native", ""))
        ours = regime_split(torch.from_numpy(native), entry["split"], entry["low_steps"], rule)
        assert_grid(ours)
        assert len(ours) - 1 == entry["calls"]
        torch.testing.assert_close(ours, torch.from_numpy(expected), rtol=0, atol=1e-6)
