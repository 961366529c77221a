"""The folder of a run: where each of its files is, and how they are opened, saved and resumed.

    config.toml                  the whole configuration, defaults included
    metrics.jsonl                a line for each step (metrics.py)
    bins.png                     a chart of them by noise level (reports.py)
    state-000500.pt, .json       everything that resuming needs, and its manifest (generations.py)
    bank-000500-001.safetensors  the memory bank of another process, of the state's step
    weights-000500.safetensors   the averaged weights of a step; -ema0.9: by another average;
                                 -interval: the interval embedder that belongs to them
    previews/000500.png          pictures from the network at that step
    .lock                        held by the run that writes here

Every file but the metrics is written whole or not at all.
"""

import contextlib
import re
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sv_core.errors import InvalidInput, Unavailable

from .. import files
from ..config.load import dump, loads
from ..config.schema import Config
from ..engine.distributed import Processes
from ..files import clear_temporary, write_atomically
from ..lock import alone
from .checkpoint import describe, describe_sidecar, require_fitting, require_same
from .generations import Generations, Manifest
from .metrics import Metrics
from .state import TrainState

Say = Callable[[str], object]
T = TypeVar("T")


class Patient(Protocol):
    """Calls a function, perhaps several times, and returns what it returns."""

    def __call__(self, write: Callable[[], T], /) -> T: ...


def call(write: Callable[[], T]) -> T:
    """Without patience."""
    return write()


