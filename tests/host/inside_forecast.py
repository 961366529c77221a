"""Checks of forecasts and calibrations in the host's own interpreter: PACK RESULTS, in its folder.

Every ``check_*`` raises AssertionError or returns; ``test_forecast.py`` reads the results.
"""

import gc
import json
import logging
import math
import sys
import tempfile
import traceback
from functools import partial
from importlib import import_module
from pathlib import Path

from inside_host import (
    GRID,
    MODEL,
    NAME,
    SHAPE,
    SPREAD,
    Scheduler,
    complaint,
    host,
    host_model,
    latent,
    make_model,
    sample,
    sit,
    stable,
)

import comfy.model_management  # isort: skip  after inside_host, which starts the host
import comfy.model_patcher
import comfy.samplers
import folder_paths
import numpy as np
import torch

import nodes

calibrate = import_module(".nodes.calibrate", NAME)
calibration = import_module(".nodes.calibration", NAME)
forecast = import_module(".nodes.forecast", NAME)
recording = import_module(".nodes.recording", NAME)
calls = import_module(".sv_core.calls", NAME)
Plan, Planned = forecast.Plan, forecast.PlannedSampler
Sampler = nodes.NODE_CLASS_MAPPINGS["StableVSSampler"]
EULER = comfy.samplers.sampler_object("euler")
FIXED = comfy.samplers.KSAMPLER(forecast.sample_fixed)


class Digits(torch.nn.Module):
    """The exact flow of 40 points in every sample's plane of four numbers: modes to decide."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.config, self.blocks = sit.SiTConfig(input_size=16, num_classes=3), []
        self.pos_embed = torch.nn.Parameter(torch.zeros(1))
        self.means = torch.randn(40, 4, generator=generator)
        self.seen = []

    def forward(self, x, t, **options):
        self.seen.append(float(t[0]))
        t = t.view(-1, *[1] * (x.ndim - 1))
        shape, points = x.shape, x.movedim(1, -1)
        points, t = points.reshape(-1, 4), t.expand(x.shape[0], 1, *x.shape[2:]).reshape(-1, 1)
        a, s2 = 1 - t, ((1 - t) * 0.3) ** 2 + t**2
        w = ((a * points @ self.means.T - 0.5 * a**2 * self.means.square().sum(1)) / s2).softmax(1)
        mean = w @ self.means
        v = (t - a * 0.09) / s2 * (points - a * mean) - mean
        return v.reshape(shape[0], *shape[2:], 4).movedim(-1, 1)


def make_modes(seed=0):
    model = host_model.SiTModel(Digits(seed), latent.SD_VAE, 3.0)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


MODES = make_modes()
SEEN = MODES.model.diffusion_model.seen
run = partial(sample, model=MODES)


def grid_of(steps, denoise=1.0):
    return host.host_grid(MODES, "simple", steps, denoise)


def planned(**settings):
    return Planned(Plan(**settings))


def decibels(x, reference):
    error = float((x - reference).square().mean().sqrt() / reference.std())
    return -20 * math.log10(max(error, 1e-10))


def noted(**settings):
    """A run's samples and what it noted."""
    notes = []
    x = run(planned(note=notes.append, **settings), GRID)
    return x, notes


class Log(logging.Handler):
    """What is logged while the block runs."""

    def __enter__(self):
        self.lines = []
        logging.disable(logging.NOTSET)
        self.level_before = logging.getLogger().level
        logging.getLogger().setLevel(logging.INFO)
        logging.getLogger().addHandler(self)
        return self

    def emit(self, record):
        self.lines.append(record.getMessage())

    def __exit__(self, *error):
        logging.getLogger().removeHandler(self)
        logging.getLogger().setLevel(self.level_before)
        logging.disable(logging.WARNING)


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
        assert asked == calls.call_nodes(GRID.tolist(), 14)


