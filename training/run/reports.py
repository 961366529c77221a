"""A run's reports: the chart of targets and loss by noise level, and trackers."""

import hashlib
import importlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any, Protocol

from tqdm import tqdm

from sv_core.errors import InvalidInput, Unavailable

from ..files import write_atomically
from ..objectives.base import BINS, TIMES
from .folder import RunFolder


def pooled(records: list[dict[str, Any]], name: str) -> list[float | None]:
    """The mean of a per-bin figure over all reports, each bin weighed by its samples."""
    means: list[float | None] = []
    for i in range(BINS):
        pairs = [(r["stable"]["count"][i], r["stable"][name][i]) for r in records if "stable" in r]
        total = sum(n for n, _ in pairs)
        means.append(sum(n * x for n, x in pairs if n) / total if total else None)
    return means


def write_bins(folder: RunFolder) -> None:
    """Draw the run's reports: effective size, changed share, validation loss, each by t."""
    lines = folder.metrics.read_text(encoding="utf-8").splitlines()
    # Most lines of a long run hold neither and are skipped unparsed.
    records = [json.loads(x) for x in lines if '"stable"' in x or '"val_loss_bins"' in x]
    panels = []
    if any("stable" in r for r in records):
        panels.append(("effective number of references", [("", pooled(records, "effective_size"))]))
        panels.append(("share of targets that changed", [("", pooled(records, "changed"))]))
    losses = [r for r in records if "val_loss_bins" in r]
    if losses:
        shown = {r["step"]: r for r in (losses[0], losses[len(losses) // 2], losses[-1])}
        curves = [(f"step {step}", r["val_loss_bins"]) for step, r in shown.items()]
        panels.append(("validation loss", curves))
    if not panels:
        return
    from matplotlib.figure import Figure  # importing it takes longer than most of this takes to run

    width = 4.4 * len(panels)
    figure = Figure(figsize=(width, 3.6))
    # Margins by hand: to have them computed takes longer than to draw.
    figure.subplots_adjust(0.6 / width, 0.14, 1 - 0.2 / width, 0.9, wspace=0.22)
    times = TIMES.tolist()
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (title, curves) in zip(axes, panels, strict=True):
        axis.set_title(title, fontsize=11)
        for label, values in curves:
            known = [(t, v) for t, v in zip(times, values, strict=True) if v is not None]
            axis.plot(*zip(*known, strict=True), marker="o", markersize=4, label=label)
        if title.startswith("effective"):
            axis.set_yscale("log")
        elif title.startswith("share"):
            axis.set_ylim(-0.03, 1.03)
        axis.set_xlim(0, 1)
        axis.set_xlabel("t: data (0) to noise (1)")
        axis.grid(alpha=0.3)
        if any(label for label, _ in curves):
            axis.legend(fontsize=8)
    write_atomically(folder.chart, lambda file: figure.savefig(file, format="png", dpi=100))


class Tracker(Protocol):
    """Add one step's record; lists become one curve per entry."""

    def add(self, record: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


MODULES = {"tensorboard": "torch.utils.tensorboard", "wandb": "wandb"}


def library(package: str) -> Any:
    """The module of a tracker. Raises InvalidInput, in one sentence, when it is not installed."""
    try:
        return importlib.import_module(MODULES[package])
    except ImportError as e:
        raise InvalidInput(
            f"run.trackers names {package}, which is not installed ({e}): pip install {package}, "
            f"or leave it out; metrics.jsonl is written anyway"
        ) from e


def numbers(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """A record as (name, number): nested names and places in lists joined by /, gaps left out."""
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from numbers({str(i): v for i, v in enumerate(value)}, f"{prefix}{name}/")
        elif value is not None and name != "step":
            yield prefix + name, value


class TensorBoard:
    """Event files in the run's own folder: tensorboard --logdir RUN."""

    def __init__(self, folder: RunFolder, step: int):
        writer = library("tensorboard").SummaryWriter
        # Entries of steps that a crash has undone are dropped.
        self._writer = writer(str(folder.out), purge_step=step + 1)

    def add(self, record: Mapping[str, Any]) -> None:
        for name, value in numbers(record):
            self._writer.add_scalar(name, value, record["step"])

    def close(self) -> None:
        self._writer.close()


class Wandb:
    """A run of Weights & Biases, the same one again when it is resumed."""

    def __init__(self, folder: RunFolder, step: int):
        out = folder.out.resolve()
        self._run = library("wandb").init(
            project="stable-velocity",
            name=out.name,
            dir=str(out),
            id=hashlib.sha256(str(out).encode()).hexdigest()[:16],
            resume="allow",
            config={"toml": folder.config.read_text(encoding="utf-8")},
        )

    def add(self, record: Mapping[str, Any]) -> None:
        self._run.log(dict(numbers(record)), step=record["step"])

    def close(self) -> None:
        self._run.finish()


TRACKERS = {"tensorboard": TensorBoard, "wandb": Wandb}


class Watchers:
    """A run's trackers. What fails in one, such as its network, is said once and ends that one."""

    def __init__(self, names: Iterable[str], folder: RunFolder, step: int):
        """They go on after ``step``. Raises InvalidInput, in a sentence, when one cannot begin."""
        self._open: dict[str, Tracker] = {}
        for name in names:
            try:
                self._open[name] = TRACKERS[name](folder, step)
            except InvalidInput:
                raise
            except Exception as e:  # others' code, and others' servers
                raise Unavailable(
                    f"run.trackers: {name} could not begin ({_reason(e)}): mend that, or leave it "
                    f"out; metrics.jsonl is written anyway"
                ) from e

    def add(self, record: Mapping[str, Any]) -> None:
        """Hand one step's record to each."""
        for name, tracker in list(self._open.items()):
            self._try(name, partial(tracker.add, record))

    def close(self) -> None:
        """End each of them."""
        for name, tracker in list(self._open.items()):
            self._try(name, tracker.close)

    def _try(self, name: str, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as e:
            del self._open[name]
            tqdm.write(
                f"warning: {name} gets no more of this run ({_reason(e)}); metrics.jsonl has all",
                file=sys.stderr,
            )


def _reason(e: Exception) -> str:
    return next(iter(str(e).splitlines()), "") or type(e).__name__
