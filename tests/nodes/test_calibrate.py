"""Calibrating a model in ComfyUI: nearer pictures, a plateau where there is one, refusals."""

import numpy as np
import pytest
import torch

from tests.nodes.loaded_pack import GRID, complaint
from tests.nodes.moded_flow import (
    BATCH,
    EULER,
    MODES,
    calibrate,
    call_rules,
    conditions,
    decibels,
    grid_of,
    planned,
    recorded,
    recording,
    run,
)

pytestmark = pytest.mark.inside


def test_calibrated_calls_are_nearer_than_fixed_ones():
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


def test_the_plateau_is_named_only_where_there_is_one():
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


def test_calibrate_says_what_is_missing():
    good = {"sigmas": GRID, "latent": BATCH, "cfg": 1.0, "runs": 1, "calls": 10, "first_seed": 0}

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