def check_a_list_that_a_run_chose_is_replayed_bit_for_bit():
    for mode in ("adaptive", "self-calibrating"):
        first, notes = noted(mode=mode, tolerance=0.03, calls=13)
        assert notes == [{"mode": mode, "solver": "euler", "steps": 30, "nodes": notes[0]["nodes"]}]
        again = run(planned(nodes=calibration.read_nodes(notes[0]["nodes"])), GRID)
        assert torch.equal(first, again), mode
    assert noted()[1] == []  # a fixed list is in the graph already


def check_a_queue_learns_from_its_first_picture():
    forecast._found.clear()
    early = calibration.write_nodes(calls.call_nodes(GRID.tolist(), 10, "early"))
    lists = [noted(mode="self-calibrating", calls=10)[1][0]["nodes"] for _ in range(3)]
    assert lists[0] == early != lists[1] == lists[2], lists
    assert noted(mode="self-calibrating", calls=11)[1][0]["nodes"].count(" ") == 10
    other = make_modes(seed=1)  # equal in class and shapes, but other weights: starts anew
    notes = []
    sample(planned(mode="self-calibrating", calls=10, note=notes.append), GRID, model=other)
    assert notes[0]["nodes"] == early and len(forecast._found) == 2
    lora = MODES.clone()
    lora.patches_uuid = "other"
    sample(planned(mode="self-calibrating", calls=10, note=notes.append), GRID, model=lora)
    assert notes[1]["nodes"] == early
    for i in range(forecast.REMEMBERED + 3):
        forecast._lists(MODES)["another grid", i] = (0,)
    run(planned(mode="self-calibrating", calls=9), GRID)
    assert len(forecast._lists(MODES)) <= forecast.REMEMBERED
    del other
    gc.collect()
    assert len(forecast._found) == 1, "the lists of a model that is gone stay"


def check_a_diverged_run_teaches_nothing():
    forecast._found.clear()
    broken = MODES.clone()
    broken.set_model_sampler_post_cfg_function(lambda a: a["denoised"] * float("nan"))
    with Log() as log:
        sample(planned(mode="self-calibrating", calls=10), GRID, model=broken)
    assert any("diverged" in line for line in log.lines) and not forecast._lists(MODES)


def recorded(grid=GRID, model=MODES, runs=2):
    guider = calibrate.make_guider(None, model, *conditions(), 1.0)
    gram = recording.record_runs(guider, {"samples": torch.zeros(2, *SHAPE[1:])}, grid, runs, 5)
    return recording.calibration_from(gram, model, grid, runs, 5)


def conditions():
    return [host_model.conditioning_from_classes(c) for c in ([0], None)]


def check_calibrated_calls_are_nearer_than_fixed_ones():
    found = recorded(runs=4)
    base = run(EULER, GRID)
    for n in (8, 10):
        ours = decibels(run(planned(mode="calibrated", calls=n, calibration=found), GRID), base)
        assert ours > decibels(run(planned(calls=n), GRID), base), n
    assert len(found.drift) == 29 and sorted(found.nodes) == [*range(6, 21)]
    everywhere = run(planned(mode="calibrated", calls=30, calibration=found), GRID)
    assert torch.equal(everywhere, run(planned(calls=30), GRID))


def check_recorded_runs_are_the_host_s_euler():
    seen = []
    options = {"recorder": lambda k, x, v, t: seen.append((k, x - t * v))}
    recorder = comfy.samplers.KSAMPLER(recording.record_euler, options)
    x, theirs = (run(s, GRID, seed=5, shape=(2, *SHAPE[1:])) for s in (recorder, EULER))
    assert (x - theirs).abs().max() < 2e-6 * theirs.abs().max()
    assert [k for k, _ in seen] == [*range(30)]
    # Seeds count on and products add up: two runs are the sum of the runs of either seed.
    guider = calibrate.make_guider(None, MODES, *conditions(), 1.0)
    batch = {"samples": torch.zeros(1, *SHAPE[1:])}
    both = recording.record_runs(guider, batch, GRID, 2, 5)
    parts = sum(recording.record_runs(guider, batch, GRID, 1, seed) for seed in (5, 6))
    assert abs(both - parts).max() < 1e-9 * both.max() and (both.diagonal() > 0).all()


