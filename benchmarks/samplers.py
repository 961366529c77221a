"""Samplers at equal calls, on flows whose exact velocity is known, over four families' schedules.

``--flows digits_sit`` measures the digits network that ``python dev.py demo`` leaves instead.

    python dev.py bench samplers [--out out/samplers] [--flows ring,digits] [--seed 1]

Writes table.md, samplers.png and cells.json, and prints the table and the verdicts.

Two aims are measured. E30: the result of 30 native Euler steps from the same noise, which the
paper measures against. ODE: the converged solution. dB = -20 log10(RMSE / std of the data), per
sample, then the mean over samples (as published PSNRs are means over pictures; capped at 100) and,
beside it, pooled: of the RMSE over the whole batch, which one flipped sample decides. A mode flip
is a sample that ends in another mode than the E30 run's.

A further method is a function of a ``Cell`` and a number of calls: add it to ``METHODS`` of
``sampler_methods``.
"""

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from sv_core.sampling import sample_ode
from sv_core.schedules import ode_grid

from .flows import FLOWS, Flow, build
from .networks import CHECKPOINT, digits_sit
from .sampler_methods import FAMILIES, METHODS, ONCE, Cell, Method

CALLS = (8, 10, 12, 14, 20)
CAP = 100.0


def decibels(x: Tensor, target: Tensor, std: float) -> tuple[float, float]:
    """(mean over samples, pooled)."""
    mse = (x - target).square().flatten(1).mean(1) / std**2 + 10 ** (-CAP / 10)
    return float(-10 * mse.log10().mean()), float(-10 * mse.mean().log10())


def measure(cell: Cell, name: str, method: Method, calls: int) -> dict | None:
    """One row: a method with a number of calls on one cell."""
    cell.calls = 0
    x = method(cell, calls)
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
        "e30": each,
        "e30_pooled": pooled,
        "ode": ode_each,
        "ode_pooled": ode_pooled,
        "flips": 100 * float(flips),
    }


def cells(flow: Flow, seed: int) -> list[Cell]:
    """A flow on every schedule, from the same noise and the same converged solution."""
    generator = torch.Generator().manual_seed(seed)
    x, spare = (
        torch.randn(n, flow.size, generator=generator, dtype=torch.float64) for n in (flow.batch, 8)
    )
    truth = sample_ode(flow.velocity, x, ode_grid(400))
    return [Cell(flow, family, x, spare, truth) for family in FAMILIES]


def run_flow(index: int, seed: int) -> list[dict]:
    """All rows of one flow."""
    torch.set_num_threads(1)
    rows = []
    flow = digits_sit() if index == len(FLOWS) else build(index, seed)
    for cell in cells(flow, seed=100 * seed + index):
        rows += [measure(cell, name, method, 0) for name, method in ONCE.items()]
        for name, method in METHODS.items():
            rows += [measure(cell, name, method, calls) for calls in CALLS]
    return [row for row in rows if row is not None]


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
        "| method | calls | E30 dB | worst cell | pooled | mode flips %, mean / worst | ODE dB "
        "| pooled | cells |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    settings = [(name, 0) for name in ONCE] + [(name, n) for name in METHODS for n in CALLS]
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
            f"| {name} | {low if low == high else f'{low}-{high}'} | {e30} | "
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
            found = [list(pick(rows, name, n).values()) for n in CALLS]
            y = [mean([r[key] for r in group]) for group in found]
            axis.plot(
                CALLS, y, "o-", ms=4, lw=2 if "ours" in name else 1.2, color=colour, label=name
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("out/samplers"))
    parser.add_argument("--flows", default="", help="only flows whose name contains one of these")
    parser.add_argument("--seed", type=int, default=1, help="other modes, patches and noise")
    options = parser.parse_args()
    wanted = [w for w in options.flows.split(",") if w]
    names = [f.__name__ for f in FLOWS] + ["digits_sit"] * (bool(wanted) and CHECKPOINT.exists())
    chosen = [i for i, name in enumerate(names) if not wanted or any(w in name for w in wanted)]
    if not chosen:
        parser.error(f"no flow is called that (have: {', '.join(names)})")
    began = time.perf_counter()
    with ProcessPoolExecutor(2) as pool:
        # The largest flows come last in the list: begin with them.
        parts = pool.map(partial(run_flow, seed=options.seed), reversed(chosen))
        rows = [row for part in parts for row in part]
    options.out.mkdir(parents=True, exist_ok=True)
    report = f"{table(rows)}\n\n{verdicts(rows)}\n"
    (options.out / "table.md").write_text(report)
    (options.out / "cells.json").write_text(json.dumps(rows, indent=1))
    plot(rows, options.out / "samplers.png")
    print(report)
    print(f"{len(rows)} measurements in {time.perf_counter() - began:.0f} s -> {options.out}")


if __name__ == "__main__":
    main()
