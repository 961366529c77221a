"""The guard: without it Flux's gradient is wrong, and it changes no bit of any velocity."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from sv_core.models.families import FLUX
from tests.training.in_comfy import HOST, close, refused
from tests.training.networks.comfy.tiny_backbones import FILES, backbone, small
from training.networks.comfy import guard, self_check

pytestmark = [pytest.mark.inside, pytest.mark.usefixtures("tiny_models")]


@contextmanager
def without_guard():
    before = guard.OutOfPlace.__torch_function__
    guard.OutOfPlace.__torch_function__ = lambda _, f, t, a=(), k=None: f(*a, **(k or {}))
    try:
        yield
    finally:
        guard.OutOfPlace.__torch_function__ = before


def test_flux_goes_wrong_without_the_guard():
    tiny = {**FLUX.layout.tiny, "depth_single_blocks": 0}
    changed = replace(FLUX, layout=replace(FLUX.layout, tiny=tiny))
    double = replace(backbone("flux"), family=changed)
    exact = self_check.gradients(self_check.tiny(double, HOST, torch.float64))
    with without_guard():
        try:
            self_check.gradients(small("flux"))
        except RuntimeError as e:
            assert "modified by an inplace operation" in str(e), e
        else:
            raise AssertionError("stock Flux can be differentiated now: drop the guard")
        # Without single blocks, whose input autograd watches, recomputation hides it.
        silent = self_check.gradients(self_check.tiny(double, HOST, torch.float32, True))
        worst, error = self_check.worst(silent, exact)
        print(f"stock Flux: the gradient of {worst} is off by {error:.0%}")
        assert error > 0.01, "stock Flux is right now: drop the guard"
        refused(
            lambda: self_check.self_check(backbone("flux"), HOST),
            "cannot be trained through", "Flux", "inplace operation",
        )  # fmt: skip
        for name in ("sd3", "qwen", "wan"):
            assert self_check.worst(
                self_check.gradients(small(name, recompute=True)),
                self_check.gradients(small(name, torch.float64)),
            )[1] < 1e-5, name  # fmt: skip


def test_the_guard_does_not_change_a_bit():
    for name in FILES:
        x, t, cond, _ = self_check.sample(small(name))
        with torch.no_grad():
            guarded = small(name).velocity(x, t, cond)
            with without_guard():
                assert torch.equal(small(name).velocity(x, t, cond), guarded), name


def test_plain_attention_is_attention():
    from torch.nn.functional import scaled_dot_product_attention as fused

    g = torch.Generator().manual_seed(6)
    q, k, v = (torch.randn(2, 3, n, 8, generator=g) for n in (7, 5, 5))
    flat = [x.transpose(1, 2).flatten(2) for x in (q, k, v)]
    shapes = {"none": None, "bool": torch.rand(2, 1, 7, 5, generator=g) > 0.3}
    shapes["bool"][..., 0] = True  # something is seen
    shapes["added"] = torch.randn(2, 7, 5, generator=g)
    shapes["of the keys"] = torch.randn(2, 1, 5, generator=g)
    for what, mask in shapes.items():
        exact = fused(q, k, v, mask if mask is None or mask.ndim == 4 else mask[:, None])
        joined = exact.transpose(1, 2).flatten(2)
        for chunk in (2, 512):
            guard.CHUNK, before = chunk, guard.CHUNK
            try:
                run = guard.plain_attention
                close(run(None, *flat, 3, mask=mask), joined, 1e-6, what)
                close(run(None, q, k, v, 3, mask=mask, skip_reshape=True), joined, 1e-6, what)
                kept = run(None, *flat, 3, mask=mask, skip_output_reshape=True)
                close(kept, exact, 1e-6, what)
            finally:
                guard.CHUNK = before
