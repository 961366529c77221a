"""Samplers and their rivals at equal calls, over four families' schedules.

    python dev.py bench samplers [--beds flows,prompted,failing,digits] [--flows ring] [--seed 1]

Four groups of beds: ``flows``, whose exact velocity is known; ``prompted``, guided flows whose
difference of cond and uncond persists as in trained networks; ``failing``, on which few calls
lose; ``digits``, the network that ``python dev.py demo`` leaves, at guidance 1, 2, 4 and 7. A group
writes table.md, samplers.png and cells.json into OUT/GROUP, and prints table and verdicts. With
--resume, beds that an earlier run has finished are taken from its files.

Rules are chosen on seeds below 100; 101 and above draw other modes, patches and noise, are for
measuring alone, and nothing is chosen by them.

Two aims are measured. E30: the result of 30 native Euler steps from the same noise, which the
paper measures against. ODE: the converged solution. dB = -20 log10(RMSE / std of the data), per
sample, then the mean over samples (as published PSNRs are means over pictures; capped at 100) and,
beside it, pooled: of the RMSE over the whole batch, which one flipped sample decides. A mode flip
is a sample that ends in another mode than the E30 run's. A guided call is two evaluations of the
network, cond + uncond. Seconds are those of one run, of a method with several settings those of
all of them, calibration and its checks included.

A further method is a function of a ``Cell`` and a number of calls: add it to ``METHODS`` of
``sampler_methods`` or to ``RIVALS`` of ``rival_methods``.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sv_core.sampling import sample_ode
from sv_core.schedules import ode_grid

from .flows import FLOWS, Flow
from .hard_flows import FAILING, PROMPTED
from .networks import CHECKPOINT, digits_sit
from .rival_methods import RIVALS
from .sampler_methods import FAMILIES, METHODS, ONCE, Cell, Method

CALLS = (8, 10, 12, 14, 20)
RIVAL_CALLS = (10, 14)
CAP = 100.0
GUIDANCE = (1, 2, 4, 7)
"""Of the trained digits."""

GROUPS = {"flows": FLOWS, "prompted": PROMPTED, "failing": FAILING}
BEDS = [(group, make.__name__) for group, makes in GROUPS.items() for make in makes]
BEDS += [("digits", f"digits_sit_{scale}") for scale in GUIDANCE]
"""Group and name; a bed's place in this list is part of its seeds."""


def build(index: int, seed: int) -> Flow:
    """The flow of a bed; another seed draws other modes, patches and trees."""
    group, name = BEDS[index]
    if group == "digits":
        return digits_sit(float(name.rpartition("_")[2]))
    makes = {make.__name__: make for make in GROUPS[group]}
    return makes[name](torch.Generator().manual_seed(1000 * seed + index))


def decibels(x: Tensor, target: Tensor, std: float) -> tuple[float, float]:
    """(mean over samples, pooled)."""
    mse = (x - target).square().flatten(1).mean(1) / std**2 + 10 ** (-CAP / 10)
    return float(-10 * mse.log10().mean()), float(-10 * mse.mean().log10())


def measure(cell: Cell, name: str, method: Method, calls: int) -> dict | None:
    """One row: a method with a number of calls on one cell."""
    cell.calls = 0
    began = time.perf_counter()
    x = method(cell, calls)
    seconds = time.perf_counter() - began
    if x is None:
        return None
    flow = cell.flow
    each, pooled = decibels(x, cell.base, flow.std)
    ode_each, ode_pooled = decibels(x, cell.truth, flow.std)
    flips = (flow.modes(x) != flow.modes(cell.base)).double().mean()
    return {
        "flow": flow.name,
        "family": cell.family,
        "method": name,
        "nominal": calls,
        "calls": cell.calls,
        "uncond": cell.calls * flow.guided,
        "seconds": seconds,
        "e30": each,
        "e30_pooled": pooled,
        "ode": ode_each,
        "ode_pooled": ode_pooled,
        "flips": 100 * float(flips),
    }


@dataclass(frozen=True)
class Extent:
    """How much of each bed is measured."""

    schedules: tuple[str, ...] = tuple(FAMILIES)
    samples: int = 512


