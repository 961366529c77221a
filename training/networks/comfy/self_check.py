"""Before training: are the derivatives that this ComfyUI gives right?

Its model code is internal and changes without notice, and some changes make gradients wrong in
silence: an addition in place, a kernel without a derivative. So a network of the same classes, a
thousand times smaller, with random weights, is differentiated in every way that training uses.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from sv_core.errors import InvalidInput

from ...config.schema import RunConfig
from ...engine.compile import adapt
from . import families
from .backbone import ComfyBackbone, wrap
from .host import Host

TOLERANCE = 1e-3
"""The largest error allowed, relative to the largest entry; float32 alone has 1e-6 to 1e-5."""


class Unfit(InvalidInput):
    """This version of ComfyUI gives wrong derivatives, so nothing can be trained with it."""


def self_check(backbone: ComfyBackbone, host: Host) -> None:
    """Gradients with and without recomputation, and forward derivatives, against float64.

    Raises Unfit, in one sentence that says which differs, when one is wrong.
    """
    try:
        fault = _fault(backbone, host)
    except Exception as e:  # whatever a host says that has changed underneath
        fault = f"it fails: {str(e).splitlines()[0] if str(e) else type(e).__name__}"
        raise _refusal(backbone, host, fault) from e
    if fault:
        raise _refusal(backbone, host, fault)


def _fault(backbone: ComfyBackbone, host: Host) -> str | None:
    exact = gradients(tiny(backbone, host, torch.float64))
    for recompute in (False, True):
        found = gradients(tiny(backbone, host, torch.float32, recompute))
        name, error = worst(found, exact)
        if not error < TOLERANCE:
            way = "with" if recompute else "without"
            return f"the gradient of {name}, {way} recomputation, is wrong by {error:.1%}"
    for name, error in tangent_errors(backbone, host).items():
        if not error < TOLERANCE:
            return f"the derivative along {name} is wrong by {error:.1%}"
    return None


def tiny(
    backbone: ComfyBackbone, host: Host, dtype: torch.dtype, recompute: bool = False
) -> ComfyBackbone:
    """A network of the same classes, small, with random weights; texts of two lengths."""
    kind = backbone.base.model_config
    config = type(kind)(families.tiny(backbone.family, kind.unet_config))
    config.set_inference_dtype(dtype, None)
    base = config.get_model({}, "", device=torch.device("cpu"))
    fill(base.diffusion_model)
    result = wrap(base, backbone.family, backbone.file, host, {})
    if recompute:
        adapt(result.blocks, RunConfig(recompute=True))
    return result.reading(_Texts(result, dtype))


def fill(network: nn.Module) -> None:
    """The same random weights for every dtype: N(0, 1/inputs), norms near 1."""
    generator = torch.Generator().manual_seed(0)
    for name, x in [*network.named_parameters(), *network.named_buffers()]:
        value = torch.randn(x.shape, generator=generator)
        if x.ndim > 1:
            value *= math.prod(x.shape[1:]) ** -0.5
        else:
            value = value * 0.1 + (1 if name.endswith(("norm.weight", "scale")) else 0)
        x.data.copy_(value)


def gradients(backbone: ComfyBackbone) -> dict[str, Tensor]:
    """d/dw of a weighed sum of velocities, of every parameter that has one."""
    network = backbone.base.diffusion_model.requires_grad_(True)
    x, t, cond, direction = sample(backbone)
    (backbone.velocity(x, t, cond) * direction).sum().backward()
    return {n: p.grad for n, p in network.named_parameters() if p.grad is not None}


def worst(found: dict[str, Tensor], exact: dict[str, Tensor]) -> tuple[str, float]:
    """The parameter whose gradient differs most, relative to the gradient's length, and by what.

    Gradients that vanish but for rounding are compared with the longest of all.
    """
    longest = max(float(x.double().norm()) for x in exact.values())
    errors = {
        name: float((found[name].double() - x.double()).norm())
        / max(float(x.double().norm()), 1e-6 * longest)
        if name in found
        else math.inf
        for name, x in exact.items()
    }
    return max(errors.items(), key=lambda item: -math.inf if item[1] < 0 else item[1])


def tangent_errors(backbone: ComfyBackbone, host: Host) -> dict[str, float]:
    """Relative errors of forward derivatives along x and t, against central differences.

    The differences are of the float64 network, extrapolated once: (4 D(h/2) - D(h)) / 3 has an
    error of order h^4. Their times are exact in float32, in which ComfyUI embeds them.
    """
    single, double = (tiny(backbone, host, d) for d in (torch.float32, torch.float64))
    errors = {}
    for name, step in (("x", 2.0**-6), ("t", 2.0**-12)):
        x, t, cond, direction = sample(double)
        dx = direction if name == "x" else torch.zeros_like(x)
        dt = torch.ones_like(t) if name == "t" else torch.zeros_like(t)

        def along(h: float, x=x, t=t, cond=cond, dx=dx, dt=dt) -> Tensor:
            return double.velocity(x + h * dx, t + h * dt, cond)

        with torch.no_grad():
            coarse, fine = ((along(h) - along(-h)) / (2 * h) for h in (step, step / 2))
        exact = (4 * fine - coarse) / 3
        with torch.no_grad(), single.forward_mode():
            found = torch.func.jvp(
                lambda x, t, cond=cond: single.velocity(x, t, cond),
                (x.float(), t.float()),
                (dx.float(), dt.float()),
            )[1]
        errors[name] = float((found - exact).norm() / exact.norm())
    return errors


def sample(backbone: ComfyBackbone) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(x, t, cond, a direction like x), the same numbers for every dtype."""
    generator = torch.Generator().manual_seed(1)
    frames = {"pictures": (), "one frame": (1,), "video": (2,)}[backbone.family.kind]
    shape = (3, backbone.latent.channels, *frames, 4, 4)
    dtype = backbone.compute_dtype
    x, direction = (torch.randn(shape, generator=generator).to(dtype) for _ in range(2))
    return x, torch.tensor([0.25, 0.5, 0.875], dtype=dtype), torch.tensor([0, 1, 0]), direction


class _Texts:
    """Two random texts of different lengths."""

    def __init__(self, backbone: ComfyBackbone, dtype: torch.dtype):
        widths = families.text_widths(backbone.family, backbone.base.diffusion_model)
        generator = torch.Generator().manual_seed(2)
        self.entries: list[dict[str, Any]] = []
        for length in (3, 5):
            context = torch.randn(length, widths["context"], generator=generator).to(dtype)
            entry = {"context": context}
            if widths["pooled"]:
                pooled = torch.randn(widths["pooled"], generator=generator)
                entry["pooled"] = pooled.to(dtype)
            self.entries.append(entry)

    def __getitem__(self, k: int) -> dict[str, Tensor]:
        return self.entries[k]


def _refusal(backbone: ComfyBackbone, host: Host, what: str) -> Unfit:
    says = ".".join(map(str, host.version))
    return Unfit(
        f"ComfyUI {says} in {host.folder} cannot be trained through as it is (on a small network "
        f"of {backbone.family.name}'s kind {what}): use another version of it, and report this"
    )
