"""What holds for every time grid, rule of calls, calibration's list and SiT file."""

from typing import Any

import torch
from hypothesis import strategies as st

from sv_core.call_rules import CALL_RULES, adaptive_block, call_nodes, density
from sv_core.errors import InvalidInput
from sv_core.latent import LatentSpec
from sv_core.models.sit import SiTConfig
from sv_core.schedules import (
    THINNING_RULES,
    ode_grid,
    qwen_grid,
    qwen_mu,
    regime_split,
    shift,
    split_index,
    split_to_length,
    uniform_grid,
    with_node,
)
from tests.nodes.host_free import host_free

grid_check = host_free("grid_check")

LEVELS = st.floats(0, 1, width=32)
GRIDS = st.lists(LEVELS, min_size=2, max_size=60, unique=True).map(
    lambda levels: sorted(levels, reverse=True)
)
"""Descending, of 1 to 59 steps, of any levels at all."""
NUMBERS = st.floats(allow_nan=True, allow_infinity=True, width=32)
ANYTHING = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
STEPS = st.integers(1, 200)


def calls_are_nodes_of_the_grid(grid: list[float], calls: int, rule: str) -> None:
    try:
        nodes = call_nodes(grid, calls, rule)
    except InvalidInput as e:
        assert rule == "guarded" and "needs at least" in str(e)
        return
    steps = len(grid) - 1
    assert nodes == sorted(set(nodes)) and nodes[0] == 0 and nodes[-1] < steps
    assert rule == "safe" or len(nodes) == min(calls, steps)


def shares_of_calls_never_fall(grid: list[float], calls: int, early: float) -> None:
    import numpy as np

    share = density(np.array(grid), calls, early)
    assert share.shape == (len(grid),) and np.isfinite(share).all()
    assert share[0] == 0 and abs(share[-1] - 1) < 1e-9 and (np.diff(share) > -1e-12).all()


def blocks_stay_in_the_grid(grid: list[float], k: int, back: int, bend: float) -> None:
    k = k % (len(grid) - 1)
    called = [k, max(k - back, 0), 0] if k else [0]
    block = adaptive_block(grid, called, bend if len(set(called)) == 3 else None, 0.02)
    assert 1 <= block <= 6 and k + block <= len(grid) - 1


def thinning_keeps_a_part(grid: list[float], split: float, low_steps: int, rule: str) -> None:
    ts = torch.tensor([*grid[:-1], 0.0])
    try:
        kept = regime_split(ts, split, low_steps, rule)
    except InvalidInput:
        return
    assert (kept.diff() < 0).all() and kept[0] == ts[0] and kept[-1] == ts[-1]
    assert set(kept.tolist()) <= set(ts.tolist())
    assert kept[: split_index(ts, split)].tolist() == ts[: split_index(ts, split)].tolist()


def a_split_grid_has_the_length_that_was_asked_for(calls: int, factor: float, split: float) -> None:
    made = split_to_length(lambda n: shift(uniform_grid(n), factor), calls, split)
    assert len(made) == calls + 1 and (made.diff() < 0).all()
    assert made[0] == 1 and made[-1] == 0


def a_moved_node_is_in_the_grid(grid: list[float], t: float) -> None:
    ts = torch.tensor(grid)
    moved = with_node(ts, t)
    assert len(moved) - len(ts) in (0, 1) and (moved.diff() <= 0).all()
    if ts[-1] < t < ts[0]:
        assert t in moved.tolist()


def shifts_undo_each_other(steps: int, factor: float) -> None:
    there = shift(uniform_grid(steps), factor)
    assert (there.diff() < 0).all() and there[0] == 1 and there[-1] == 0
    assert torch.allclose(shift(there, 1 / factor), uniform_grid(steps), atol=1e-9)


def own_grids_descend(steps: int, tokens: int) -> None:
    for make in (lambda: ode_grid(steps), lambda: qwen_grid(steps, qwen_mu(tokens))):
        try:
            grid = make()
        except InvalidInput as e:
            assert "too large" in str(e)
            continue
        assert len(grid) == steps + 1 and (grid.diff() < 0).all()
        assert grid_check.require_flow_grid(grid) is not None


