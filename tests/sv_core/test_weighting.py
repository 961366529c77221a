"""sv_core.weighting against closed forms, limits and the official code's weights."""

import math

import pytest
import torch

from sv_core.interpolant import COSINE, INTERPOLANTS, LINEAR
from sv_core.weighting import WEIGHTS, cosine, hard, hard_high, sigmoid, snr

every = pytest.mark.parametrize("weight", WEIGHTS.values(), ids=WEIGHTS.keys())
T = torch.linspace(0, 1, 201, dtype=torch.float64)
LIMITS = {
    "constant": (1, 1),
    "hard": (1, 0),
    "hard_high": (0, 1),
    "sigmoid": (1 / (1 + math.exp(-14)), 1 / (1 + math.exp(6))),
    "cosine": (1, 0),
    "snr": (1, 0),
}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", WEIGHTS)
def test_limits_at_data_and_noise(name, dtype):
    ends = WEIGHTS[name](torch.tensor([0.0, 1.0], dtype=dtype))
    assert ends.dtype == dtype
    expected = torch.tensor(LIMITS[name], dtype=dtype)
    torch.testing.assert_close(ends, expected, rtol=2 * torch.finfo(dtype).eps, atol=1e-3)


@every
def test_a_weight_is_between_zero_and_one_for_each_time(weight):
    w = weight(T)
    assert w.shape == T.shape
    assert ((w >= 0) & (w <= 1)).all()


@pytest.mark.parametrize("weight", [hard, sigmoid, cosine, snr])
@pytest.mark.parametrize("split", [0.3, 0.7, 0.85])
def test_alignment_fades_out_as_noise_grows(weight, split):
    assert (weight(T, split=split).diff() <= 0).all()


@pytest.mark.parametrize(
    "weight",
    [sigmoid, snr, *(lambda t, split, p=p: snr(t, split, p) for p in INTERPOLANTS.values())],
)
def test_smooth_weights_are_one_half_at_the_split(weight):
    at = torch.tensor([0.6], dtype=torch.float64)
    torch.testing.assert_close(weight(at, split=0.6), torch.full_like(at, 0.5))


def test_hard_weights_share_out_all_times_the_split_being_high():
    t = torch.tensor([0.0, 0.69, 0.7, 0.71, 1.0])
    assert hard(t, 0.7).tolist() == [1, 1, 0, 0, 0]
    assert torch.equal(hard(t, 0.7) + hard_high(t, 0.7), torch.ones(5))


def test_sigmoid_has_the_logit_of_a_line():
    torch.testing.assert_close(torch.logit(sigmoid(T, 0.7, 20.0)), 20 * (0.7 - T))


def test_cosine_is_half_way_at_half_the_split():
    t = torch.tensor([0.0, 0.2, 0.4, 0.8, 0.9], dtype=torch.float64)
    expected = [1.0, (1 + math.sqrt(0.5)) / 2, 0.5, 0.0, 0.0]
    torch.testing.assert_close(cosine(t, 0.8).tolist(), expected)


def test_snr_is_the_ratio_it_says():
    t = T[1:-1]
    linear = ((1 - t) / t) ** 2
    at = (0.3 / 0.7) ** 2
    torch.testing.assert_close(snr(t, 0.7, LINEAR), linear / (linear + at))
    curved = torch.tan(t * math.pi / 2) ** -2
    at = math.tan(0.7 * math.pi / 2) ** -2
    torch.testing.assert_close(snr(t, 0.7, COSINE), curved / (curved + at))


def test_official_weights(golden):
    t = torch.linspace(0, 1, 33)
    for entry in golden.index["proj_weights"]:
        options = {"split": entry["tau"]}
        if entry["schedule"] == "sigmoid":
            options["k"] = entry["k"]
        if entry["schedule"] == "snr":
            options["interpolant"] = INTERPOLANTS[entry["path"]]
        ours = WEIGHTS[entry["schedule"]](t, **options)
        expected = torch.from_numpy(golden.arrays[entry["key"]])
        torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6)
