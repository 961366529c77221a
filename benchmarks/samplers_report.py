"""What ``samplers.py`` has measured, as a table, verdicts on the claims, and a plot."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .rival_methods import RIVALS
from .sampler_methods import METHODS, ONCE

CALLS = (8, 10, 12, 14, 20)
RIVAL_CALLS = (10, 14)
"""Of our methods and of rivals."""


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