def a_grid_is_taken_or_refused_in_words(values: list[float], highest: float) -> None:
    ts = torch.tensor(values, dtype=torch.float64)
    sound = len(ts) > 0 and bool(
        ts.isfinite().all()
        and (ts >= 0).all()
        and (ts <= highest * (1 + grid_check.ROUNDING)).all()
        and (ts.diff() < 0).all()
    )
    try:
        grid_check.require_flow_grid(ts, highest=highest)
    except ValueError as e:
        assert type(e).__name__ == "InvalidInput" and "\n" not in str(e)
        assert not sound
    else:
        assert sound


def sizes_are_taken_or_refused_in_words(fields: dict[str, Any]) -> None:
    try:
        config = SiTConfig(**fields)
    except InvalidInput as e:
        assert str(e) and len(str(e)) < 400
    else:
        assert config.hidden_size % config.num_heads == 0
        assert config.input_size % config.patch_size == 0


def latents_are_taken_or_refused_in_words(channels: Any, scale: Any, shift: Any) -> None:
    try:
        spec = LatentSpec("sd", channels, scale, shift, 8)
    except InvalidInput as e:
        assert str(e) and len(str(e)) < 400
    else:
        x = torch.ones(1, min(spec.channels, 64), 2, 2)
        if spec.channels <= 64 and 1e-3 < abs(_first(spec.scale)) < 1e3:
            assert spec.from_model(spec.to_model(x)).shape == x.shape


def _first(value: float | tuple[float, ...]) -> float:
    return value[0] if isinstance(value, tuple) else value


_SIZE = st.integers(-1, 64) | ANYTHING
_FIELDS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("input_size", "patch_size", "in_channels", "depth"), _SIZE),
        **dict.fromkeys(("hidden_size", "num_heads", "num_classes", "mlp_ratio"), _SIZE),
        **dict.fromkeys(("learn_sigma", "data_time", "interval"), ANYTHING),
    },
)
_SCALE = ANYTHING | st.lists(ANYTHING, max_size=4)

LAWS = [
    (
        calls_are_nodes_of_the_grid,
        {"grid": GRIDS, "calls": st.integers(2, 70), "rule": st.sampled_from([*CALL_RULES])},
    ),
    (
        shares_of_calls_never_fall,
        {"grid": GRIDS, "calls": st.integers(2, 70), "early": st.floats(0, 8)},
    ),
    (
        blocks_stay_in_the_grid,
        {
            "grid": GRIDS,
            "k": st.integers(0, 60),
            "back": st.integers(1, 6),
            "bend": st.floats(0, 1e9),
        },
    ),
    (
        thinning_keeps_a_part,
        {
            "grid": GRIDS,
            "split": st.floats(-0.5, 1.5),
            "low_steps": st.integers(-1, 70),
            "rule": st.sampled_from([*THINNING_RULES]),
        },
    ),
    (
        a_split_grid_has_the_length_that_was_asked_for,
        {"calls": st.integers(1, 60), "factor": st.floats(0.1, 20), "split": st.floats(0.05, 0.95)},
    ),
    (a_moved_node_is_in_the_grid, {"grid": GRIDS, "t": LEVELS}),
    (shifts_undo_each_other, {"steps": STEPS, "factor": st.floats(0.05, 50)}),
    (own_grids_descend, {"steps": STEPS, "tokens": st.integers(0, 10**9)}),
    (
        a_grid_is_taken_or_refused_in_words,
        {
            "values": st.lists(NUMBERS | LEVELS, max_size=6) | GRIDS,
            "highest": st.sampled_from([1.0, 80.0]),
        },
    ),
    (sizes_are_taken_or_refused_in_words, {"fields": _FIELDS}),
    (
        latents_are_taken_or_refused_in_words,
        {"channels": st.integers(1, 4) | ANYTHING, "scale": _SCALE, "shift": _SCALE},
    ),
]
"""Each law, and what its arguments are drawn from; ``properties`` tries them."""
