"""Recorded runs are ComfyUI's own, report their progress and can be stopped."""

import comfy.model_management
import comfy.samplers
import comfy.utils
import pytest
import torch

from tests.nodes.loaded_pack import GRID, SHAPE, sample
from tests.nodes.moded_flow import (
    BATCH,
    EULER,
    FIXED,
    MODES,
    SEEN,
    Recorder,
    calibrate,
    conditions,
    planned,
    recording,
    run,
)

pytestmark = pytest.mark.inside


def test_recorded_runs_are_the_host_s_euler():
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


def test_recording_reports_and_can_be_interrupted():
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