def check_the_plateau_is_named_only_where_there_is_one():
    turning = recorded(runs=1)
    assert turning.split is None or 0.2 < turning.split < 1
    times = GRID.double().numpy()[:-1]
    for rise, has in ((0.0, False), (3.0, True)):  # a rotation whose speed grows towards noise
        angle = 0.3 * times + rise * times**4
        gram = np.cos(angle[:, None] - angle[None, :])
        found = recording.calibration_from(gram, MODES, GRID, 1, 0)
        assert (found.split is not None) == has, (rise, found.split)
        assert calibrate.plot_drift(found, 10).shape == (640, 1200, 3)
        assert ("leaves its plateau" in calibrate.describe(found, 10, "x.json")) == has


def check_calibrations_of_others_are_refused_in_words():
    found = recorded(runs=1)
    for model in (MODES, make_modes(3)):  # the weights' values do not count
        assert found.nodes_for(model, GRID, 10) == found.nodes[10]
    wide = make_model()
    wide.model.diffusion_model.extra = torch.nn.Linear(3, 4)
    assert "weights have other shapes" in complaint(lambda: found.nodes_for(wide, GRID, 10))
    other = make_model()
    other.model.__class__ = type("Flux", (type(other.model),), {})
    assert "of the class SiTModel, this is Flux" in complaint(
        lambda: found.nodes_for(other, GRID, 10)
    )
    for grid, words in (
        (host.host_grid(make_model(5.0), "simple", 30, 1.0), "30 other noise levels"),
        (grid_of(20), "a grid of 30 steps, SIGMAS has 20"),
        (grid_of(30, 0.5), "30 other noise levels"),
    ):
        assert words in complaint(lambda: found.nodes_for(MODES, grid, 10))  # noqa: B023
    assert "choose 6 to 20" in complaint(lambda: found.nodes_for(MODES, GRID, 5))
    assert "connect StableVS Calibration Loader" in complaint(
        lambda: Sampler.execute("euler", 0.85, 0.0, mode="calibrated")
    )


def check_calibration_files_stay_where_they_belong():
    before = folder_paths.get_output_directory()
    with tempfile.TemporaryDirectory() as out:
        folder_paths.set_output_directory(out)
        try:
            found = recorded(runs=1)
            name = calibration.save(found)
            assert calibration.load(name) == found and calibration.names() == [name]
            text = (Path(out) / "stable_velocity" / name).read_text("utf-8")
            assert "0 " in text and len(text) < 4000 and str(Path.home()) not in text
            assert calibration.save(found) == name  # the same model and grid are replaced
            for evil in ("../../evil", "/etc/x", "..", "a/../../b\\c", "C:\\x", "\0"):
                try:
                    made = calibration.save(found, evil)
                except ValueError as e:
                    assert "no name for a file" in str(e)
                else:
                    assert (Path(out) / "stable_velocity" / made).is_file()
            inside = {p.parent for p in Path(out).rglob("*") if p.is_file()}
            assert inside == {Path(out) / "stable_velocity"}
            assert "is not in" in complaint(lambda: calibration.load("../stable_velocity/" + name))
            other = recorded(grid_of(20), runs=1)
            calibration.save(found, "mine")
            assert "another model or grid" in complaint(lambda: calibration.save(other, "mine"))
            assert calibration.load("mine.json") == found
            for bad in ("", "{}", "[]", "null", text[:300], text.replace("0 ", "7 "), "\x00"):
                (Path(out) / "stable_velocity" / "bad.json").write_text(bad)
                words = complaint(lambda: calibration.load("bad.json"))
                assert "no calibration, or damaged" in words and len(words) < 300, words
        finally:
            folder_paths.set_output_directory(before)