def cells(flow: Flow, extent: Extent, seed: int) -> list[Cell]:
    """A flow on the schedules, from the same noise and the same converged solution."""
    generator = torch.Generator().manual_seed(seed)
    x, spare = (
        torch.randn(n, flow.size, generator=generator, dtype=torch.float64)
        for n in (min(flow.batch, extent.samples), 8)
    )
    truth = sample_ode(flow.velocity, x, ode_grid(400))
    return [Cell(flow, family, x, spare, truth) for family in extent.schedules]


def run_flow(index: int, extent: Extent, seed: int) -> list[dict]:
    """All rows of one bed."""
    torch.set_num_threads(1)
    rows = []
    flow = build(index, seed)
    for cell in cells(flow, extent, seed=100 * seed + index):
        rows += [measure(cell, name, method, 0) for name, method in ONCE.items()]
        for name, method in METHODS.items():
            rows += [measure(cell, name, method, calls) for calls in CALLS]
        for name, method in RIVALS.items():
            rows += [measure(cell, name, method, calls) for calls in RIVAL_CALLS]
    return [row for row in rows if row is not None]


def kept(index: int, extent: Extent, seed: int, folder: Path, resume: bool) -> list[dict]:
    """``run_flow``, or what it left in the folder."""
    file = folder / f"{BEDS[index][1]}_seed{seed}.json"
    if resume and file.is_file():
        return json.loads(file.read_text())
    rows = run_flow(index, extent, seed)
    file.write_text(json.dumps(rows, indent=1))
    return rows


# Report ------------------------------------------------------------------------------------------


