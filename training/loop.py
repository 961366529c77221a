"""The training loop. accelerate lives here only."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from sv_core.objective import Losses

from . import checkpoint, data
from .config import Config
from .objective import build_objective, mean_effective_size, references
from .optim import lr_at
from .preview import preview
from .state import TrainState, open_run, save
from .validate import validate


class Outcome(NamedTuple):
    """Where a run ended: its last step, whether that was the planned one, its weights file."""

    step: int
    finished: bool
    weights: Path


def make_accelerator(config: Config) -> Accelerator:
    """Device and precision. Raises ValueError when the device is not there."""
    device = config.run.device
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("run.device is cuda, but torch sees no such GPU: use auto or cpu")
    precision = {"fp32": "no", "bf16": "bf16"}[config.run.precision]
    return Accelerator(cpu=device == "cpu", mixed_precision=precision)


def train(config: Config, resume: bool = False) -> Outcome:
    """Run the configuration to its last step, or to Ctrl-C, and leave everything in run.out.

    Raises ValueError, OSError or FloatingPointError, each in one sentence.
    """
    out, seed, steps = Path(config.run.out), config.run.seed, config.optim.steps
    accelerator = make_accelerator(config)
    device = accelerator.device
    dataset = data.load(config.data)
    objective = build_objective(config.objective)
    state = TrainState(config, dataset, device)
    open_run(config, state, resume)
    model, optimizer = accelerator.prepare(state.model, state.optimizer)
    backbone = state.backbone.on(model)
    saved_step = state.step
    bar = tqdm(
        total=steps,
        initial=saved_step,
        unit="step",
        desc="train",
        dynamic_ncols=True,
        mininterval=0.1 if sys.stderr.isatty() else 10,  # a log needs no ten lines a second
    )
    metrics = checkpoint.Metrics(out, state.step)
    with closing(metrics), bar, _interruptible() as interrupted:
        while state.step < steps and not interrupted.is_set():
            began, step = time.perf_counter(), state.step + 1
            x0, labels, cond = data.batch(dataset, config.data, seed, step)
            batch = data.Batch(x0.to(device), labels, cond)
            on_device = cond.to(device)

            def velocity(x_t: Tensor, t: Tensor, cond: Tensor = on_device) -> Tensor:
                return backbone.velocity(x_t, t, cond)

            refs = references(state.bank, batch, dataset.null)
            path = objective.path(batch.x0, data.generator(seed, step, "path"))
            losses = objective.losses(velocity, path, objective.target(path, refs))
            loss = losses.loss.mean()
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(model.parameters(), config.optim.clip)
            _require_finite(losses, norm, step, out)
            for group in optimizer.param_groups:
                group["lr"] = lr_at(step, config.optim)
            optimizer.step()
            optimizer.zero_grad()
            state.ema.update(state.model, step)
            state.step = step

            record: dict[str, Any] = {"step": step, "loss": loss.item(), "grad_norm": norm.item()}
            record |= {"lr": lr_at(step, config.optim)}
            record["samples_per_s"] = round(len(cond) / (time.perf_counter() - began), 1)
            if state.bank is not None:
                record["effective_size"] = mean_effective_size(objective, path, refs)
            if _due(step, config.run.validate_every, steps):
                record["val_loss"] = validate(state.averaged, dataset).mean().item()
            metrics.add(record)
            bar.set_postfix(loss=f"{record['loss']:.4f}", refresh=False)
            bar.update()
            if _due(step, config.run.preview_every, steps):
                picture = out / "previews" / f"{step:06d}.png"
                preview(state.averaged, dataset.num_classes, x0.shape[-1], picture)
            if _due(step, config.run.save_every, steps):
                metrics.sync()
                save(config, state)
                saved_step = step
        if state.step != saved_step:  # asked to stop
            metrics.sync()
            save(config, state)
    return Outcome(state.step, state.step == steps, checkpoint.weights_path(out, state.step))


def _due(step: int, every: int, steps: int) -> bool:
    """Whether something that happens ``every`` so many steps, and at the last one, happens now."""
    return step == steps or (every > 0 and step % every == 0)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C (and a polite kill) lets the loop end after its step; a second one ends it at once."""
    asked = threading.Event()
    before = {}

    def ask(number: int, frame: object) -> None:
        asked.set()
        signal.signal(number, before[number])

    # Python lets only the main thread have signal handlers.
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_finite(losses: Losses, norm: Tensor, step: int, out: Path) -> None:
    """Stop before a number that is none reaches the weights."""
    bad = ~torch.isfinite(losses.loss)
    if not bad.any() and torch.isfinite(norm):
        return
    what, where = ("loss", losses.t[bad]) if bad.any() else ("gradient", losses.t)
    times = ", ".join(f"{t:.4f}" for t in where[:4].tolist()) + (", ..." if len(where) > 4 else "")
    saved = sorted(out.glob("weights-*.safetensors"))
    good = f"the last good checkpoint is {saved[-1]}" if saved else "nothing had been saved yet"
    raise FloatingPointError(
        f"the {what} is not a finite number at step {step}, t = {times}; {good}. "
        f"Try a lower optim.lr, a longer optim.warmup or run.precision=fp32"
    )
