"""The training loop: batch, target, loss, step, report, save."""

import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from sv_core.errors import InvalidInput

from .. import cli
from ..config.schema import Config
from ..data import batches, dataset
from ..engine.distributed import Processes
from ..engine.optim import lr_at
from ..files import patiently
from ..objectives.build import build_objective
from ..prefetch import ahead
from . import reports
from .folder import Patient, RunFolder
from .metrics import Metrics
from .preview import Preview
from .reports import write_bins
from .state import TrainState
from .step import Learner
from .validate import by_interval, one_call_gap, validate

MOST_SKIPPED = 50
"""How many fp16 steps in a row may overflow before the run ends."""


class Outcome(NamedTuple):
    """Where a run ended: its last step, whether that was the planned one, its weights file."""

    step: int
    finished: bool
    weights: Path


def train(config: Config, resume: bool = False) -> Outcome:
    """Run the configuration to its last step, or to Ctrl-C, and leave everything in run.out.

    Raises InvalidInput or FloatingPointError, each in one sentence.
    """
    processes = Processes(config.run)
    with processes.together():
        outcome = _Run(config, processes, resume).go()
    if processes.count > 1:
        processes.leave()
    return outcome


class _Run:
    """A run from its opening to its end."""

    def __init__(self, config: Config, processes: Processes, resume: bool):
        self.config, self.processes = config, processes
        self.folder = RunFolder(Path(config.run.out))
        for name in config.run.trackers:
            reports.library(name)  # a missing one is reported before the work, not after
        self.dataset = dataset.load(config.data, config.align.encoders)
        calls = (1, 4) if config.objective.kind == "meanflow" else ()
        vae = Path(config.run.vae) if config.run.vae else None
        folder, device = config.comfy.folder, processes.device
        self.preview = Preview(self.dataset, vae, calls, folder, device)
        self.state = TrainState(config, self.dataset, processes)
        self.learner = Learner(
            config, self.state, build_objective(config.objective, self.state.backbone)
        )
        self.folder.open(config, self.state, resume, _say)
        self.skipped = 0
        self.metrics: Metrics | None = None

    def go(self) -> Outcome:
        """Every step to the last, or to Ctrl-C."""
        config, state, folder = self.config, self.state, self.folder
        steps, main = config.optim.steps, self.processes.is_main
        bar = tqdm(
            total=steps,
            initial=state.step,
            unit="step",
            desc="train",
            dynamic_ncols=True,
            disable=not main,
            mininterval=0.1 if sys.stderr.isatty() else 10,  # a log needs no ten lines a second
        )
        with ExitStack() as stack:
            stack.callback(folder.close)
            stack.enter_context(bar)
            if main:
                self.metrics = stack.enter_context(closing(self._open_metrics()))
            watchers = reports.Watchers(config.run.trackers if main else (), folder, state.step)
            stack.callback(watchers.close)
            if main:
                for note in (*self.dataset.notes(), *(self.metrics.notes if self.metrics else ())):
                    _say(f"note: {note}")
            interrupted = stack.enter_context(_interruptible())
            patient = self._patiently(interrupted)
            clock = _Clock(config.run.save_minutes if main else 0)
            for step, batch in self._batches(stack):
                record, stop, due = self._step(step, batch, interrupted.is_set(), clock.due())
                if self.processes.count == 1:  # several processes agree a step later
                    stop = interrupted.is_set()
                if self.metrics is not None:
                    patient(partial(self.metrics.add, record))
                    watchers.add(record)
                    bar.set_postfix(loss=f"{record['loss']:.4f}", refresh=False)
                    bar.update()
                weights = _due(step, config.run.save_every, steps) or stop
                if weights or due:
                    folder.save(config, state, self.metrics, weights, patient)
                    clock.restart()
                self._show(step)
                if stop:
                    break
            if main and state.step:
                self._attempt("the chart", lambda: write_bins(folder))
        return Outcome(state.step, state.step == steps, folder.weights(state.step))

    def _open_metrics(self) -> Metrics:
        saved = self.folder.saved
        return Metrics(self.folder.metrics, self.state.step, saved and saved.metrics)

    def _patiently(self, asked: threading.Event) -> Patient:
        """What waits for a full disk; among others only while these still wait for this process."""
        limit = math.inf if self.processes.count == 1 else self.config.run.timeout / 2
        return lambda write: patiently(write, lambda text: _say(f"note: {text}"), asked, limit)

    def _attempt(self, what: str, make: Callable[[], None]) -> None:
        """Make what the run can do without: when it fails, that is a warning."""
        try:
            make()
        except Exception as e:  # a run of days is worth more than whatever this is
            if self.processes.sharded:  # the others have begun the same and wait for this one
                raise
            sentence = next(iter(str(e).splitlines()), "") or type(e).__name__
            _say(f"warning: {what} could not be made ({sentence}); the run goes on")
            if not isinstance(e, InvalidInput):
                cli.keep(e, self.folder.out)

    def _batches(self, stack: ExitStack) -> Iterator[tuple[int, batches.Batch]]:
        """The remaining steps with their batches, each read while the step before is computed."""
        pool = ThreadPoolExecutor(1)
        stack.callback(pool.shutdown, cancel_futures=True)

        def read(step: int) -> tuple[int, batches.Batch]:
            return step, self.learner.fetch(step)

        left = range(self.state.step + 1, self.config.optim.steps + 1)
        return ahead(pool, read, left, 1)

    def _step(
        self, step: int, batch: batches.Batch, asked: bool, due: bool
    ) -> tuple[dict[str, Any], bool, bool]:
        """One optimiser step: its record; whether any process was asked to stop, or is to save."""
        config, state, processes = self.config, self.state, self.processes
        began = time.perf_counter()
        report = _due(step, config.run.report_every, config.optim.steps)
        losses, aligned, figures = self.learner.compute(batch, step, report)
        # One collective sum carries everything that the processes must agree on.
        n, rows = config.data.batch_size, self.learner.rows
        shared = torch.zeros(n + 3, device=processes.device)
        shared[rows], shared[n] = losses, aligned
        shared[n + 1], shared[n + 2] = float(asked), float(due)
        losses, (aligned, stop, save) = processes.sum(shared).cpu().split([n, 3])
        norm, skipped = torch.tensor(math.nan), False
        if torch.isfinite(losses).all() and torch.isfinite(aligned):
            norm, skipped = self.learner.update(step)
        self.skipped = self.skipped + 1 if skipped else 0
        self._require_finite(losses, aligned, norm, step)
        if not skipped:
            for average in state.averages:
                average.update(step)
        state.step = step
        record: dict[str, Any] = {"step": step, "loss": losses.mean().item()}
        if state.alignment:
            record["align"] = aligned.item()
        record |= by_interval(losses, *self.learner.times(step))
        record |= {"grad_norm": None if skipped else norm.item(), "lr": lr_at(step, config.optim)}
        record |= figures
        record["samples_per_s"] = round(n / (time.perf_counter() - began), 1)
        if _due(step, config.run.validate_every, config.optim.steps):
            record |= self._validate()
        return record, bool(stop), bool(save)

    def _validate(self) -> dict[str, Any]:
        """The averaged network's loss on held-out data, in all and per eighth of t."""
        if not len(self.dataset.held_out):
            return {}
        processes = self.processes
        # Where weights are spread, a forward pass takes all processes, so all make the same ones.
        one = processes.sharded
        part = slice(None) if one else slice(processes.index, None, processes.count)
        with self.state.averaged() as backbone:
            rows = self.learner.rows
            chunk = (rows.stop - rows.start) // self.config.optim.accumulate
            sums, count = validate(backbone, self.dataset, part, chunk)
            gap = {}
            whole = backbone.span == (0.0, 1.0)  # one of a pair of experts makes no pictures alone
            if self.config.objective.kind == "meanflow" and whole:
                gap["val_one_call"] = one_call_gap(backbone, self.dataset, chunk=chunk)
        shared = torch.cat([sums, torch.tensor([float(count)])]).float().to(processes.device)
        *sums, count = (shared if one else processes.sum(shared)).tolist()
        losses = [None if math.isnan(s) else s / count for s in sums]
        known = [x for x in losses if x is not None]
        if not known:
            raise FloatingPointError(
                "the loss on what is held out is not a finite number: nothing of this step is "
                "saved. Try a lower optim.lr, a longer optim.warmup or run.precision=fp32"
            )
        return {"val_loss": sum(known) / len(known), "val_loss_bins": losses} | gap

    def _show(self, step: int) -> None:
        """Previews and the chart, when they are due."""
        main = self.processes.is_main
        if not _due(step, self.config.run.preview_every, self.config.optim.steps):
            return
        if main or self.processes.sharded:
            self._attempt("the preview", lambda: self._preview(step))
        if main and step < self.config.optim.steps:
            self._attempt("the chart", lambda: write_bins(self.folder))

    def _preview(self, step: int) -> None:
        picture = self.folder.preview(step) if self.processes.is_main else None
        with self.state.averaged() as backbone:
            self.preview.write(backbone, picture)

    def _require_finite(self, losses: Tensor, aligned: Tensor, norm: Tensor, step: int) -> None:
        """Raise FloatingPointError before a NaN or infinity reaches the averages or a file."""
        if self.skipped:
            if self.skipped < MOST_SKIPPED:
                return
        elif torch.isfinite(losses).all() and torch.isfinite(aligned) and torch.isfinite(norm):
            return
        config = self.config
        r, t = self.learner.times(step)
        bad = ~torch.isfinite(losses)
        if (bad & (r < t)).any():
            bad &= r < t
            what = (
                f"MeanFlow target is not finite, or more than meanflow.limit = "
                f"{config.meanflow.limit:g} times as long as its velocity,"
            )
        elif bad.any():
            what = "loss is not a finite number"
        else:
            bad = torch.ones_like(bad)
            what = "gradient" if torch.isfinite(aligned) else "alignment loss"
            what += " is not a finite number"
        times = ", ".join(
            f"{b:.4f}" + (f" (r = {a:.4f})" if a < b else "")
            for a, b in zip(r[bad][:4].tolist(), t[bad][:4].tolist(), strict=True)
        )
        times += ", ..." if bad.sum() > 4 else ""
        saved = self.folder.last_weights()
        good = f"the last good checkpoint is {saved}" if saved else "nothing had been saved yet"
        raise FloatingPointError(
            f"the {what} at step {step}, t = {times}; {good}. "
            f"Try a lower optim.lr, a longer optim.warmup or run.precision=fp32"
        )


def _due(step: int, every: int, steps: int) -> bool:
    """Whether something that happens ``every`` so many steps, and at the last one, happens now."""
    return step == steps or (every > 0 and step % every == 0)


def _say(text: str) -> None:
    tqdm.write(text, file=sys.stderr)


class _Clock:
    """Tells when so many minutes have passed since the last save; 0 is never."""

    def __init__(self, minutes: float):
        self._seconds = 60 * minutes
        self.restart()

    def restart(self) -> None:
        self._began = time.monotonic()

    def due(self) -> bool:
        return self._seconds > 0 and time.monotonic() - self._began >= self._seconds


SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Ctrl-C; a scheduler's end; a terminal that is closed; a scheduler's warning before the end."""


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Context manager: the first of SIGNALS is noted, a second one ends the run at once."""
    asked = threading.Event()
    before = {}

    def ask(number: int, frame: object) -> None:
        asked.set()
        signal.signal(number, before[number])

    # Python lets only the main thread have signal handlers.
    if threading.current_thread() is threading.main_thread():
        for name in SIGNALS:
            number = getattr(signal, name, None)  # Windows has two of them
            # What is ignored stays so: nohup ignores that the terminal is closed.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