class RunFolder:
    """The folder ``run.out``: a run reads from it and writes into it only through this class."""

    def __init__(self, out: Path):
        self.out = out
        self.config = out / "config.toml"
        self.metrics = out / "metrics.jsonl"
        self.chart = out / "bins.png"
        self.previews = out / "previews"
        self.states = Generations(out)
        self.saved: Manifest | None = None
        """What this run has saved last, or goes on from."""
        self._held = ExitStack()

    def weights(self, step: int, decay: float | None = None) -> Path:
        """The path of the averaged weights of a step; ``decay`` is that of a further average."""
        suffix = "" if decay is None else f"-ema{decay:g}"
        return self.out / f"weights-{step:06d}{suffix}.safetensors"

    def bank(self, step: int | str, process: int) -> Path:
        """The path of the memory bank of a process other than the first; step may be a pattern."""
        step = f"{step:06d}" if isinstance(step, int) else step
        return self.out / f"bank-{step}-{process:03d}.safetensors"

    def preview(self, step: int) -> Path:
        """The path of the pictures of a step."""
        return self.previews / f"{step:06d}.png"

    def last_weights(self) -> Path | None:
        """The weights that were saved last, None without any."""
        return max(self.out.glob("weights-*.safetensors"), default=None)

    def is_of(self, config: Config) -> bool:
        """Whether the folder belongs to a run with this configuration."""
        return self.config.is_file() and self.config.read_text("utf-8") == dump(config)

    def begun(self) -> bool:
        """Whether there is a state that a run can go on from, or that an older version could."""
        return bool(self.states.steps()) or (self.out / "state.pt").exists()

    def open(self, config: Config, state: TrainState, resume: bool, say: Say = print) -> None:
        """Make the folder, or take up the state that is in it, and keep it to this run alone.

        All processes must call it; ``close`` ends it. ``say`` gets a sentence for what is found
        damaged. Raises InvalidInput when another run is at work here, when there is a state and
        ``resume`` is false, or none and it is true, or when configuration, data or processes are
        not those that the state was made with; Unavailable for an unusable folder.
        """
        processes = state.processes
        try:
            _together(processes, lambda: self._take(resume))
            if not resume and self.begun():
                raise InvalidInput(
                    f"{self.out} already holds a run: go on with it by --resume, or choose another "
                    f"folder with --set run.out=..."
                )
            if resume:
                self._resume(config, state, say)
            processes.wait()
            if processes.is_main:
                self._write_config(config)
                self.states.prune()  # a kill may have come between a save and this
                self._prune_weights(config.run.keep_last)
            processes.wait()
        except BaseException:
            self.close()
            raise

    def _take(self, resume: bool) -> None:
        """Make the folder and lock it, unless there is nothing to resume."""
        if self.out.is_dir() or not resume:
            self.make()
            self._held.enter_context(alone(self.out, "another run"))
            clear_temporary(self.out)
            clear_temporary(self.previews)

    def close(self) -> None:
        """Let other runs use the folder."""
        self._held.close()

    def _write_config(self, config: Config) -> None:
        text = dump(config)
        write_atomically(self.config, lambda file: file.write(text.encode()))
        if self.saved is not None and self.saved.config != text:
            self.saved = replace(self.saved, config=text)
            self.states.write_manifest(self.saved)

    def _resume(self, config: Config, state: TrainState, say: Say) -> None:
        processes = state.processes
        manifest = _together(processes, lambda: self._newest(say))
        step = processes.largest(manifest.step if manifest else 0)
        self.saved = manifest or self.states.read_manifest(step)
        own = processes.is_main and self.config.is_file()
        if own and self.config.read_bytes() != self.saved.config.encode():
            say(f"note: {self.config} was changed since the run wrote it")
        require_same(config, loads(self.saved.config))
        tree: dict[str, Any] = files.read_weights(self.states.state(step))[0]
        if processes.index and state.bank is not None:
            tree["bank"] = files.read_weights(self.bank(step, processes.index))[0]
        require_fitting(config, state, tree)
        state.load_state_dict(tree)

    def _newest(self, say: Say) -> Manifest:
        """The newest state that is as it was written; damaged newer ones are set aside."""
        damage = []
        for step in self.states.steps():
            try:
                manifest = self.states.verify(step)
            except InvalidInput as e:
                if isinstance(e, Unavailable):
                    raise
                damage.append((step, str(e)))
                continue
            for bad, problem in damage:
                say(
                    f"note: {problem}: the run goes on from step {step}, the one before, and "
                    f"computes the steps to {bad} again"
                )
                self.states.set_aside(bad)
            return manifest
        if damage:
            raise InvalidInput(
                f"nothing to resume: no state in {self.out} is whole ({damage[0][1]}): begin anew "
                f"in another run.out, with its last weights as the checkpoint"
            )
        older = (self.out / "state.pt").exists()
        raise InvalidInput(
            f"the run in {self.out} is of an older version: begin anew in another run.out"
            if older
            else f"nothing to resume: {self.out} holds no state; leave out --resume"
        )

    def read_state(self) -> dict[str, Any]:
        """The newest state. Raises InvalidInput, in one sentence, when there is none."""
        return files.read_weights(self.states.state(self._newest(print).step))[0]

    def make(self) -> None:
        """Raises Unavailable, in one sentence, when nothing can be written there."""
        try:
            self.previews.mkdir(parents=True, exist_ok=True)
            probe = self.out / ".probe.partial"
            probe.touch()
            probe.unlink()
        except OSError as e:
            raise Unavailable(
                f"cannot write into {self.out}: {e.strerror or e}; choose another folder with "
                f"run.out"
            ) from e

    def save(
        self,
        config: Config,
        state: TrainState,
        metrics: Metrics | None = None,
        weights: bool = True,
        patient: Patient = call,
    ) -> None:
        """Write the averaged weights, if ``weights``, then the state to resume from.

        In this order: a kill in between leaves weights that the resumed run writes again, the same.
        All processes must call it. The first one writes, but each its own bank, before the state
        and under the name of the step, so that the state never meets the bank of another moment.
        ``patient`` calls what writes a file, perhaps again. Raises Unavailable, in one sentence;
        InvalidInput when another run has written meanwhile.
        """
        processes = state.processes
        _together(processes, self._require_own)
        written = self._save_weights(config, state, patient) if weights else {}
        tree = state.state_dict()
        banked = processes.index > 0 and state.bank is not None
        if banked:
            bank = self.bank(state.step, processes.index)
            patient(lambda: files.save_weights(bank, tree["bank"], {}))
        processes.wait()
        if processes.is_main:
            mark = patient(metrics.sync) if metrics else None
            digest = patient(lambda: self.states.write_state(tree))
            made = Manifest(state.step, digest, dump(config), written, mark)
            patient(lambda: self.states.write_manifest(made))
            self.saved = made
            self.states.prune()
            self._prune_weights(config.run.keep_last)
        processes.wait()
        if banked:
            self._prune_banks(processes.index)

    def _require_own(self) -> None:
        """Raise InvalidInput when the newest state on the disk is not this run's."""
        own = self.saved.step if self.saved else 0
        newest = max(self.states.steps(), default=0)
        if newest > own:
            raise InvalidInput(
                f"another run has written step {newest} into {self.out}, and this one's last was "
                f"{own}: it stops here and leaves the folder as it is; choose another run.out"
            )

    def _prune_weights(self, keep: int) -> None:
        """Delete the weights of all but the last ``keep`` steps; 0 keeps all."""
        found: dict[int, list[Path]] = {}
        for path in self.out.glob("weights-*.safetensors"):
            if match := re.match(r"weights-(\d{6,})[.-]", path.name):
                found.setdefault(int(match[1]), []).append(path)
        for step in sorted(found)[:-keep] if keep else []:
            for path in found[step]:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _prune_banks(self, process: int) -> None:
        keep = [self.bank(step, process) for step in self.states.steps()]
        for old in self.out.glob(self.bank("*", process).name):
            if old not in keep:
                with contextlib.suppress(OSError):
                    old.unlink()

    def _save_weights(self, config: Config, state: TrainState, patient: Patient) -> dict[str, str]:
        """The first average under the step's name; further ones under their decay's as well.

        Returns the checksums by the files' names.
        """
        metadata, written = describe(config, state), {}
        for number in range(max(1, len(state.averages))):
            decay = config.optim.ema[number] if number else None
            with state.shipped(number) as (tensors, sidecar):
                if state.processes.is_main:
                    path = self.weights(state.step, decay)
                    made = [(path, tensors, metadata)]
                    if sidecar:  # first, so that there are never weights without it
                        own, facts = sidecar
                        beside = describe_sidecar(config, state) | facts
                        made.insert(0, (files.interval_path(path), own, beside))
                    for file in made:
                        written[file[0].name] = patient(partial(files.save_weights, *file))
        return written


def _together(processes: Processes, function: Callable[[], T]) -> T | None:
    """What the first process's function returns; when it raises InvalidInput all processes do."""
    result, problem = None, None
    if processes.is_main:
        try:
            result = function()
        except InvalidInput as e:
            problem = e
    if processes.largest(int(problem is not None)):
        raise problem or InvalidInput("the first process says what is wrong")
    return result