def check_calibrate_says_what_is_missing():
    good = {"sigmas": GRID, "latent": {}, "cfg": 1.0, "runs": 1, "calls": 10, "first_seed": 0}

    def words(**changes):
        return complaint(lambda: calibrate.StableVSCalibrate.execute(**good | changes))

    positive, negative = conditions()
    guider = calibrate.make_guider(None, MODES, positive, negative, 1.0)
    assert "connect model and positive, or a guider" in words()
    assert "either a guider, or model" in words(guider=guider, model=MODES)
    assert "cfg 2 needs negative" in words(model=MODES, positive=positive, cfg=2.0)
    assert "8 to 100 can be calibrated" in words(guider=guider, sigmas=grid_of(5))
    assert "calls must lie between 6 and 11" in words(guider=guider, sigmas=grid_of(12), calls=14)
    assert "no name for a file" in words(guider=guider, name="../")


def check_recording_reports_and_can_be_interrupted():
    guider = calibrate.make_guider(None, MODES, *conditions(), 1.0)
    batch = {"samples": torch.zeros(1, *SHAPE[1:])}
    SEEN.clear()
    bars = []
    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, *a, **k: bars.append((value, total))
    )
    try:
        recording.record_runs(guider, batch, GRID, 2, 0)
        assert bars[-1] == (60, 60) and len(SEEN) == 60, bars[-1:]
        stop = MODES.clone()

        def interrupt(arguments):
            comfy.model_management.interrupt_current_processing()
            return arguments["denoised"]

        stop.set_model_sampler_post_cfg_function(interrupt)
        SEEN.clear()
        for attempt in (
            lambda: recording.record_runs(
                calibrate.make_guider(None, stop, *conditions(), 1.0), batch, GRID, 2, 0
            ),
            lambda: sample(planned(), GRID, model=stop),
            lambda: sample(FIXED, GRID, model=stop),
        ):
            SEEN.clear()
            try:
                attempt()
            except comfy.model_management.InterruptProcessingException:
                assert len(SEEN) == 1
            else:
                raise AssertionError("it went on")
    finally:
        comfy.utils.set_progress_bar_global_hook(before)
        comfy.model_management.interrupt_current_processing(False)


def check_inpainting_keeps_what_is_masked():
    mask = torch.zeros(SHAPE[0], 1, *SHAPE[2:])
    mask[..., 8:] = 1
    whole = run(EULER, GRID, mask=mask)
    for sampler in (
        *(planned(solver=s) for s in ("euler", "ab2", "dpmpp_2m", "unipc")),
        planned(mode="ode", calls=12),
        planned(mode="adaptive"),
        FIXED,
    ):
        out = run(sampler, GRID, mask=mask)
        assert out[..., :8].abs().max() < 1e-5 and out[..., 8:].std() > 0.1
    assert decibels(run(planned(), GRID, mask=mask), whole) > 30


def check_less_denoise_keeps_its_base_s_result():
    for denoise in (0.3, 0.5, 0.75):
        grid = grid_of(30, denoise)
        base = run(EULER, grid)
        for sampler in (planned(), FIXED):
            found = decibels(run(sampler, grid), base)
            assert found > 30, (denoise, found)


def check_history_never_crosses_from_one_expert_to_the_other():
    first, second = make_modes(seed=0), make_modes(seed=9)
    for sampler, cut in ((planned(calls=8), 15), (FIXED, 15), (planned(mode="adaptive"), 11)):
        high, low = GRID[: cut + 1], GRID[cut:]
        middle = sample(sampler, high, model=first)

        def finish(model, sampler=sampler, low=low, middle=middle):
            positive, negative = conditions()
            return comfy.sample.sample_custom(
                model, torch.zeros(SHAPE), 1.0, sampler, low, positive, negative, middle,
                disable_pbar=True, seed=1,
            )  # fmt: skip

        second.model.diffusion_model.seen.clear()
        after = finish(second)  # right behind the first expert's run
        assert second.model.diffusion_model.seen[0] == float(low[0])
        sample(sampler, GRID, model=second)
        fresh = type(sampler)(**clone_options(sampler))
        assert torch.equal(after, finish(second, sampler=fresh)), "an earlier run left a trace"
        assert not torch.equal(after, finish(first))


