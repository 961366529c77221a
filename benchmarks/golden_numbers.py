"""Outputs of the public functions as arrays; ``same_results.py`` runs this in a checkout.

    python golden_numbers.py FILE.npz      with the checkout as PYTHONPATH

The functions are those that others call (more keywords may come, these calls must keep working). A
function of sv_core is looked for by its name in all of its modules, so that it may move.
"""

import importlib
import pkgutil
import sys
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import sv_core
from training import lora


def modules() -> list[ModuleType]:
    names = sorted(m.name for m in pkgutil.walk_packages(sv_core.__path__, "sv_core."))
    return [importlib.import_module(name) for name in names]


def public(name: str) -> Any:
    """What sv_core calls by this name."""
    return next(getattr(module, name) for module in modules() if hasattr(module, name))


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


WEIGHT = drawn(12, 12, seed=1) / 12**0.5


def velocity(x: Tensor, t: Tensor) -> Tensor:
    """A flow that is neither straight nor linear, for tensors of 12 numbers each."""
    turned = torch.tanh(x.flatten(1) @ WEIGHT.to(x.dtype))
    return turned.reshape(x.shape) * (1 + t) - 0.3 * x


def average(x: Tensor, r: Tensor, t: Tensor) -> Tensor:
    """An average velocity over [r, t] of (b, 12)."""
    return torch.tanh(x @ WEIGHT.to(x)) * (1 + t - 0.5 * r)[:, None]


def grids() -> dict[str, Tensor]:
    even = torch.linspace(1, 0, 31, dtype=torch.float64)
    shifted = 3 * even / (1 + 2 * even)
    split = public("regime_split")
    rules = {rule: split(shifted, 0.85, 9, rule=rule) for rule in ("flow_match", "unipc")}
    return {"native": shifted, **{f"regime_split {rule}": ts for rule, ts in rules.items()}}


def noise_source(seed: int):
    """A ``noise_fn`` that draws from a generator of its own."""
    source = torch.Generator().manual_seed(seed)
    return lambda like: torch.randn(like.shape, generator=source).to(like)


def samples() -> dict[str, Tensor]:
    """Every sampler on both paths and every grid, in two types; stable ones also with noise."""
    found = {}
    calls = {
        "sample_stable": {},
        "sample_stable noise 0.3": {"noise": 0.3},
        "sample_forecast": {},
        "sample_forecast 10 calls": {"calls": 10},
        "sample_ode": {},
    }
    for path in ("LINEAR", "COSINE"):
        for grid, ts in grids().items():
            for dtype in (torch.float32, torch.float64):
                x = drawn(3, 3, 2, 2, seed=2).to(dtype)
                for name, options in calls.items():
                    more = {"noise_fn": noise_source(3)} if "noise" in options else {}
                    made = public(name.split()[0])(
                        velocity, x, ts, interpolant=public(path), **options, **more
                    )
                    found[f"{name} {path} {grid} {dtype}"] = made
    return found


def steps() -> dict[str, Tensor]:
    """One step, the posterior over references and the velocity that it gives, on both paths."""
    x, v, refs = (drawn(n, 3, 2, 2, seed=4 + i) for i, n in enumerate((5, 5, 40)))
    t = torch.tensor([0.05, 0.3, 0.5, 0.8, 1.0])
    found = {}
    for path in ("LINEAR", "COSINE"):
        p = public(path)
        for noise in (0.0, 0.3):
            step = public("stable_step")
            made = step(p, x, v, t, 0.7 * t, noise=noise, noise_fn=noise_source(7))
            found[f"stable_step {path} noise {noise}"] = made
        found[f"posterior_weights {path}"] = public("posterior_weights")(p, x, refs, t)
        found[f"stable_velocity {path}"] = public("stable_velocity")(p, x, refs, t)
    target = public("mean_velocity_target")
    found["mean_velocity_target"] = target(average, x.flatten(1), 0.5 * t, t, v.flatten(1))
    return found


def adapted() -> dict[str, Tensor]:
    """A small network with a LoRA injected: what it gives, its gradient, and what is saved."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(12, 24), nn.GELU(), nn.Linear(24, 12))
    lora.inject(net, rank=4, alpha=2.0, targets=["*"])
    parameters = {name: p for name, p in sorted(net.named_parameters()) if "lora" in name.lower()}
    for number, p in enumerate(parameters.values()):
        p.data += 0.1 * drawn(*p.shape, seed=20 + number)
    out = net(drawn(6, 12, seed=9))
    out.square().sum().backward()
    found = {
        f"lora.inject gradient {number}": p.grad for number, p in enumerate(parameters.values())
    }
    saved = {f"lora.state_dict {name}": value for name, value in lora.state_dict(net).items()}
    return found | saved | {"lora.inject output": out.detach()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    arrays = {**grids(), **samples(), **steps(), **adapted()}
    np.savez(sys.argv[1], **{name: value.numpy() for name, value in arrays.items()})
