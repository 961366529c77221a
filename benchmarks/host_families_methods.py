# ruff: noqa: TID251, E402
"""The table of ``host_families.py``: run by the host's interpreter, in its folder."""

import sys
from importlib import import_module
from pathlib import Path

BENCHMARKS, sys.path[0] = sys.path[0], sys.argv[1]
import tests.nodes  # ours, before the host's folder of that name can be found

sys.path[0] = BENCHMARKS
from host_beds import PACK, flow

import comfy.supported_models  # isort: skip  after host_beds, which starts the host
import torch

from tests.nodes.family_runs import FamilyRun
from tests.nodes.flow_families import FAMILIES

any_sampler = import_module(".nodes.samplers.any_sampler", PACK)
STEPS = 20
KINDS = {"CONST": "flow", "COSMOS_RFLOW": "flow, x0 + sigma eps"}


def sampling_type(run: FamilyRun) -> str:
    bases = {c.__name__ for c in type(run.model_sampling).__mro__}
    kind = next(words for name, words in KINDS.items() if name in bases)
    shift = getattr(run.model_sampling, "shift", None)
    return kind if shift is None else f"{kind}, shift {shift:g}"


def layout(shape: tuple) -> str:
    if isinstance(shape[0], tuple):
        return " + ".join(layout(part) for part in shape)
    return " x ".join(str(n) for n in shape)


def with_share(run: FamilyRun, share: float) -> tuple[list[torch.Tensor], int, str]:
    """(the parts of the samples, calls of the network, what the node says)."""
    told: list[str] = []
    fewer = any_sampler.FewerCalls(any_sampler.Choice(share=share), told.append)
    return *run.sample(model=fewer.attach(run.model)), told[0]


def nearness(made: list[torch.Tensor], base: list[torch.Tensor]) -> str:
    errors = [(a - b).square().mean().sqrt() / b.std() for a, b in zip(made, base, strict=True)]
    return " / ".join(f"{-20 * float(e.log10()):.0f}" for e in errors)


def row(host: str) -> str:
    run = FamilyRun(host, STEPS)
    family = flow.family(run.model)
    base, _ = run.sample()
    every, asked, _ = with_share(run, 1.0)
    same = all(torch.equal(a, b) for a, b in zip(every, base, strict=True)) and asked == STEPS
    half, calls, told = with_share(run, 0.5)
    fewer, _ = run.sample(sigmas=run.grid(calls))
    assert f"{calls} of {STEPS} calls" in told, told
    return " | ".join([
        f"| {host}", family.name if family else "-", sampling_type(run), layout(run.tiny.shape),
        "exact" if same else "not exact", f"{calls} of {STEPS}", nearness(half, base),
        f"{nearness(fewer, base)} |",
    ])  # fmt: skip


def main() -> None:
    print(f"ComfyUI in {Path.cwd().name}, torch {torch.__version__}\n")
    print("| host's class | known as | sampling | latent | every call | calls | dB | 10 steps |")
    print("|---|---|---|---|---|---|---|---|")
    known = [host for host in FAMILIES if hasattr(comfy.supported_models, host)]
    for host in known:
        print(row(host), flush=True)
    print(f"\n{len(known)} classes.")


assert tests.nodes is not None
main()
