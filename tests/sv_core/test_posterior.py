"""sv_core.posterior against Bayes' rule in float64, up to latents of 65,536 numbers."""

import math

import pytest
import torch

from benchmarks.posterior import chunked_loop, exact_target, problem, rms, stable_target
from sv_core.interpolant import INTERPOLANTS, LINEAR
from sv_core.posterior import effective_size, posterior_mean, posterior_weights

both = pytest.mark.parametrize("path", INTERPOLANTS.values(), ids=INTERPOLANTS.keys())
LARGE = (16, 64, 64)


def brute_force(path, x_t, refs, t):
    """Bayes' rule one reference at a time, from the differences, in Python's float64."""
    rows = []
    for x, at in zip(x_t.double(), t.double().expand(len(x_t)), strict=True):
        a, s = path.alpha(at), path.sigma(at)
        log_p = [-((x - a * b).square().sum() / (2 * s**2)).item() for b in refs.double()]
        p = [math.exp(l - max(log_p)) for l in log_p]
        rows.append([value / sum(p) for value in p])
    return torch.tensor(rows, dtype=torch.float64)


@both
@pytest.mark.parametrize("t", [0.02, 0.3, 0.7, 0.99, 1.0])
def test_three_points(path, t):
    refs = torch.tensor([[-2.0, 0.0], [0.5, 0.5], [1.0, 1.0]], dtype=torch.float64)
    x_t = torch.tensor([[-0.9, 0.1], [0.6, 0.6], [0.0, 0.0], [3.0, -5.0]], dtype=torch.float64)
    at = torch.full((4,), t, dtype=torch.float64)
    expected = brute_force(path, x_t, refs, at)
    for time in (at, at[0]):
        w = posterior_weights(path, x_t, refs, time)
        torch.testing.assert_close(w, expected, rtol=0, atol=1e-12)
        mean, w_again = posterior_mean(path, x_t, refs, time)
        torch.testing.assert_close(mean, expected @ refs, rtol=0, atol=1e-12)
        assert torch.equal(w_again, w)


def test_only_differences_of_logits_count():
    """Far from every reference all logits are below -1e4, and some references still likelier."""
    refs = torch.tensor([[300.0], [300.002], [300.004]], dtype=torch.float64)
    x_t, t = torch.zeros(1, 1, dtype=torch.float64), torch.tensor([0.5], dtype=torch.float64)
    w = posterior_weights(LINEAR, x_t, refs, t)
    odds = [math.exp(-(b**2 - 300.0**2) / 2) for b in (300.0, 300.002, 300.004)]
    expected = torch.tensor([odds], dtype=torch.float64) / sum(odds)
    torch.testing.assert_close(w, expected, rtol=0, atol=1e-9)


@both
@pytest.mark.parametrize("t", [0.3, 0.7, 0.999, 1.0])
def test_large_latents_do_not_collapse(path, t, generator):
    refs = torch.randn(24, *LARGE, generator=generator)
    eps = torch.randn(4, *LARGE, generator=generator)
    at = torch.full((4,), t)
    x_t = path.x_t(refs[:4], eps, at)
    expected = brute_force(path, x_t, refs, at)
    mean, w = posterior_mean(path, x_t, refs, at)
    torch.testing.assert_close(w.double(), expected, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        mean.double(), torch.einsum("bm,mchw->bchw", expected, refs.double()), rtol=0, atol=2e-3
    )
    if t < 0.9:  # the noise cannot hide which reference it was
        assert torch.equal(w, torch.eye(4, 24))


@pytest.mark.parametrize(("shape", "earliest"), [((4, 32, 32), 0.96), (LARGE, 0.99)])
def test_not_farther_from_float64_than_a_loop_over_differences(shape, earliest):
    """At times where many references share the weight, so that its rounding matters."""
    inputs = problem(samples=6, references=32, shape=shape, earliest=earliest)
    exact = exact_target(*inputs)
    assert rms(stable_target(*inputs) - exact) <= rms(chunked_loop(*inputs) - exact)


def test_a_clamp_before_the_maximum_would_collapse():
    """Why there is none: the clamped loop answers with the mean of all references."""
    x_t, refs, t = problem(samples=2, references=32, shape=LARGE)
    collapsed = chunked_loop(x_t, refs, t, clamp=-1e4)
    of_the_mean = LINEAR.v_from_x0(x_t, refs.mean(0).expand_as(x_t), t)
    torch.testing.assert_close(collapsed, of_the_mean, rtol=0, atol=1e-4)
    exact = exact_target(x_t, refs, t)
    assert rms(collapsed - exact) > 0.5
    assert rms(stable_target(x_t, refs, t) - exact) < 1e-6


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype, generator):
    refs = torch.randn(6, 2, 8, 8, generator=generator).to(dtype)
    x_t = torch.randn(3, 2, 8, 8, generator=generator).to(dtype)
    t = torch.tensor([0.6, 0.9, 0.97], dtype=torch.float64)
    w = posterior_weights(LINEAR, x_t, refs, t)
    assert w.dtype == torch.float32
    torch.testing.assert_close(w.double(), brute_force(LINEAR, x_t, refs, t), rtol=0, atol=1e-4)


def test_autocast_and_the_users_matmul_precision_change_nothing(generator):
    refs, x_t = torch.randn(2, 6, 512, generator=generator)
    t = torch.full((6,), 0.97)
    expected = posterior_weights(LINEAR, x_t, refs, t)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", torch.bfloat16):
            w = posterior_weights(LINEAR, x_t, refs, t)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert torch.equal(w, expected)


def test_copies_of_a_reference_share_its_weight(generator):
    refs = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    x_t = torch.randn(5, 4, generator=generator, dtype=torch.float64)
    t = torch.tensor(0.8, dtype=torch.float64)
    w = posterior_weights(LINEAR, x_t, refs[[0, 1, 1, 2]], t)
    torch.testing.assert_close(w[:, 1], w[:, 2])
    odds = posterior_weights(LINEAR, x_t, refs, t)
    torch.testing.assert_close(w[:, 1] / w[:, 0], odds[:, 1] / odds[:, 0])


def test_one_reference_is_certain(generator):
    x_t, ref = torch.randn(4, 7, generator=generator), torch.randn(1, 7, generator=generator)
    mean, w = posterior_mean(LINEAR, x_t, ref, torch.tensor(0.5))
    assert torch.equal(w, torch.ones(4, 1))
    torch.testing.assert_close(mean, ref.expand(4, 7))


def test_effective_size_counts_equal_shares():
    w = torch.tensor([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25] * 4, [0.5, 0.25, 0.25, 0]])
    torch.testing.assert_close(effective_size(w), torch.tensor([1, 2, 4, 8 / 3]))


def test_official_posterior_means(golden):
    for entry in golden.index["targets"]:
        if entry["prediction"] == "x":
            x_t, bank, t, expected = golden.tensors(entry["key"], "x", "bank", "t", "target")
            mean, _ = posterior_mean(INTERPOLANTS[entry["path"]], x_t, bank, t)
            relative = (mean - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
            assert relative.max() < 1e-3


def test_mixed_dtypes_meet_in_the_finer_one():
    g = torch.Generator().manual_seed(0)
    x, refs = torch.randn(3, 8, generator=g).double(), torch.randn(5, 8, generator=g)
    t = torch.tensor(0.6)
    fine = posterior_weights(LINEAR, x, refs.double(), t)
    assert torch.equal(posterior_weights(LINEAR, x, refs, t), fine)
    assert posterior_weights(LINEAR, x.half(), refs.half(), t).dtype == torch.float32
