"""StableVM where the truth is known: ``python -m training.toy [PICTURE.png]``.

On 2-D Gaussian mixtures the marginal velocity has a closed form, so the noise of a training target,
the noise of its gradient and the error of a trained network are measured against the truth. About a
minute on one CPU core; prints tables and writes one picture.
"""

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Generator

from .command import run_command
from .measure import BANKS, BATCH, GRADIENT_TIMES, METHODS, TIMES, Result, measure
from .models import MIXTURES, mean_and_error


def table(result: Result) -> str:
    """The numbers behind the picture, as text."""
    lines = ["variance of the target per coordinate, +- standard error"]
    at = [int((TIMES - t).abs().argmin()) for t in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)]
    lines.append(f"{'':>14}" + "".join(f"{f't = {TIMES[i]:.2f}':>18}" for i in at))
    for bank, (mean, error) in result.target.items():
        name = "CFM" if bank is None else f"StableVM {bank}"
        cells = (f"{mean[i]:.4f} +- {error[i]:.4f}" for i in at)
        lines.append(f"{name:>14}" + "".join(f"{cell:>18}" for cell in cells))
    lines += ["", f"variance of the gradient, batch {BATCH}, over CFM's"]
    at = [int((GRADIENT_TIMES - t).abs().argmin()) for t in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)]
    lines.append(f"{'':>14}" + "".join(f"{f't = {GRADIENT_TIMES[i]:.2f}':>18}" for i in at))
    for bank, (mean, _) in result.gradient.items():
        name = "CFM" if bank is None else f"StableVM {bank}"
        ratio = mean / result.gradient[None][0]
        lines.append(f"{name:>14}" + "".join(f"{ratio[i]:>18.3f}" for i in at))
    plain = result.runs[METHODS[0]]
    lines += [
        "",
        f"after {plain.steps[-1]} steps, {plain.error.shape[-1]} seeds, +- standard error; "
        "x: share of CFM's, by pairs of seeds",
        f"{'':>22}{'velocity error':>34}{'at t >= 0.8':>34}{'Fisher divergence':>34}",
    ]
    for method, run in result.runs.items():
        line = f"{method.name:>22}"
        for name in ("velocity", "late", "fisher"):
            value, base = getattr(run, name)[-1], getattr(plain, name)[-1]
            cell = "{:.4f} +- {:.4f}".format(*mean_and_error(value))
            line += f"{cell + ' x {:.2f} +- {:.2f}'.format(*mean_and_error(value / base)):>34}"
        lines.append(line)
    return "\n".join(lines)


def picture(results: dict[str, Result], file: Path) -> None:
    """One row per mixture: data, the target's variance, the gradient's, and errors over steps."""
    import matplotlib
    import matplotlib.ticker

    matplotlib.use("Agg")  # a file, with or without a display
    import matplotlib.pyplot as plt

    blues = plt.get_cmap("Blues")
    shade: dict[int | None, Any] = dict(zip(BANKS, blues([0.4, 0.6, 0.8, 1.0]), strict=True))
    shade[None] = "#d1495b"
    with plt.rc_context(
        {
            "axes.spines.top": False,
            "axes.spines.right": False,
            "font.size": 9,
            "axes.grid": True,
            "grid.alpha": 0.25,
            "axes.titlesize": 10,
            "legend.frameon": False,
        }
    ):
        size = (13.5, 3.3 * len(results))
        figure, rows = plt.subplots(
            len(results), 4, figsize=size, squeeze=False, width_ratios=(0.8, 1, 1, 1)
        )
        for (name, result), (data, target, gradient, error) in zip(
            results.items(), rows, strict=True
        ):
            x = result.mixture.sample(2000, Generator().manual_seed(0))
            data.scatter(*x.T, s=2, color="#555555", alpha=0.5, linewidths=0)
            data.set(aspect="equal", title=name, xticks=range(-2, 3), yticks=range(-2, 3))
            data.grid(False)
            for axes, times, curves in (
                (target, TIMES, result.target),
                (gradient, GRADIENT_TIMES, result.gradient),
            ):
                for bank, (mean, spread) in curves.items():
                    label = "CFM" if bank is None else f"StableVM, {bank} references"
                    axes.plot(times, mean, color=shade[bank], label=label, linewidth=1.8)
                    low, high = mean - 2 * spread, mean + 2 * spread
                    axes.fill_between(times, low, high, color=shade[bank], alpha=0.2, linewidth=0)
                axes.set(yscale="log", xlim=(0, 1), xlabel="t  (0 data, 1 noise)")
            target.set_title("variance of the target")
            gradient.set_title("variance of the gradient")
            colours = (shade[None], shade[64], shade[256], "#e8a33d", "#3a7d44")
            for (method, run), colour in zip(result.runs.items(), colours, strict=True):
                mean, spread = mean_and_error(run.velocity)
                error.plot(run.steps, mean, color=colour, label=method.name, linewidth=1.8)
                low, high = mean - spread, mean + spread
                error.fill_between(run.steps, low, high, color=colour, alpha=0.2, linewidth=0)
            error.set(xscale="log", yscale="log", xlabel="training steps")
            error.set_title("error of the trained velocity")
            error.yaxis.set_minor_formatter(matplotlib.ticker.NullFormatter())
        rows[0, 3].legend(fontsize=7.5, loc="lower left")
        figure.tight_layout(rect=(0, 0.05, 1, 1))
        figure.legend(*rows[0, 1].get_legend_handles_labels(), loc="lower center", ncols=5)
        figure.savefig(file, dpi=150)
        plt.close(figure)


def run(options: argparse.Namespace) -> int:
    """Measure, print the tables, write the picture."""
    torch.set_num_threads(1)  # too small to share
    results = {}
    for name, mixture in MIXTURES.items():
        sizes = {"seeds": 2, "steps": 20, "banks": 8} if options.quick else {}
        results[name] = measure(mixture, **sizes)
        print(f"== {name} ==\n{table(results[name])}\n")
    picture(results, options.picture)
    print(
        f"A bank smaller than the batch raises the gradient's variance: {BATCH} samples share it."
    )
    print(f"The picture is {options.picture}")
    return 0


def main(arguments: list[str] | None = None) -> int:
    return run_command(
        run,
        "training.toy",
        "Measure StableVM on 2-D mixtures whose velocity is known: tables and a PNG.",
        "toy.png",
        arguments,
    )
