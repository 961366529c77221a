# ruff: noqa: TID251
"""The tables of ``host_pictures.py``: run by the host's interpreter, in its folder."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any

from host_beds import PACK, ROOT, Bed, Spent, calibrate, flow, planned_samplers, plans

from benchmarks.host_emoji import HELD_OUT, USUAL, Emoji
from benchmarks.host_features import in_features

import comfy.samplers  # isort: skip  after host_beds, which starts the host
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

from benchmarks import rivals
from sv_core.call_rules import call_nodes
from sv_core.fidelity import psnr

any_sampler = import_module(".nodes.samplers.any_sampler", PACK)
EULER = comfy.samplers.sampler_object("euler")
Made = tuple[torch.Tensor, Spent]
"""Latents, and what their run has cost."""


def made(bed: Bed, sampler: Any, sigmas: torch.Tensor | None = None, patcher: Any = None) -> Made:
    x, _ = bed.run(sampler, bed.native if sigmas is None else sigmas, patcher)
    return x, bed.spent


def nearest(bed: Bed, results: list[Made]) -> Made | None:
    return max(results, key=lambda result: bed.decibels(result[0], bed.base), default=None)


# A rival as a SAMPLER ----------------------------------------------------------------------------


def run_rival(bed: Bed, due: rivals.Due, forecast: rivals.Forecast) -> tuple[Made, rivals.Nodes]:
    """One run of the host's sampling with the rival's answers between its calls, and where."""
    nodes: rivals.Nodes = ()

    def function(model, x, sigmas, extra_args=None, callback=None, disable=None):
        nonlocal nodes

        def velocity(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            return (x - model(x, sigma.expand(len(x)), **(extra_args or {}))) / sigma

        x, nodes = rivals.sample(velocity, x, sigmas, due, forecast)
        return x

    return made(bed, flow.Sampler(function)), nodes


def longest(lists: list[rivals.Nodes]) -> list[rivals.Nodes]:
    most = max(map(len, lists), default=0)
    return [nodes for nodes in lists if len(nodes) == most]


# Methods: the latents and their cost, or None ----------------------------------------------------


def fewer_calls(bed: Bed, calls: int, **choice: Any) -> Made:
    """The node Fewer Calls."""
    chosen = any_sampler.Choice(**({"number": calls} | choice))
    model = any_sampler.FewerCalls(chosen, lambda text: None).attach(bed.patcher)
    return made(bed, EULER, patcher=model)


def planned(bed: Bed, calls: int, **settings: Any) -> Made:
    plan = plans.Plan(**({"calls": calls} | settings))
    return made(bed, planned_samplers.PlannedSampler(plan))


def self_calibrated(bed: Bed, calls: int) -> Made:
    """The second run of a queue."""
    sampler = planned_samplers.PlannedSampler(plans.Plan(plans.SELF, calls=calls))
    bed.run(sampler, bed.native, seed=1000 + calls)
    return made(bed, sampler)


@cache
def calibration(bed: Bed, calls: int) -> Any:
    """From eight runs of other words."""
    guider = comfy.samplers.CFGGuider(bed.patcher)
    guider.set_conds(*bed.others)
    guider.set_cfg(bed.cfg)
    batch = {"samples": torch.zeros(8, *bed.shape[1:])}
    return calibrate.calibrate(guider, batch, bed.native, 1, 500, calls)


def calibrated(bed: Bed, calls: int) -> Made:
    return fewer_calls(bed, calls, calibration=calibration(bed, calls))


def fewer_steps(name: str, bed: Bed, calls: int) -> Made:
    return made(bed, comfy.samplers.sampler_object(name), bed.grid(calls))


def on_nodes(choose: Callable, name: str, bed: Bed, calls: int) -> Made | None:
    due = rivals.at(choose(bed, calls))
    return nearest(bed, [run_rival(bed, due, f)[0] for f in rivals.FORECASTS[name]])


def fixed_nodes(bed: Bed, calls: int) -> list[int]:
    return call_nodes(bed.native.tolist(), calls)


def calibrated_nodes(bed: Bed, calls: int) -> rivals.Nodes:
    return calibration(bed, calls).nodes[calls]


def on_their_nodes(name: str, lists: Callable, bed: Bed, calls: int) -> Made | None:
    dues = [rivals.at(nodes) for nodes in longest(lists(bed.steps, calls))]
    results = [run_rival(bed, due, f)[0] for due in dues for f in rivals.FORECASTS[name]]
    return nearest(bed, results)


def ours_on_their_nodes(lists: Callable, bed: Bed, calls: int) -> Made | None:
    found = longest(lists(bed.steps, calls))
    return nearest(bed, [fewer_calls(bed, calls, nodes=nodes) for nodes in found])


def gate(bed: Bed, calls: int) -> tuple[Made, rivals.Nodes]:
    (hold,), times = rivals.FORECASTS["hold"], bed.native.tolist()

    def run(threshold: float) -> tuple[Made, rivals.Nodes]:
        return run_rival(bed, rivals.sea_gate(times, threshold, lambda x: x), hold)

    return rivals.gated(run, calls)


def sea_cache(bed: Bed, calls: int) -> Made:
    return gate(bed, calls)[0]


def ours_behind_sea_cache(bed: Bed, calls: int) -> Made:
    return fewer_calls(bed, calls, nodes=gate(bed, calls)[1])


def cached(node: Any, bed: Bed, calls: int) -> Made | None:
    """The nearest of the settings tried that make no more calls.

    A grid of thresholds, and the smallest that makes no more calls; the nearest need not be that.
    """
    results = []

    def run(start: float, every: int, threshold: float) -> tuple[Made, rivals.Nodes]:
        patcher = node.execute(bed.patcher, threshold, start, 0.95, False).args[0]
        patcher.model_options["transformer_options"]["easycache"].subsample_factor = every
        found = made(bed, EULER, patcher=patcher)
        results.append(found)
        return found, (0,) * found[1].calls

    for start, every in ((0.15, 8), (0.0, 8), (0.0, 1)):
        for threshold in torch.logspace(-2, 0.3, 10).tolist():
            run(start, every, threshold)
    for start, every in ((0.15, 8), (0.15, 1), (0.0, 1)):
        rivals.gated(partial(run, start, every), calls)
    return nearest(bed, [result for result in results if result[1].calls <= calls])


METHODS: dict[str, Callable] = {
    "ours, Fewer Calls": fewer_calls,
    "ours, stable_vs forecast": planned,
    "ours, self-calibrating": self_calibrated,
    "ours, calibrated": calibrated,
    "fewer steps, euler": partial(fewer_steps, "euler"),
    "fewer steps, res_multistep": partial(fewer_steps, "res_multistep"),
    "EasyCache, tuned": partial(cached, EasyCacheNode),
    "LazyCache, tuned": partial(cached, LazyCacheNode),
    "SeaCache's gate, hold": sea_cache,
    "hold, its nodes": partial(on_their_nodes, "hold", rivals.every_kth),
    "linear (TaylorSeer 1), its nodes": partial(
        on_their_nodes, "linear (TaylorSeer 1)", rivals.every_kth
    ),
    "TaylorSeer 2, its nodes": partial(on_their_nodes, "TaylorSeer 2", rivals.every_kth),
    "VDE, its nodes": partial(on_their_nodes, "VDE", rivals.stable_then_every_kth),
    "Spectrum, its nodes": partial(on_their_nodes, "Spectrum", rivals.growing_windows),
    "TaylorSeer 1, in features": partial(in_features, rivals.every_kth, "linear (TaylorSeer 1)"),
    "TaylorSeer 2, in features": partial(in_features, rivals.every_kth, "TaylorSeer 2"),
    "Spectrum, in features": partial(in_features, rivals.growing_windows, "Spectrum"),
    **{f"{name}, our nodes": partial(on_nodes, fixed_nodes, name) for name in rivals.FORECASTS},
    **{
        f"{name}, our calibrated nodes": partial(on_nodes, calibrated_nodes, name)
        for name in rivals.FORECASTS
    },
    "ours, every k-th node": partial(ours_on_their_nodes, rivals.every_kth),
    "ours, Spectrum's nodes": partial(ours_on_their_nodes, rivals.growing_windows),
    "ours, SeaCache's nodes": ours_behind_sea_cache,
}


# Rows --------------------------------------------------------------------------------------------


def measured(emoji: Emoji, bed: Bed, name: str, calls: int) -> dict | None:
    """One row."""
    result = METHODS[name](bed, calls)
    if result is None:
        return None
    latents, spent = result
    near = [bed.decibels(latents[k : k + 1], bed.base[k : k + 1]) for k in range(len(latents))]
    return spent._asdict() | {
        "db": bed.decibels(latents, bed.base),
        "worst": min(near),
        "ode": bed.decibels(latents, bed.truth),
        "psnr": float(psnr(emoji.pictures(latents), emoji.pictures(bed.base)).clamp(max=99).mean()),
    }


class Rows:
    """The rows so far, in a file that a stopped run goes on with."""

    def __init__(self, file: Path, resume: bool):
        self._file = file
        self.found: dict[str, dict | None] = {}
        file.parent.mkdir(parents=True, exist_ok=True)
        if resume and file.is_file():
            self.found = json.loads(file.read_text())

    def row(self, key: str, make: Callable[[], dict | None]) -> dict | None:
        if key not in self.found:
            self.found[key] = make()
            self._file.write_text(json.dumps(self.found, indent=1))
        return self.found[key]


HEAD = (
    "| method | calls | evaluations | s (in the network) | dB | worst picture | PSNR | dB to the "
    "converged |\n|---|---|---|---|---|---|---|---|"
)


def line(name: str, row: dict | None) -> str:
    if row is None:
        return f"| {name} | - | | | | | | |"
    return (
        f"| {name} | {row['calls']} | {row['calls']} + {row['uncond']} | {row['seconds']:.1f} "
        f"({row['model_seconds']:.1f}) | {row['db']:.1f} | {row['worst']:.1f} | {row['psnr']:.1f} "
        f"| {row['ode']:.1f} |"
    )


def is_rival(name: str) -> bool:
    return "ours" not in name and "nodes" not in name.replace("its nodes", "")


def verdict(rows: dict[str, dict]) -> str:
    """Ours against the best rival on its own nodes, and against the best on our nodes."""
    ours = {n: r for n, r in rows.items() if n.startswith("ours, ") and "nod" not in n}
    groups = {
        "on its own nodes": {n: r for n, r in rows.items() if is_rival(n)},
        "on our nodes": {n: r for n, r in rows.items() if n.endswith("our nodes")},
        "on our calibrated nodes": {n: r for n, r in rows.items() if n.endswith("ated nodes")},
    }
    said = []
    for title, others in groups.items():
        if not others:
            continue
        best = max(others, key=lambda n: others[n]["db"])
        gains = ", ".join(
            f"{n[6:]} {r['db'] - others[best]['db']:+.1f} dB" for n, r in ours.items()
        )
        said.append(
            f"- the best rival {title} is {best}, {others[best]['db']:.1f} dB; ours: {gains}"
        )
    return "\n".join(said)


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg", default="1,3,5")
    parser.add_argument("--steps", default="20,30")
    parser.add_argument("--share", type=float, default=0.5, help="of the steps, that are calls")
    parser.add_argument("--seed", type=int, default=101)
    parser.add_argument("--methods", default="", help="only those whose name contains one of these")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "pictures")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args(sys.argv[3:])


@torch.inference_mode()
def inside(checkpoint: Path) -> None:
    chosen = settings()
    held_out = chosen.seed > 100
    words, others = (HELD_OUT, USUAL) if held_out else (USUAL, HELD_OUT)
    wanted = [w for w in chosen.methods.split(",") if w]
    names = [n for n in METHODS if not wanted or any(w in n for w in wanted)]
    rows = Rows(chosen.out / Path.cwd().name / "rows.json", chosen.resume)
    emoji = Emoji(checkpoint)
    print(f"ComfyUI in {Path.cwd().name}, torch {torch.__version__}, seed {chosen.seed}, "
          f"{'held-out' if held_out else 'usual'} words, {time.strftime('%Y-%m-%d')}")  # fmt: skip
    for cfg in map(float, chosen.cfg.split(",")):
        truth = None
        for steps in map(int, chosen.steps.split(",")):
            bed = emoji.bed(cfg, steps, words, chosen.seed, others)
            truth = bed.truth if truth is None else truth
            bed.truth = truth
            calls = round(chosen.share * steps)
            print(f"\n### cfg {cfg:g}, {calls} calls of {steps} steps\n\n{HEAD}", flush=True)
            found = {}
            for name in names:
                key = f"{chosen.seed} {cfg:g} {steps} {calls} {name}"
                row = rows.row(key, partial(measured, emoji, bed, name, calls))
                print(line(name, row), flush=True)
                if row is not None:
                    found[name] = row
            print(f"\n{verdict(found)}", flush=True)


inside(Path(sys.argv[2]))