def pick(rows: list[dict], method: str, nominal: int = 0) -> dict[tuple[str, str], dict]:
    """The rows of one method and number of calls, by cell."""
    return {
        (r["flow"], r["family"]): r
        for r in rows
        if r["method"] == method and r["nominal"] == nominal
    }


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def table(rows: list[dict]) -> str:
    """Markdown: one line per method and number of calls, over all cells."""
    lines = [
        "| method | calls | evaluations | s | E30 dB | worst cell | pooled "
        "| mode flips %, mean / worst | ODE dB | pooled | cells |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    settings = [(name, 0) for name in ONCE]
    settings += [(name, n) for name in METHODS | RIVALS for n in CALLS]
    for name, nominal in settings:
        found = list(pick(rows, name, nominal).values())
        if not found:
            continue
        column = {key: [r[key] for r in found] for key in found[0]}
        low, high = min(column["calls"]), max(column["calls"])
        e30 = (
            "- | - | - | -"
            if name == "Euler, 30 steps"
            else f"{mean(column['e30']):.1f} | {min(column['e30']):.1f} | "
            f"{mean(column['e30_pooled']):.1f} | "
            f"{mean(column['flips']):.1f} / {max(column['flips']):.0f}"
        )
        lines.append(
            f"| {name} | {low if low == high else f'{low}-{high}'} | "
            f"{mean(column['calls']):.1f} + {mean(column['uncond']):.1f} | "
            f"{mean(column['seconds']):.2g} | {e30} | "
            f"{mean(column['ode']):.1f} | {mean(column['ode_pooled']):.1f} | {len(found)} |"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class Claim:
    """One setting is nearer than another: in that share of the cells, by so many dB on average."""

    ours: tuple[str, int]
    theirs: tuple[str, int]
    share: float | None = None
    gain: float | None = None
    key: str = "e30"


PUBLISHED, TWENTY = ("StableVS, published", 0), ("StableVS, best split", 20)
CLAIMS = (
    Claim(("ours, fixed", 14), PUBLISHED),
    Claim(("ours, fixed", 12), PUBLISHED, 0.95, 12),
    Claim(("ours, fixed", 10), PUBLISHED, gain=8),
    Claim(("ours, fixed", 8), PUBLISHED, gain=0),
    Claim(("ours, density", 14), PUBLISHED),
    Claim(("ours, density", 12), PUBLISHED),
    Claim(("ours, calibrated", 10), TWENTY, 1.0),
    Claim(("ours, self-calibrated", 10), TWENTY, 0.9),
    Claim(("ours, self-calibrated", 12), TWENTY, 0.9),
    *(Claim(("ours, self-calibrated", n), ("ours, fixed", n), gain=0) for n in (8, 10, 12, 14)),
    Claim(("ours, density", 14), ("ours, guarded", 14)),
    Claim(("ours, fixed", 14), ("ours, guarded", 14)),
    Claim(("ours, ode", 12), ("Euler, 30 steps", 0), 0.8, key="ode"),
)


def verdict(rows: list[dict], claim: Claim, pooled: bool) -> str:
    """In how many cells, by how much, whether that is what was asked, and where it is not so."""
    a, b = pick(rows, *claim.ours), pick(rows, *claim.theirs)
    key = claim.key + "_pooled" * pooled
    gains = {cell: a[cell][key] - b[cell][key] for cell in b if cell in a}
    lost = sorted((gain, *cell) for cell, gain in gains.items() if gain < 0)
    share, average = 1 - len(lost) / len(gains), mean(list(gains.values()))
    asked = []
    if claim.share is not None:
        asked.append((f"{100 * claim.share:.0f} %", share >= claim.share))
    if claim.gain is not None:
        asked.append((f"{claim.gain:+.0f} dB", average >= claim.gain))
    text = [f"{name} {calls}" if calls else name for name, calls in (claim.ours, claim.theirs)]
    line = (
        f"- {claim.key.upper()}{', pooled' if pooled else ''}: {text[0]} against {text[1]}: "
        f"{len(gains) - len(lost)} of {len(gains)} cells ({100 * share:.1f} %), {average:+.1f} dB"
    )
    if asked:
        line += f" (asked: {', '.join(a for a, _ in asked)}: "
        line += "reached)" if all(ok for _, ok in asked) else "**not reached**)"
    named = [f"{flow} on {family} {gain:.1f}" for gain, flow, family in lost[: 5 if pooled else 99]]
    more = f"; and {len(lost) - len(named)} more" if len(lost) > len(named) else ""
    return line + (f"; behind: {'; '.join(named)}{more}" if named else "")


def verdicts(rows: list[dict]) -> str:
    """Every claim, per sample and pooled."""
    lines = [verdict(rows, claim, pooled) for pooled in (False, True) for claim in CLAIMS]
    return "\n".join(lines)


OURS = ("ours, fixed", "ours, self-calibrated", "ours, calibrated")
OTHERS = ("Euler", "DPM++(2M)", "UniPC", "RES multistep", "StableVS, best split")


def best(rows: list[dict], names: Sequence[str], calls: int) -> dict[tuple[str, str], dict]:
    """By cell, the nearest row of several methods."""
    found: dict[tuple[str, str], dict] = {}
    for name in names:
        for cell, row in pick(rows, name, calls).items():
            if cell not in found or row["e30"] > found[cell]["e30"]:
                found[cell] = row
    return found


def beside_rivals(rows: list[dict]) -> str:
    """Markdown: ours against the best of the others in each cell, at equal calls."""
    theirs = [n for n in RIVALS if "ours" not in n and "our nodes" not in n]
    groups = {
        "on their own nodes, or fewer steps": [*theirs, *OTHERS],
        "on our nodes": [n for n in RIVALS if "our nodes" in n],
    }
    lines = [
        "| ours | calls | the others | gain dB, mean / worst cell | ahead | 10 dB ahead "
        "| the best of them, how often | behind |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in OURS:
        for calls in RIVAL_CALLS:
            ours = pick(rows, name, calls)
            for title, names in groups.items():
                others = best(rows, names, calls)
                gains = {c: ours[c]["e30"] - others[c]["e30"] for c in others if c in ours}
                if gains:
                    lines.append(_gain_line(name, calls, title, gains, others))
    return "\n".join(lines)


def _gain_line(name: str, calls: int, title: str, gains: dict, others: dict) -> str:
    won = Counter(row["method"] for row in others.values()).most_common(2)
    lost = sorted((gain, *cell) for cell, gain in gains.items() if gain < 0)
    named = "; ".join(f"{flow} on {family} {gain:.1f}" for gain, flow, family in lost[:4])
    more = f"; and {len(lost) - 4} more" if len(lost) > 4 else ""
    return (
        f"| {name} | {calls} | {title} | {mean(list(gains.values())):+.1f} / "
        f"{min(gains.values()):+.1f} | {sum(g > 0 for g in gains.values())} of {len(gains)} | "
        f"{sum(g >= 10 for g in gains.values())} | "
        f"{', '.join(f'{method} {count}' for method, count in won)} | {named}{more} |"
    )


COLOURS = {
    "Euler": "#999999",
    "StableVS, best split": "#d62728",
    "DPM++(2M)": "#8c564b",
    "UniPC": "#9467bd",
    "UniPC, grid of ode": "#e0a0ff",
    "ours, density": "#1f77b4",
    "ours, fixed": "#17becf",
    "ours, self-calibrated": "#2ca02c",
    "ours, calibrated": "#006400",
    "ours, ode": "#ff7f0e",
    "VDE, its nodes": "#e377c2",
    "Spectrum, its nodes": "#bcbd22",
}


def plot(rows: list[dict], path: Path) -> None:
    """Mean dB over all cells against the number of calls, for both aims."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    panels = (("e30", "nearness to the 30-step result"), ("ode", "nearness to the exact solution"))
    for axis, (key, title) in zip(axes, panels, strict=True):
        for name, colour in COLOURS.items():
            found = {n: list(pick(rows, name, n).values()) for n in CALLS}
            y = {n: mean([r[key] for r in group]) for n, group in found.items() if group}
            axis.plot(
                list(y),
                list(y.values()),
                "o-",
                ms=4,
                lw=2 if "ours" in name else 1.2,
                color=colour,
                label=name,
            )
        published = list(pick(rows, "StableVS, published").values())
        x = mean([r["calls"] for r in published])
        axis.plot(x, mean([r[key] for r in published]), "*", ms=14, color="#d62728",
                  label="StableVS, published (17-27 calls)")  # fmt: skip
        axis.set(title=title, xlabel="model calls", ylabel="dB, mean over samples and cells")
        axis.set_xticks(CALLS)
        axis.grid(alpha=0.3)
    thirty = mean([r["ode"] for r in pick(rows, "Euler, 30 steps").values()])
    axes[1].axhline(thirty, color="#999999", ls=":", label="Euler, 30 calls")
    handles = {}
    for axis in axes:
        handles |= dict(zip(*axis.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles.keys(), loc="outside right center", fontsize=9)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def report(group: str, rows: list[dict], out: Path) -> None:
    """Write and print what a group of beds has given."""
    text = f"{table(rows)}\n\n{verdicts(rows)}\n\n{beside_rivals(rows)}\n"
    out.mkdir(parents=True, exist_ok=True)
    (out / "table.md").write_text(text)
    (out / "cells.json").write_text(json.dumps(rows, indent=1))
    plot(rows, out / "samplers.png")
    print(f"\n## {group}\n\n{text}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/samplers"))
    parser.add_argument("--beds", default="flows,prompted,failing,digits", help="groups of them")
    parser.add_argument("--flows", default="", help="only beds whose name contains one of these")
    parser.add_argument("--schedules", default=",".join(FAMILIES), help="only these")
    parser.add_argument("--samples", type=int, default=512, help="at most so many of each bed")
    parser.add_argument("--seed", type=int, default=1, help="from 101 on: held out")
    parser.add_argument("--jobs", type=int, default=2, help="processes")
    parser.add_argument("--resume", action="store_true", help="keep the beds that are finished")
    options = parser.parse_args()
    groups = options.beds.split(",")
    wanted = [w for w in options.flows.split(",") if w]
    chosen = [
        i
        for i, (group, name) in enumerate(BEDS)
        if group in groups and (not wanted or any(w in name for w in wanted))
        if group != "digits" or CHECKPOINT.exists()
    ]
    if not chosen:
        names = ", ".join(f"{name} in {group}" for group, name in BEDS)
        parser.error(f"no bed is called that (have: {names}; digits need python dev.py demo)")
    began = time.perf_counter()
    folder = options.out / "beds"
    folder.mkdir(parents=True, exist_ok=True)
    extent = Extent(tuple(options.schedules.split(",")), options.samples)
    one = partial(kept, extent=extent, seed=options.seed, folder=folder, resume=options.resume)
    with ProcessPoolExecutor(options.jobs) as pool:
        # The largest flows come last in their lists: begin with them.
        found = dict(zip(reversed(chosen), pool.map(one, reversed(chosen)), strict=True))
    for group in groups:
        rows = [row for i in chosen if BEDS[i][0] == group for row in found[i]]
        if rows:
            report(group, rows, options.out / group)
    print(f"{time.perf_counter() - began:.0f} s -> {options.out}")


if __name__ == "__main__":
    main()
