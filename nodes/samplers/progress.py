"""Progress bars and previews that count model calls, where the host counts steps."""

from collections.abc import Callable

from torch import Tensor
from tqdm.auto import tqdm

from ...sv_core import sampling
from ..host import flow


class Progress:
    """The host's progress callback with the number of calls in place of the number of steps."""

    def __init__(self, callback: Callable):
        self._callback = callback
        self._last: tuple | None = None
        self.total: int | None = None
        """The number of calls; None while it is not known, as in mode adaptive."""

    def __call__(self, i: int, denoised: Tensor, x: Tensor, steps: int) -> None:
        self._last = None if self.total else (i, denoised, x)  # which the end is shown with
        self._callback(i, denoised, x, self.total or steps)

    def finish(self) -> None:
        """Fill the bar of a run whose number of calls was not known in advance."""
        if self._last is not None and self.total is None:
            self._callback(*self._last, self._last[0] + 1)


class CallTracker:
    """A sampler's callback that lists the run's model calls and reports each to the host.

    ``also`` is a second callback. A call advances the progress bar by one.
    """

    def __init__(self, callback: Callable | None, bar: tqdm, also: sampling.Callback | None = None):
        self._report, self._bar, self._also = flow.step_report(callback, 0), bar, also
        self.nodes: list[int] = []

    def __call__(self, k: int, x: Tensor, v: Tensor, t: Tensor) -> None:
        self._report(self._step(k), x, v, t)
        if self._also is not None:
            self._also(k, x, v, t)
        self.nodes.append(k)
        self._bar.update()

    def _step(self, k: int) -> int:
        """The step that the host is shown for a call at node k."""
        return len(self.nodes)


class StepTracker(CallTracker):
    """The same for a host's bar that counts steps: a call advances it up to the next call."""

    def __init__(self, callback: Callable | None, bar: tqdm, nodes: list[int], steps: int):
        super().__init__(callback, bar)
        self._next = dict(zip(nodes, [*nodes[1:], steps], strict=True))

    def _step(self, k: int) -> int:
        return self._next[k] - 1
