"""Cosmos-Predict2, whose noise levels grow to 80, as the linear flow that it is."""

from importlib import import_module

import comfy.model_sampling
import pytest
import torch

from tests.nodes.family_runs import FamilyRun
from tests.nodes.loaded_pack import GRID, NAME, Scheduler, complaint, flow, stable
from tests.nodes.moded_flow import decibels, planned

pytestmark = pytest.mark.inside

exploding = import_module(".nodes.host.exploding", NAME)
dropdowns = import_module(".nodes.dropdowns", NAME)
COSMOS, LINEAR = comfy.model_sampling.COSMOS_RFLOW(), comfy.model_sampling.CONST()
STEPS = 20


@pytest.fixture(scope="module")
def cosmos():
    return FamilyRun("CosmosT2IPredict2", STEPS)


def distance(made, base):
    return decibels(made[0][0], base[0][0])


def test_times_and_sigmas_are_each_other_s_inverse():
    sigmas = torch.tensor([80.0, 9.0, 1.0, 0.25, 0.0])
    ts = exploding.times(COSMOS, sigmas)
    assert torch.allclose(ts, torch.tensor([80 / 81, 0.9, 0.5, 0.2, 0.0]))
    assert torch.allclose(exploding.sigmas_at(COSMOS, ts), sigmas, rtol=1e-5)
    assert torch.equal(exploding.times(LINEAR, ts), ts)
    assert torch.equal(exploding.sigmas_at(LINEAR, ts), ts)


def test_our_euler_is_the_host_s(cosmos):
    """Euler's step in v on the linear path is Euler's step of the host in its own x."""
    base = cosmos.sample()
    made = cosmos.sample(stable("euler", split=0.5))
    assert made[1] == base[1] == STEPS and distance(made, base) > 80
    every = cosmos.sample(planned(mode="forecast", calls=STEPS, solver="euler"))
    assert every[1] == STEPS and distance(every, base) > 80


def test_forecasts_save_calls_and_stay_near(cosmos):
    base, fewer = cosmos.sample(), cosmos.sample(sigmas=cosmos.grid(STEPS // 2))
    made = cosmos.sample(planned(mode="forecast", calls=STEPS // 2, solver="euler"))
    assert made[1] == STEPS // 2 == fewer[1]
    assert distance(made, base) > distance(fewer, base) + 3
    assert made[0][0].isfinite().all()


def test_stable_vs_of_the_drop_down_runs(cosmos):
    made = cosmos.sample("stable_vs")
    assert made[1] < STEPS and distance(made, cosmos.sample()) > 15


def test_the_host_is_told_its_own_sigma_and_the_denoised_data(cosmos):
    seen = []
    cosmos.sample(
        planned(mode="forecast", calls=10, solver="euler"),
        callback=lambda i, denoised, x, n: seen.append((i, denoised, x)),
    )
    assert len(seen) == 10
    assert seen[0][2].std() > 40, "x of the first step, in the host's scale"
    assert all(denoised.isfinite().all() for _, denoised, _ in seen)


def test_the_scheduler_thins_in_time_and_gives_sigmas(cosmos):
    grid = Scheduler.execute(cosmos.model, "simple", STEPS, 1.0, 0.85, 4, "flow_match").args
    used, native = grid[0], grid[7]
    assert torch.allclose(native, cosmos.sigmas, rtol=1e-4) and float(used[0]) > 79
    # 0.85 is sigma 5.67: every step above it is kept.
    above = native[native >= 0.85 / 0.15]
    assert torch.equal(used[: len(above)], above) and len(above) + 4 == len(used) - 1
    made = dropdowns.regime_split_grid(cosmos.model_sampling, 10)
    assert len(made) == 11 and float(made[0]) > 79 and float(made[-1]) == 0


def test_what_cannot_be_done_says_so_and_not_that_it_were_no_flow(cosmos):
    flow.require_flow(COSMOS)
    words = complaint(lambda: flow.require_linear_flow(COSMOS))
    assert "far above 1" in words and "needs a flow-matching model" not in words
    assert "needs a flow-matching model" in complaint(
        lambda: flow.require_flow(comfy.model_sampling.EPS())
    )


def test_other_flows_run_the_function_itself():
    called = []

    def function(model, x, sigmas, extra_args, callback, disable, **options):
        called.append((model, sigmas))
        return x

    class Denoiser:
        inner_model = type(
            "G", (), {"model_patcher": type("P", (), {"get_model_object": lambda s, n: LINEAR})()}
        )()

    model, x = Denoiser(), torch.zeros(1)
    assert exploding.on_linear_path(function)(model, x, GRID) is x
    assert called == [(model, GRID)]
