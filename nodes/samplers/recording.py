"""Record ordinary runs of a model, and find from them the calls that a calibration holds."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...sv_core import sampling
from ...sv_core.calibration import Recorder
from ...sv_core.errors import InvalidInput
from ...sv_core.regimes import drift, suggest_split
from ...sv_core.rehearsal import CHECKS, rehearse
from ..calibration_file import FEWEST_CALLS, MOST_CALLS, Calibration, Nodes, subject_of
from ..host import flow
from ..host.guider import preview_callback, run_guider, starting_latent
from .progress import Progress


@torch.no_grad()
def record(
    model: Callable,
    x: Tensor,
    sigmas: Tensor,
    extra_args: dict | None = None,
    callback: Callable[[dict], None] | None = None,
    disable: bool | None = None,
    *,
    recorder: Recorder,
    nodes: Sequence[int] = (),
) -> Tensor:
    """A sampler function for the host: Euler steps, or their forecast with calls at ``nodes``."""
    flow.require_linear_flow(flow.sampling_of(model))
    report = flow.step_report(callback, 0)

    def after_call(k: int, x: Tensor, v: Tensor, t: Tensor) -> None:
        report(len(recorder.nodes), x, v, t)
        recorder(k, x, v, t)

    velocity = flow.velocity_from_denoiser(model, extra_args or {})
    nodes = nodes or range(len(sigmas) - 1)
    return sampling.sample_forecast(velocity, x, sigmas, nodes=nodes, callback=after_call)


class RecordedRuns:
    """Ordinary runs of a guider, one after the other, with the seeds seed, seed + 1, ...

    ``check`` runs forecasts from the same noise; the progress bar counts ``CHECKS`` of them, with
    ``calls`` each. All velocities stay in main memory until the last check: for 4 runs, 30 steps
    and 10 calls of a 16 x 128 x 128 latent at most 150 MB.
    """

    def __init__(
        self, guider: Any, latent: dict, sigmas: Tensor, runs: int, seed: int, calls: int = 0
    ):
        self._guider, self._latent, self._sigmas, self._seed = guider, latent, sigmas, seed
        patcher, steps = guider.model_patcher, len(sigmas) - 1
        self._start = starting_latent(patcher, latent)
        self._calls = runs * (steps + CHECKS * calls)
        self._progress = Progress(preview_callback(patcher, self._calls))
        self.recorders = [Recorder(sigmas) for _ in range(runs)]
        self._run_all()

    def check(self, nodes: Sequence[int]) -> None:
        """Run a forecast with calls at ``nodes`` from the noise of every run, and record it.

        Raises InvalidInput when a run diverges.
        """
        self._run_all(nodes)

    def gram(self) -> np.ndarray:
        """Inner products (n, n) of the velocities, summed over the ordinary runs."""
        steps = len(self._sigmas) - 1
        grams = (recorder.gram()[:steps, :steps] for recorder in self.recorders)
        return sum(grams, np.zeros((steps, steps)))

    def finish(self) -> None:
        """Fill the progress bar, since fewer checks than ``CHECKS`` may have been made."""
        self._progress.finish()

    def _run_all(self, nodes: Sequence[int] = ()) -> None:
        for run, recorder in enumerate(self.recorders):
            before = sum(len(r.nodes) for r in self.recorders) - len(recorder.nodes)

            def shown(i: int, denoised: Tensor, x: Tensor, total: int, before: int = before):
                self._progress(before + i, denoised, x, self._calls)

            sampler = flow.Sampler(record, {"recorder": recorder, "nodes": nodes})
            seed = (self._seed + run) % 2**64  # where the host's seeds end
            run_guider(self._guider, self._start, self._latent, sampler, self._sigmas, seed, shown)
            if not np.isfinite(recorder.grams()).all():
                raise InvalidInput(
                    "a recorded run diverged (its velocities are not numbers): check model, "
                    "guidance and SIGMAS with an ordinary run first"
                )


def find_nodes(recorded: RecordedRuns, sigmas: Tensor, calls: int) -> dict[int, Nodes]:
    """A list for each number of calls; the one of ``calls`` is checked in runs of the model."""
    rehearsal, checked = rehearse(
        recorded.recorders, sigmas.double().tolist(), calls, recorded.check
    )
    recorded.finish()
    most = min(MOST_CALLS, len(sigmas) - 2)
    return {n: checked if n == calls else rehearsal.best(n) for n in range(FEWEST_CALLS, most + 1)}


def calibration_from(
    gram: np.ndarray,
    nodes: dict[int, Nodes],
    model: Any,
    sigmas: Tensor,
    runs: int,
    seed: int,
    checked: int,
) -> Calibration:
    """The calibration of a model on a grid, from the inner products and lists of recorded runs."""
    times = sigmas.double().tolist()
    curve = drift(gram, times)
    middle = [(a + b) / 2 for a, b in pairwise(times[:-1])]
    # Unless the drift rises towards noise, there is no plateau that it leaves.
    rises = curve[: curve.argmin() + 1].max() > 1.2 * curve.min()
    return Calibration(
        *subject_of(model, sigmas),
        nodes=nodes,
        drift=tuple(round(float(c), 5) for c in curve),
        split=round(suggest_split(middle, curve), 3) if rises else None,
        runs=runs,
        seed=seed,
        checked=checked,
    )