def clone_options(sampler):
    if isinstance(sampler, Planned):
        return {"plan": sampler.extra_options["plan"]}
    return {"sampler_function": sampler.sampler_function}


def check_two_experts_keep_their_base_s_result():
    for cut in (11, 15, 18):
        high, low = GRID[: cut + 1], GRID[cut:]

        def through(sampler, high=high, low=low):
            middle = run(sampler, high)
            positive, negative = conditions()
            return comfy.sample.sample_custom(
                MODES, torch.zeros(SHAPE), 1.0, sampler, low, positive, negative, middle,
                disable_pbar=True, seed=1,
            )  # fmt: skip

        base = through(EULER)
        for sampler in (planned(calls=8), FIXED):
            SEEN.clear()
            found = decibels(through(sampler), base)
            assert found > 25 and len(SEEN) < 20, (cut, found, len(SEEN))


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
        assert forecast.fixed_calls(grid_of(steps)) == wanted
    for part, wanted in ((GRID[15:], 8), (GRID[:16], 8), (GRID[:5], 4), (GRID[10:], 10)):
        assert forecast.fixed_calls(part) == wanted
    assert forecast.fixed_calls(grid_of(30, 0.5)) == 14
    for part in (GRID[3:4], GRID[-1:]):
        assert run(FIXED, part).isfinite().all()


def check_guidance_and_hooks_happen_at_the_real_calls():
    asked = []

    def rescaled(arguments):  # nonlinear in both, as CFG++ style and rescaling nodes are
        asked.append(float(arguments["sigma"][0]))
        guided, uncond = arguments["denoised"], arguments["uncond_denoised"]
        size = guided.std((1, 2, 3), keepdim=True)
        return 0.8 * guided / size * size.clamp(max=1.0) + 0.3 * uncond.tanh()

    hooked = MODES.clone()
    hooked.set_model_sampler_post_cfg_function(rescaled, disable_cfg1_optimization=True)
    base = sample(EULER, GRID, model=hooked)
    assert decibels(base, run(EULER, GRID)) < 30, "the hook did nothing"
    asked.clear()
    ours = sample(planned(), GRID, model=hooked)
    assert len(asked) == 14 and decibels(ours, base) > 30, (len(asked), decibels(ours, base))
    every = sample(planned(calls=30), GRID, model=hooked)
    assert (every - base).abs().max() < 2e-6 * base.abs().max()


def check_any_rank_and_no_callback():
    for shape in ((2, 3, 5), (1, 4, 3, 8, 8), (2, 1, 40)):

        class Denoiser:
            inner_model = type("G", (), {"model_patcher": MODEL})()

            def __call__(self, x, sigma, **options):
                assert sigma.shape == x.shape[:1]
                return torch.zeros_like(x) + 0.25  # the data is one point

        x = torch.randn(shape)
        for mode in forecast.MODES[:3]:
            out = forecast.sample_planned(Denoiser(), x, GRID, disable=True, plan=Plan(mode))
            assert out.shape == x.shape and (out - 0.25).abs().max() < 1e-5, mode


def check_ode_is_nearer_to_the_exact_law():
    def worst(x):  # of data N(0, SPREAD^2) the exact solution from noise is SPREAD x noise
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
        return float((x * latent.SD_VAE.scale - SPREAD * noise).abs().max())

    assert worst(sample(planned(mode="ode", calls=12), GRID)) < worst(sample(EULER, GRID)) / 3
    part = GRID[4:20]
    assert forecast.ode_sigmas(part, 7)[[0, -1]].equal(part[[0, -1]])
    assert forecast.ode_sigmas(part, 15) is part


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
    for name, check in list(globals().items()):
        if name.startswith("check_"):
            try:
                check()
                results[name.removeprefix("check_")] = None
            except Exception:
                results[name.removeprefix("check_")] = traceback.format_exc(limit=-3)
    Path(sys.argv[2]).write_text(json.dumps(results))


main()
