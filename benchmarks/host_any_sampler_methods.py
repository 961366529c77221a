# ruff: noqa: TID251
"""The tables of ``host_any_sampler.py``: run by the host's interpreter, in its folder."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from host_beds import PACK, SEED, Bed, digits_bed, sit_model

from benchmarks.host_emoji import HELD_OUT, Emoji

import comfy.samplers  # isort: skip  after host_beds, which starts the host
import server
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

import nodes

any_sampler = import_module(".nodes.samplers.any_sampler", PACK)
table = import_module(".nodes.samplers.sampler_table", PACK)
record = import_module(".sv_core.velocity_record", PACK)
weighted = import_module(".sv_core.weighted_run", PACK)
STEPS = 20
NAMED = ("euler", "uni_pc", "res_multistep", "gradient_estimation", "er_sde", "dpmpp_2m", "heun")
"""Those beside which the caches are tried: what official templates use, and two more."""
CORRECTED = ("euler", "uni_pc", "res_multistep", "deis")
DRAWING = ("er_sde", "euler_ancestral", "ddpm", "sa_solver", "res_multistep_ancestral",
           "exp_heun_2_x0_sde", "seeds_2")  # fmt: skip
GUIDANCE = (1.0, 2.0, 4.0, 6.0)
CHOSEN = "chosen"
Run = tuple[torch.Tensor, int]


@contextmanager
def measured_anew(quantity: Any, convergence: Any, fresh: Any) -> Iterator[None]:
    """Context manager: nothing is left alone by the table, and these settings hold.

    convergence: a number, None for no replay, or CHOSEN as the node chooses it; fresh: a number.
    """
    before = any_sampler.convergence_for, any_sampler.VELOCITY, weighted.FRESH
    left_alone = dict(table.LEFT_ALONE)
    table.LEFT_ALONE.clear()
    any_sampler.VELOCITY = quantity
    if convergence != CHOSEN:
        any_sampler.convergence_for = lambda guidance: convergence
    if fresh != CHOSEN:
        weighted.FRESH = fresh
    try:
        yield
    finally:
        table.LEFT_ALONE.update(left_alone)
        any_sampler.convergence_for, any_sampler.VELOCITY, weighted.FRESH = before


def ours(
    bed: Bed, name: str, quantity: Any = record.VELOCITY,
    convergence: Any = CHOSEN, fresh: Any = CHOSEN, **choice: Any,
) -> tuple[torch.Tensor, int, str]:  # fmt: skip
    """(samples, calls, what the node says)."""
    told: list[str] = []
    with measured_anew(quantity, convergence, fresh):
        model = any_sampler.FewerCalls(any_sampler.Choice(**choice), told.append).attach(
            bed.patcher
        )
        x, calls = bed.run(comfy.samplers.sampler_object(name), bed.grid(STEPS), model)
    return x, calls, told[0]


def fewer_steps(bed: Bed, name: str, calls: int) -> Run:
    """The most steps that need no more calls."""
    sampler = comfy.samplers.sampler_object(name)
    for steps in range(min(calls, STEPS), 2, -1):
        run = bed.run(sampler, bed.grid(steps))
        if run[1] <= calls:
            return run
    return run


def cached(bed: Bed, name: str, node: Any, calls: int, base: torch.Tensor) -> Run | None:
    """The nearest of the settings that make no more calls."""
    runs = []
    for start in (0.0, 0.15):
        for threshold in torch.logspace(-2, 0.3, 10).tolist():
            patcher = node.execute(bed.patcher, threshold, start, 0.95, False).args[0]
            try:
                run = bed.run(comfy.samplers.sampler_object(name), bed.grid(STEPS), patcher)
            except RuntimeError:  # 0.3.64: the node adds tensors of other sizes with guidance
                continue
            if run[1] <= calls:
                runs.append(run)
    return max(runs, key=lambda run: bed.decibels(run[0], base), default=None)


def shown(bed: Bed, run: tuple | None, base: torch.Tensor) -> str:
    if run is None:
        return "-"
    evaluations = f"{run[1]} + {run[1]}" if bed.cfg != 1 else f"{run[1]}"
    return f"{bed.decibels(run[0], base):.1f} ({evaluations})"


def every_sampler(bed: Bed) -> None:
    print(f"\n### Every sampler, {STEPS} steps, a share of half and a third: dB (calls)\n")
    print("| sampler | its own calls | half | half, no replay | a third | fewer steps |")
    print("|---|---|---|---|---|---|")
    for name in comfy.samplers.SAMPLER_NAMES:
        if name == "stable_vs":
            continue
        base, own = bed.run(comfy.samplers.sampler_object(name), bed.grid(STEPS))
        x, calls, told = ours(bed, name)
        if "runs as without" in told:
            print(f"| {name} | {own} | {told.split(': ', 1)[1]} | | | |", flush=True)
            continue
        made = [
            (x, calls),
            ours(bed, name, convergence=None),
            ours(bed, name, share=1 / 3),
            fewer_steps(bed, name, calls),
        ]
        row = " | ".join(shown(bed, run, base) for run in made)
        print(f"| {name} | {own} | {row} |", flush=True)


def noise(bed: Bed) -> None:
    """Samplers that draw noise, by what is forecast."""
    settings = {f"{share:g}": {"fresh": share} for share in (0.0, 0.25, 0.5, 0.75, 1.0)}
    settings["x0_hat"] = {"quantity": record.DATA}
    print(f"\n### Noise that the data do not follow at once (FRESH), half of {STEPS} steps: dB\n")
    print("| cfg | sampler | " + " | ".join(settings) + " |")
    print("|---|---|" + "---|" * len(settings))
    usual = bed.cfg
    for bed.cfg in (1.0, 2.0):
        for name in DRAWING:
            if name not in comfy.samplers.SAMPLER_NAMES:
                continue
            base, _ = bed.run(comfy.samplers.sampler_object(name), bed.grid(STEPS))
            found = (bed.decibels(ours(bed, name, **s)[0], base) for s in settings.values())
            row = " | ".join(f"{db:.1f}" for db in found)
            print(f"| {bed.cfg:g} | {name} | {row} |", flush=True)
    bed.cfg = usual


def exact(bed: Bed) -> None:
    print("\n### With every call: samplers whose result is not their own, bit for bit\n")
    others = []
    for name in comfy.samplers.SAMPLER_NAMES:
        if name == "stable_vs":
            continue
        base, own = bed.run(comfy.samplers.sampler_object(name), bed.grid(STEPS))
        x, calls, _ = ours(bed, name, share=1.0)
        if not torch.equal(x, base) or calls != own:
            others.append(name)
    print(", ".join(others) or f"none of {len(comfy.samplers.SAMPLER_NAMES) - 1}", flush=True)


def beside_caches(bed: Bed) -> None:
    print(f"\n### Beside the caches, {STEPS} steps, at most 10 calls: dB (calls)\n")
    print("| sampler | Fewer Calls | fewer steps | EasyCache, tuned | LazyCache, tuned |")
    print("|---|---|---|---|---|")
    for name in NAMED:
        sampler = comfy.samplers.sampler_object(name)
        base, _ = bed.run(sampler, bed.grid(STEPS))
        model = any_sampler.FewerCalls(any_sampler.Choice(number=10), lambda text: None)
        made = [
            bed.run(sampler, bed.grid(STEPS), model.attach(bed.patcher)),
            fewer_steps(bed, name, 10),
            cached(bed, name, EasyCacheNode, 10, base),
            cached(bed, name, LazyCacheNode, 10, base),
        ]
        print(f"| {name} | " + " | ".join(shown(bed, run, base) for run in made) + " |", flush=True)


def replay_and_guidance(bed: Bed) -> None:
    settings = {"no replay": None, "velocity kept": 0.0, "0.3": 0.3, "0.5": 0.5, "0.7": 0.7}
    settings |= {"data kept": 1.0, "the node's": CHOSEN}
    print("\n### What a replayed call keeps (convergence), by guidance: dB at 10 of 20 calls\n")
    print("| cfg | sampler | " + " | ".join(settings) + " |")
    print("|---|---|" + "---|" * len(settings))
    usual = bed.cfg
    for bed.cfg in GUIDANCE:
        for name in CORRECTED:
            base, _ = bed.run(comfy.samplers.sampler_object(name), bed.grid(STEPS))
            row = [
                f"{bed.decibels(ours(bed, name, convergence=c)[0], base):.1f}"
                for c in settings.values()
            ]
            print(f"| {bed.cfg:g} | {name} | " + " | ".join(row) + " |", flush=True)
    bed.cfg = usual


def load_res4lyf() -> None:
    """Add RES4LYF's samplers where this ComfyUI has that pack in its custom_nodes."""
    folder = Path("custom_nodes/RES4LYF").absolute()
    if folder.is_dir():
        server.PromptServer(asyncio.new_event_loop())  # it adds a route while it is loaded
        asyncio.run(nodes.load_custom_node(str(folder)))


def twenty(bed: Bed) -> Bed:
    """Two of every digit: every sampler takes its time."""
    bed.shape, bed.noise = (20, *bed.shape[1:]), bed.noise[:20]
    bed.conds[0] = sit_model.conditioning_from_classes(list(range(10)) * 2)
    return bed


TABLES = (beside_caches, exact, noise, replay_and_guidance, every_sampler)


@torch.inference_mode()
def inside(checkpoint: Path) -> None:
    print(f"ComfyUI in {Path.cwd().name}, torch {torch.__version__}, seed {SEED}", flush=True)
    load_res4lyf()
    if checkpoint.suffix == ".ckpt":
        bed = Emoji(checkpoint).bed(3.0, STEPS, HELD_OUT, 101)
    else:
        bed = twenty(digits_bed(checkpoint))
    print(f"{bed.name}: dB (evaluations, cond + uncond)", flush=True)
    for table_of in TABLES:
        if "--tables" not in sys.argv or table_of.__name__ in sys.argv[-1].split(","):
            table_of(bed)


inside(Path(sys.argv[2]))
