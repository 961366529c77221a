"""Checks of recording, calibrating and calibration files, in the host's own interpreter."""

import tempfile
from functools import cache
from importlib import import_module
from pathlib import Path

from forecast_host import (
    EULER,
    FIXED,
    MODES,
    SEEN,
    Sampler,
    call_rules,
    conditions,
    decibels,
    grid_of,
    make_modes,
    planned,
    run,
)
from inside_host import GRID, NAME, SHAPE, complaint, flow, make_model, sample

import comfy.model_management  # isort: skip  after inside_host, which starts the host
import comfy.samplers
import comfy.utils
import folder_paths
import numpy as np
import torch

calibrate = import_module(".nodes.calibrate", NAME)
calibration_file = import_module(".nodes.calibration_file", NAME)
recording = import_module(".nodes.samplers.recording", NAME)
Recorder = import_module(".sv_core.calibration", NAME).Recorder
BATCH = {"samples": torch.zeros(1, *SHAPE[1:])}


@cache
def recorded(grid=GRID, model=MODES, runs=2, calls=8):
    guider = calibrate.make_guider(None, model, *conditions(), 1.0)
    return calibrate.calibrate(guider, BATCH, grid, runs, 5, calls)


def check_calibrated_calls_are_nearer_than_fixed_ones():
    base = run(EULER, GRID)
    for n in (8, 10):
        found = recorded(runs=3, calls=n)
        assert found.checked == n and "checked in runs" in calibrate.describe(found, n, "x.json")
        ours = decibels(run(planned(mode="calibrated", calls=n, calibration=found), GRID), base)
        assert ours > decibels(run(planned(calls=n), GRID), base), n
    assert len(found.drift) == 29 and sorted(found.nodes) == [*range(6, 21)]
    assert all(len(found.nodes[n]) == n for n in found.nodes)
    everywhere = run(planned(mode="calibrated", calls=30, calibration=found), GRID)
    assert torch.equal(everywhere, run(planned(calls=30), GRID))


def check_recorded_runs_are_the_host_s_euler():
    seen = []

    class Seen(Recorder):
        def __call__(self, k, x, v, t):
            super().__call__(k, x, v, t)
            seen.append((k, x, v))

    options = {"recorder": Seen(GRID)}
    recorder = comfy.samplers.KSAMPLER(recording.record, options)
    shape = (2, *SHAPE[1:])
    x, theirs = (run(s, GRID, seed=5, shape=shape) for s in (recorder, EULER))
    assert (x - theirs).abs().max() < 2e-6 * theirs.abs().max()
    assert [k for k, *_ in seen] == [*range(30)]
    # A check starts from the same noise and is the forecast with these calls.
    nodes = (0, 3, 9, 20, 28)
    checker = comfy.samplers.KSAMPLER(recording.record, options | {"nodes": nodes})
    x = run(checker, GRID, seed=5, shape=shape)
    assert torch.equal(x, run(planned(nodes=nodes), GRID, seed=5, shape=shape))
    assert [k for k, *_ in seen[30:]] == [*nodes] and torch.equal(seen[0][1], seen[30][1])
    # Seeds count on and products add up: two runs are the sum of the runs of either seed.
    guider = calibrate.make_guider(None, MODES, *conditions(), 1.0)
    both = recording.RecordedRuns(guider, BATCH, GRID, 2, 5).gram()
    parts = sum(recording.RecordedRuns(guider, BATCH, GRID, 1, seed).gram() for seed in (5, 6))
    assert abs(both - parts).max() < 1e-9 * both.max() and (both.diagonal() > 0).all()


def check_the_plateau_is_named_only_where_there_is_one():
    turning = recorded(runs=1)
    assert turning.split is None or 0.2 < turning.split < 1
    times = GRID.double().numpy()[:-1]
    for rise, has in ((0.0, False), (3.0, True)):  # a rotation whose speed grows towards noise
        angle = 0.3 * times + rise * times**4
        gram = np.cos(angle[:, None] - angle[None, :])
        lists = {10: tuple(call_rules.call_nodes([*times.tolist(), 0.0], 10))}
        found = recording.calibration_from(gram, lists, MODES, GRID, 1, 0, 10)
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
        (flow.host_grid(make_model(5.0), "simple", 30, 1.0), "30 other noise levels"),
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
            name = calibration_file.save(found)
            assert calibration_file.load(name) == found and calibration_file.names() == [name]
            text = (Path(out) / "stable_velocity" / name).read_text("utf-8")
            assert "0 " in text and len(text) < 4000 and str(Path.home()) not in text
            assert calibration_file.save(found) == name  # the same model and grid are replaced
            for evil in ("../../evil", "/etc/x", "..", "a/../../b\\c", "C:\\x", "\0"):
                try:
                    made = calibration_file.save(found, evil)
                except ValueError as e:
                    assert "no name for a file" in str(e)
                else:
                    assert (Path(out) / "stable_velocity" / made).is_file()
            inside = {p.parent for p in Path(out).rglob("*") if p.is_file()}
            assert inside == {Path(out) / "stable_velocity"}
            assert "is not in" in complaint(
                lambda: calibration_file.load("../stable_velocity/" + name)
            )
            other = recorded(grid_of(20), runs=1)
            calibration_file.save(found, "mine")
            assert "another model or grid" in complaint(
                lambda: calibration_file.save(other, "mine")
            )
            assert calibration_file.load("mine.json") == found
            for bad in ("", "{}", "[]", "null", text[:300], text.replace("0 ", "7 "), "\x00"):
                (Path(out) / "stable_velocity" / "bad.json").write_text(bad)
                words = complaint(lambda: calibration_file.load("bad.json"))
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
    broken = MODES.clone()
    broken.set_model_sampler_post_cfg_function(lambda a: a["denoised"] * float("nan"))
    found = words(model=broken, positive=positive, latent=BATCH)
    assert "a recorded run diverged" in found


def check_recording_reports_and_can_be_interrupted():
    guider = calibrate.make_guider(None, MODES, *conditions(), 1.0)
    SEEN.clear()
    bars = []
    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(
        lambda value, total, *a, **k: bars.append((value, total))
    )
    try:
        recording.RecordedRuns(guider, BATCH, GRID, 2, 0)
        assert bars[-1] == (60, 60) and len(SEEN) == 60, bars[-1:]
        SEEN.clear()
        bars.clear()
        calibrate.calibrate(guider, BATCH, GRID, 2, 0, 9)
        made, counted = len(SEEN), [value for value, _ in bars]
        assert made in {60 + 2 * 9 * checks for checks in (2, 3, 4)}, made
        # The host may leave out some; full at the end, also after fewer checks than there might be.
        assert counted == sorted(counted) and bars[-1] == (made, made), bars[-3:]
        assert all(total == 60 + 2 * 9 * 4 for _, total in bars[:-1])
        stop = MODES.clone()

        def interrupt(arguments):
            comfy.model_management.interrupt_current_processing()
            return arguments["denoised"]

        stop.set_model_sampler_post_cfg_function(interrupt)
        SEEN.clear()
        for attempt in (
            lambda: recording.RecordedRuns(
                calibrate.make_guider(None, stop, *conditions(), 1.0), BATCH, GRID, 2, 0
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
