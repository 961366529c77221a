"""Progress, previews and interruption at the real calls of a sampler."""

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

    def __call__(self, i: int, denoised: Tensor, x: Tensor, steps: int) -> None:
        self._last = i, denoised, x
        self._callback(i, denoised, x, self.total or steps)

    def finish(self) -> None:
        """Fill the bar of a run that did not know how many calls it would make."""
        if self._last is not None and self.total is None:
            self._callback(*self._last, self._last[0] + 1)


class _Run:
    """Bar, previews and list of one run's real calls."""

    def __init__(self, callback: Callable | None, bar: tqdm, also: sampling.Callback | None = None):
        self._report, self._bar, self._also = flow.step_report(callback, 0), bar, also
        self.nodes: list[int] = []

    def __call__(self, k: int, x: Tensor, v: Tensor, t: Tensor) -> None:
        self._report(self._shown(k), x, v, t)
        if self._also is not None:
            self._also(k, x, v, t)
        self.nodes.append(k)
        self._bar.update()

    def _shown(self, k: int) -> int:
        return len(self.nodes)


class _RunInSteps(_Run):
    """The same where the host's bar counts steps: each call counts as all that it decides."""

    def __init__(self, callback: Callable | None, bar: tqdm, nodes: list[int], steps: int):
        super().__init__(callback, bar)
        self._next = dict(zip(nodes, [*nodes[1:], steps], strict=True))

    def _shown(self, k: int) -> int:
        return self._next[k] - 1
