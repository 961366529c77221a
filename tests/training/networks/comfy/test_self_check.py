"""The check before a training: gradients and forward derivatives against float64, and its speed."""

import time

import pytest
import torch

from tests.training.in_comfy import HOST, NEW, close, refused
from tests.training.networks.comfy.tiny_backbones import FILES, STEP, backbone, small
from training.networks.comfy import guard, self_check

pytestmark = [pytest.mark.inside, pytest.mark.usefixtures("tiny_models")]


def test_gradients_equal_float64_s_with_and_without_recomputation():
    for name in FILES:
        exact = self_check.gradients(small(name, torch.float64))
        for recompute in (False, True):
            found = self_check.gradients(small(name, recompute=recompute))
            assert found.keys() == exact.keys()
            worst, error = self_check.worst(found, exact)
            assert error < 1e-5, f"{name}, {worst}, recompute {recompute}: {error:.1e}"


def test_float64_s_gradient_is_that_of_differences():
    # Independent of autograd: along a random direction of all the weights together.
    for name in FILES:
        one = small(name, torch.float64)
        weights = dict(one.model.named_parameters())
        grads = self_check.gradients(one)
        generator = torch.Generator().manual_seed(5)
        along = {
            n: torch.randn(p.shape, generator=generator).to(p) * p.detach().std().clamp_min(0.1)
            for n, p in weights.items()
        }
        x, t, cond, direction = self_check.sample(one)
        start = {n: p.detach().clone() for n, p in weights.items()}

        def objective(h, one=one, w=weights, s=start, d=along, a=(x, t, cond), g=direction):
            with torch.no_grad():
                for n, p in w.items():
                    p.copy_(s[n] + h * d[n])
                return float((one.velocity(*a) * g).sum())

        d = [(objective(h) - objective(-h)) / (2 * h) for h in (STEP, STEP / 2)]
        exact = (4 * d[1] - d[0]) / 3
        found = float(sum((grads[n].double() * along[n].double()).sum() for n in grads))
        assert abs(found / exact - 1) < 1e-4, (name, found, exact)


def test_forward_derivatives_equal_differences():
    for name in FILES:
        one = backbone(name)
        for what, error in self_check.tangent_errors(one, HOST).items():
            assert error < (1e-4 if what == "x" else 5e-4), (name, what, error)
        one = small(name, recompute=True)
        x, t, cond, direction = self_check.sample(one)
        with torch.no_grad(), one.forward_mode():
            v, whole = torch.func.jvp(
                lambda x, one=one, t=t, cond=cond: one.velocity(x, t, cond), (x,), (direction,)
            )
            guard.CHUNK, before = 2, guard.CHUNK
            try:
                _, parts = torch.func.jvp(
                    lambda x, one=one, t=t, cond=cond: one.velocity(x, t, cond), (x,), (direction,)
                )
            finally:
                guard.CHUNK = before
        close(parts, whole, 1e-5, f"{name} in parts")
        with torch.no_grad():
            close(one.velocity(x, t, cond), v, 1e-5, f"{name}'s value")
        assert all("checkpoint" in repr(b.forward) for b in one.blocks), "recomputation was lost"


def test_self_check_sees_a_kernel_without_derivative():
    HOST.management.in_training = False  # as it is unless somebody says otherwise
    try:
        if NEW:
            refused(lambda: self_check.self_check(backbone("flux"), HOST), "Flux")
    finally:
        HOST.management.in_training = True
    for name in FILES:
        began = time.perf_counter()
        self_check.self_check(backbone(name), HOST)
        assert time.perf_counter() - began < 4, name
