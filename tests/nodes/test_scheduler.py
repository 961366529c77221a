"""Grids in two pieces: for a model, for given SIGMAS, for two experts."""

import comfy.model_base
import comfy.samplers
import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicScheduler

import nodes
from tests.nodes.loaded_pack import (
    GRID,
    MODEL,
    SHAPE,
    Scheduler,
    complaint,
    make_model,
    sample,
    sit_model,
    stable,
)

pytestmark = pytest.mark.inside

Sigmas = nodes.NODE_CLASS_MAPPINGS["RegimeSplitSigmas"]


def test_scheduler_splits_after_slicing():
    sigmas, high, low, calls, report, *_ = Scheduler.execute(
        MODEL, "simple", 30, 1.0, 0.85, 9, "flow_match"
    ).args
    assert calls == len(sigmas) - 1 == 20 and "10 saved" in report, report
    assert (len(high), len(low)) == (12, 10) and high[-1] == low[0] and low[-1] == 0
    assert (high[:-1] >= 0.85).all() and (low < 0.85).all()
    sigmas, high, low, calls, report, *_ = Scheduler.execute(
        MODEL, "simple", 30, 0.3, 0.85, 9, "flow_match"
    ).args
    assert sigmas[0] == BasicScheduler().get_sigmas(MODEL, "simple", 30, 0.3)[0][0] < 0.85
    assert calls == 9 and len(high) == 1 and torch.equal(low, sigmas), report


def test_scheduler_says_where_nothing_is_saved():
    for steps, denoise, low_steps, calls in ((1, 1.0, 9, 1), (20, 0.0, 9, 0), (30, 1.0, 19, 30)):
        out = Scheduler.execute(MODEL, "simple", steps, denoise, 0.85, low_steps, "flow_match").args
        assert out[3] == calls and ("nothing" in out[4]), out[4]
        assert len(out[0]) == (calls + 1 if calls else 0)


def test_split_pieces_sampled_in_two_stages_equal_one_run():
    sigmas, high, low, *_ = Scheduler.execute(MODEL, "simple", 30, 1.0, 0.85, 9, "unipc").args
    whole = sample(stable(), sigmas)
    first = sample(stable(), high)
    positive = sit_model.conditioning_from_classes([0])
    second = comfy.sample.sample_custom(
        MODEL, torch.zeros(SHAPE), 1.0, stable(), low, positive, positive, first,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    assert (whole - second).abs().max() < 2e-5 * whole.abs().max()


def test_boundary_is_a_node_that_the_experts_share():
    for boundary in (0.875, 0.9, 0.3, 0.999):
        for shift in (3.0, 5.0, 8.0, 12.0):
            model = make_model(shift)
            plain = Scheduler.execute(model, preset="Wan2.2").args
            out = Scheduler.execute(model, preset="Wan2.2", boundary=boundary).args
            sigmas, first, second = out[0], out[5], out[6]
            assert out[3] == plain[3] and int((sigmas != plain[0]).sum()) <= 1
            assert first[-1] == second[0] == torch.tensor(boundary)
            assert torch.equal(torch.cat([first, second[1:]]), sigmas)
            told = f"boundary {boundary:g}: {len(first) - 1} calls of the high-noise expert, "
            assert told + f"{len(second) - 1} of the low" in out[4], out[4]
    one = Scheduler.execute(MODEL, preset="auto").args
    assert torch.equal(one[5], one[0]) and one[6].tolist() == [0.0] and "expert" not in one[4]
    late = Scheduler.execute(MODEL, preset="auto", denoise=0.5, boundary=0.875).args
    assert len(late[5]) == 1 and torch.equal(late[6], late[0])
    none = Scheduler.execute(MODEL, preset="auto", denoise=0.0, boundary=0.875).args
    assert not len(none[5]) and not len(none[6])
    words = complaint(lambda: Scheduler.execute(MODEL, preset="auto", boundary=1.0))
    assert "boundary must lie between 0" in words


def test_experts_in_two_stages_equal_one_run():
    out = Scheduler.execute(MODEL, preset="Wan2.2", boundary=0.875).args
    whole, first = sample(stable("euler"), out[0]), sample(stable("euler"), out[5])
    positive = sit_model.conditioning_from_classes([0])
    second = comfy.sample.sample_custom(
        MODEL, torch.zeros(SHAPE), 1.0, stable("euler"), out[6], positive, positive, first,
        disable_pbar=True, seed=1,
    )  # fmt: skip
    assert (whole - second).abs().max() < 2e-5 * whole.abs().max()


def test_sigmas_node_does_the_same_to_any_grid():
    for shift in (1.0, 3.0, 8.0):
        model = make_model(shift)
        native = BasicScheduler().get_sigmas(model, "simple", 30, 1.0)[0]
        for boundary in (0.0, 0.875):
            for rule in ("flow_match", "unipc"):
                theirs = Scheduler.execute(
                    model, "simple", 30, 1.0, 0.85, 9, rule, boundary=boundary
                ).args
                ours = Sigmas.execute(native, 0.85, 9, rule, boundary).args
                for a, b in zip(ours, theirs, strict=True):
                    assert torch.equal(a, b) if torch.is_tensor(a) else a == b, (a, b)
    short = Sigmas.execute(GRID[-5:]).args
    assert short[3] == 4 and "only 4 steps lie below the split" in short[4]
    above = Sigmas.execute(GRID[:6]).args
    assert torch.equal(above[0], GRID[:6]) and "no step lies below" in above[4]
    assert not len(Sigmas.execute(torch.zeros(0)).args[0])
    assert "flow-matching" in complaint(lambda: Sigmas.execute(GRID * 14.6))
    assert "does not descend" in complaint(lambda: Sigmas.execute(GRID.flip(0)))
