"""Checks of forecasts in the host's own interpreter: PACK RESULTS, in its folder.

Every ``check_*``, here and in the modules of ``PARTS``, raises AssertionError or returns;
``test_forecast.py`` reads the results.
"""

import json
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from forecast_host import (
    EULER,
    FIXED,
    MODES,
    SEEN,
    Log,
    Sampler,
    call_rules,
    conditions,
    decibels,
    grid_of,
    planned,
    planned_samplers,
    run,
)
from inside_host import GRID, SHAPE, SPREAD, Scheduler, complaint, latent, sample, stable

import comfy.sample  # isort: skip  after inside_host, which starts the host
import comfy.samplers
import torch

PARTS = ("inside_calibration", "inside_queue", "inside_situations")


def check_a_call_at_every_step_is_the_base_solver():
    base = run(EULER, GRID)
    for part in (GRID, GRID[15:], GRID[:9], GRID[-2:]):
        theirs, ours = run(EULER, part), run(planned(calls=30), part)
        assert (ours - theirs).abs().max() < 2e-6 * theirs.abs().max(), len(part)
    for mode in ("self-calibrating", "forecast"):
        assert torch.equal(run(planned(calls=30, mode=mode), GRID), run(planned(calls=30), GRID))
    few = grid_of(12)
    assert torch.equal(run(FIXED, few), run(planned(calls=12), few))
    assert (run(FIXED, few) - run(EULER, few)).abs().max() < 2e-6 * base.abs().max()


def check_solvers_agree_with_the_host_s_own():
    # The host's UniPC has order 3 and stops at 0.001.
    for solver, name in (("euler", "euler"), ("dpmpp_2m", "dpmpp_2m"), ("unipc", "uni_pc_bh2")):
        theirs = run(comfy.samplers.sampler_object(name), GRID.clone())
        found = decibels(run(planned(solver=solver, calls=30), GRID), theirs)
        assert found > {"euler": 100, "dpmpp_2m": 100, "unipc": 30}[solver], (solver, found)


def check_14_calls_beat_the_paper_s_20_at_every_solver():
    sigmas = Scheduler.execute(MODES, "simple", 30, 1.0, 0.85, 9, "flow_match").args[0]
    assert len(sigmas) == 21
    base = run(EULER, GRID)
    paper = decibels(run(stable(), sigmas), base)
    for sampler in (planned(), planned(rule="density"), FIXED):
        assert decibels(run(sampler, GRID), base) > paper + 8, paper
    for solver in ("ab2", "unipc"):
        whole = run(planned(solver=solver, calls=30), GRID)
        assert decibels(run(planned(solver=solver), GRID), whole) > paper


def check_the_bar_counts_calls_and_ends_full():
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
    assert len(in_steps) == 14 and in_steps[-1] == (30, 30)
    assert [i for i, _ in in_steps] == sorted({i for i, _ in in_steps})


def check_calls_are_counted_in_words_and_really_made():
    for sampler, words in ((planned(), "14 of 30 calls"), (FIXED, "14 of 30 calls at 0 ")):
        SEEN.clear()
        with Log() as log:
            run(sampler, GRID)
        assert len(SEEN) == 14 and any(words in line for line in log.lines), log.lines
        asked = [k for k in range(30) if any(abs(float(GRID[k]) - t) < 1e-6 for t in SEEN)]
        assert asked == call_rules.call_nodes(GRID.tolist(), 14)


def check_ksampler_s_stable_vs_makes_14_calls_of_30():
    def ksampler(name, steps, denoise=1.0, **options):
        SEEN.clear()
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        positive, negative = conditions()
        made = comfy.sample.sample(
            MODES, noise, steps, 1.0, name, "simple", positive, negative, torch.zeros(SHAPE),
            denoise=denoise, disable_pbar=True, seed=1, **options,
        )  # fmt: skip
        return made, len(SEEN)

    for denoise in (1.0, 0.6):
        (base, every), (ours, made) = (ksampler(n, 30, denoise) for n in ("euler", "stable_vs"))
        assert (every, made) == (30, 14) and decibels(ours, base) > 30, (denoise, made)
    first, made = ksampler("stable_vs", 30, last_step=15, force_full_denoise=False)
    assert made == 8 and first.isfinite().all()
    assert ksampler("stable_vs", 12)[1] == 12


def check_the_fixed_form_s_calls():
    for steps, wanted in ((1, 1), (2, 2), (8, 8), (14, 14), (15, 14), (30, 14), (60, 14)):
        assert planned_samplers.fixed_calls(grid_of(steps)) == wanted
    for part, wanted in ((GRID[15:], 8), (GRID[:16], 8), (GRID[:5], 4), (GRID[10:], 10)):
        assert planned_samplers.fixed_calls(part) == wanted
    assert planned_samplers.fixed_calls(grid_of(30, 0.5)) == 14
    for part in (GRID[3:4], GRID[-1:]):
        assert run(FIXED, part).isfinite().all()


def check_ode_is_nearer_to_the_exact_law():
    def worst(x):  # of data N(0, SPREAD^2) the exact solution from noise is SPREAD x noise
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        return float((x * latent.SD_VAE.scale - SPREAD * noise).abs().max())

    assert worst(sample(planned(mode="ode", calls=12), GRID)) < worst(sample(EULER, GRID)) / 3
    part = GRID[4:20]
    assert planned_samplers.ode_sigmas(part, 7)[[0, -1]].equal(part[[0, -1]])
    assert planned_samplers.ode_sigmas(part, 15) is part


def check_settings_that_contradict_are_refused_in_words():
    def words(**changes):
        given = {"base": "euler", "split": 0.85, "noise": 0.0} | changes
        return complaint(lambda: Sampler.execute(**given))

    assert "noise 0.1 is for mode paper" in words(mode="forecast", noise=0.1)
    assert "choose mode forecast" in words(nodes="0 2 4")
    assert "grid of its own" in words(mode="ode", nodes="0 2 4")
    assert "whole numbers" in words(mode="forecast", nodes="0 two 4")
    assert "begin with 0 and ascend" in words(mode="forecast", nodes="1 2 4")
    assert "begin with 0 and ascend" in words(mode="forecast", nodes="0 4 4")
    assert "no mode" in words(mode="fast")
    assert "belongs to another grid" in complaint(lambda: run(planned(nodes=(0, 40)), GRID))
    assert "guarded rule needs" in complaint(lambda: run(planned(calls=3, rule="guarded"), GRID))
    assert "tolerance must be above 0" in complaint(
        lambda: run(planned(mode="adaptive", tolerance=0.0), GRID)
    )
    for bad in ([0.0, 0.5, 1.0], [1.0, 0.5, 0.5, 0.0], [1.0, float("nan"), 0.0]):
        for sampler in (planned(), FIXED):
            assert "descend" in complaint(lambda: run(sampler, torch.tensor(bad)))  # noqa: B023


def main():
    results = {}
    found = [item for part in PARTS for item in vars(import_module(part)).items()]
    for name, check in [*found, *globals().items()]:
        if name.startswith("check_"):
            began = time.perf_counter()
            try:
                check()
                results[name.removeprefix("check_")] = None
            except Exception:
                results[name.removeprefix("check_")] = traceback.format_exc(limit=-3)
            print(f"{time.perf_counter() - began:7.2f} s  {name}", file=sys.stderr)
    Path(sys.argv[2]).write_text(json.dumps(results))


main()
