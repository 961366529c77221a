"""Counts what a MODEL's network really does while it is sampled, whatever stands before it.

A cache that leaves out the network, or its blocks, leaves this counter where it is: it listens to
the network's last block itself or, where blocks cannot be heard, behind all of its wrappers.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn

from .contract import of_the_host

KEY = "stable_velocity_count_calls"
BLOCK, FORWARD = "block", "forward"
COND = 0
"""How the host marks the positive condition in ``cond_or_uncond``."""


@dataclass
class Counts:
    """What one MODEL has done since its node was run."""

    runs: int = 0
    """Of samplers."""
    calls: int = 0
    """Noise levels at which the network was evaluated."""
    cond: int = 0
    """Evaluations of the network with the positive condition."""
    uncond: int = 0
    """Evaluations with any other."""
    seconds: float = 0.0
    """In the model: network, guidance and what a cache does instead."""
    sampling_seconds: float = 0.0
    """In the whole run, with the sampler's own arithmetic."""

    @property
    def evaluations(self) -> int:
        return self.cond + self.uncond

    def as_numbers(self) -> dict[str, float]:
        return {
            "runs": self.runs,
            "calls": self.calls,
            "evaluations": self.evaluations,
            "cond": self.cond,
            "uncond": self.uncond,
            "seconds": round(self.seconds, 4),
            "sampling_seconds": round(self.sampling_seconds, 4),
        }

    def in_words(self) -> str:
        return (
            f"{self.calls} calls, {self.evaluations} network evaluations ({self.cond} with the "
            f"prompt, {self.uncond} without), {self.seconds:.1f} s in the model, "
            f"{self.sampling_seconds:.1f} s of sampling"
        )


def _wait_for(x: Any) -> None:
    """A device works on until it is asked."""
    first = x[0] if isinstance(x, list | tuple) else x
    if isinstance(first, Tensor):
        float(first.flatten()[0])


def last_block(network: nn.Module) -> nn.Module | None:
    """The last block of the longest list of blocks in a network; None where there is no list."""
    lists = [m for m in network.modules() if isinstance(m, nn.ModuleList) and len(m)]
    return max(lists, key=len)[-1] if lists else None


class Counter:
    """The wrappers of one MODEL, and what they have counted."""

    def __init__(self, tell: Callable[[str], None]):
        self.counts, self._tell = Counts(), tell
        self._heard: set[str] = set()
        """Of one call of the network, which signals were heard."""
        self._signals: set[str] = set()
        """Those that were heard in this run."""

    @of_the_host
    def attach(self, model: Any) -> Any:
        """A clone of the MODEL with them. Put it behind every cache: it must be the innermost."""
        model = model.clone()
        for where, wrapper in (
            (WrappersMP.OUTER_SAMPLE, self._around_sampling),
            (WrappersMP.PREDICT_NOISE, self._around_call),
            (WrappersMP.APPLY_MODEL, self._around_network),
            (WrappersMP.DIFFUSION_MODEL, self._inside_network),
        ):
            model.add_wrapper_with_key(where, KEY, wrapper)
        return model

    def _around_sampling(self, executor: Any, *args: Any, **options: Any) -> Tensor:
        block = last_block(executor.class_obj.model_patcher.model.diffusion_model)
        hook = block.register_forward_pre_hook(self._note_block) if block is not None else None
        self._signals.clear()
        began = time.perf_counter()
        try:
            x = executor(*args, **options)
            _wait_for(x)
            return x
        finally:
            self.counts.sampling_seconds += time.perf_counter() - began
            self.counts.runs += 1
            if hook is not None:
                hook.remove()
            self._tell(self.counts.in_words())

    def _note_block(self, *_: Any) -> None:
        self._heard.add(BLOCK)

    def _inside_network(self, executor: Any, *args: Any, **options: Any) -> Any:
        """The innermost wrapper: a cache before it does not call it when it leaves out."""
        self._heard.add(FORWARD)
        return executor(*args, **options)

    def _around_call(self, executor: Any, *args: Any, **options: Any) -> Tensor:
        before, began = self.counts.evaluations, time.perf_counter()
        x = executor(*args, **options)
        _wait_for(x)
        self.counts.seconds += time.perf_counter() - began
        self.counts.calls += self.counts.evaluations > before
        return x

    def _around_network(self, executor: Any, x: Tensor, t: Tensor, *args: Any, **options: Any):
        self._heard.clear()
        result = executor(x, t, *args, **options)
        self._signals |= self._heard
        # A compiled network's blocks are not heard, and not every network has wrappers.
        best = next((signal for signal in (BLOCK, FORWARD) if signal in self._signals), None)
        if best is None or best in self._heard:
            marks = _transformer_options(args, options).get("cond_or_uncond", [COND])
            self.counts.cond += sum(mark == COND for mark in marks)
            self.counts.uncond += sum(mark != COND for mark in marks)
        return result


def _transformer_options(args: tuple, options: dict) -> dict:
    """The last of the four positional arguments after x and t, unless it is given by name."""
    return options.get("transformer_options") or (args[3] if len(args) > 3 else {})


def make_counter(model: Any, tell: Callable[[str], None]) -> tuple[Any, Counts]:
    """(a clone of the MODEL that counts, its counts, which grow while it is sampled).

    ``tell`` hears after every run of a sampler what has been counted since the beginning.
    """
    counter = Counter(tell)
    return counter.attach(model), counter.counts
