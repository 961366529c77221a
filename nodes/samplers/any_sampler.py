"""Fewer calls behind a MODEL, under whatever sampler the graph has.

A wrapper around the host's ``KSAMPLER.sample`` gives the sampler's own function another denoiser.
Guidance, masks, hooks, noise and inpainting stay the host's: they happen inside its denoiser, at
the calls that are made.
"""

import copy
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...sv_core.errors import InvalidInput
from ...sv_core.fewer_calls import (
    FEWEST_LEVELS,
    SHARE,
    calls_of_share,
    convergence_for,
    fixed_calls,
    level_grid,
    sample_fewer_calls,
)
from ...sv_core.sampler_levels import Denoiser, Levels, Sampler, find_levels
from ...sv_core.sampling import NextFn, adaptive_calls, listed_calls
from ...sv_core.velocity_record import EXPLODING_VELOCITY, VELOCITY, Quantity
from ..calibration_file import Calibration, Nodes, write_nodes
from ..grid_check import require_flow_grid
from ..host import flow, wrappers
from ..host.interrupt import stop_if_interrupted
from .progress import Progress
from .sampler_table import LEFT_ALONE, name_of

KEY = "stable_velocity_fewer_calls"


class LeftAlone(Exception):
    """A run that stays as it is; the message is the reason."""


@dataclass(frozen=True)
class Choice:
    """Where to call: by tolerance, nodes, calibration, number or share, the first that is set."""

    share: float = SHARE
    """Of the levels at which the sampler evaluates the model."""
    number: int = 0
    tolerance: float = 0.0
    """Adaptive: how far a forecast may be off."""
    nodes: Nodes = ()
    """A list of levels, counted from 0."""
    calibration: Calibration | None = None
    """Its list for ``number`` calls."""


@dataclass
class Record:
    """What one run did."""

    levels: Levels
    nodes: list[int] = field(default_factory=list)
    """Of the calls."""
    evaluations: int = 0
    """How often the network saw the batch: twice a call with guidance."""
    seconds: float = 0.0
    """In the model."""

    def in_words(self) -> str:
        calls, without = len(self.nodes), len(self.levels.visits)
        return (
            f"{calls} of {without} calls ({without - calls} saved), {self.evaluations} network "
            f"evaluations, {self.seconds:.1f} s in the model\nat {write_nodes(tuple(self.nodes))}"
        )


class _Denoiser:
    """The host's denoiser in all but its answers."""

    def __init__(self, model: Any, answer: Denoiser):
        self._model, self._answer = model, answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        return self._answer(x, sigma, **options)


def _guidance_hooks(arguments: dict) -> int:
    return len((arguments.get("model_options") or {}).get("sampler_post_cfg_function", ()))


def _bind(function: Callable, model: Any, extra_args: dict, options: dict) -> Sampler:
    """A sampler function of the host as the core's, to be run any number of times."""

    def sampler(denoise: Denoiser, x: Tensor, sigmas: Tensor) -> Tensor:
        def answer(x: Tensor, sigma: Tensor, **given: Any) -> Tensor:
            # The CFG++ samplers add a hook of their own that takes a part of each call's result.
            if _guidance_hooks(given) != _guidance_hooks(extra_args):
                raise LeftAlone("it reads the unconditional prediction of every call")
            return denoise(x, sigma, **given)

        return function(
            _Denoiser(model, answer), x, sigmas,
            extra_args=dict(extra_args), callback=None, disable=True, **options,
        )  # fmt: skip

    return sampler


def _sample_of(x: Tensor, options: dict) -> Tensor:
    """A part of x that shows what the sampler does, or all where an option may be made for all."""
    if any(callable(o) or isinstance(o, Tensor) for o in options.values()):
        return x
    return x[(slice(None), *(slice(0, 2) for _ in x.shape[1:]))].clone()


def _find_levels(sampler: Sampler, x: Tensor, sigmas: Tensor) -> Levels:
    try:
        levels = find_levels(sampler, x, sigmas)
    except LeftAlone:
        raise
    except InvalidInput as e:
        raise LeftAlone(str(e)) from e
    except Exception as e:  # another pack's code: the run itself may work all the same
        logging.debug("Stable Velocity: a sampler tried without the model", exc_info=True)
        raise LeftAlone(f"it cannot be tried without the model ({e})") from e
    if len(levels.sigmas) < FEWEST_LEVELS:
        raise LeftAlone(f"at {FEWEST_LEVELS - 1} steps or fewer there is nothing to leave out")
    return levels


def _quantity(model: Any, sigmas: Tensor) -> Quantity:
    model_sampling = flow.sampling_of(model)
    try:
        flow.require_flow(model_sampling)
        # In any order, since a sampler may go back up.
        require_flow_grid(sigmas.unique().flip(0), highest=flow.highest_sigma(model_sampling))
    except InvalidInput as e:
        raise LeftAlone(str(e)) from e
    return EXPLODING_VELOCITY if flow.is_exploding_flow(model_sampling) else VELOCITY


def _listed(choice: Choice, levels: Levels, sigmas: Tensor, patcher: Any) -> list[int]:
    if choice.calibration is None:
        return list(choice.nodes)
    if levels.sigmas != tuple(sigmas[:-1].tolist()):
        raise InvalidInput("a calibration is for samplers that call the model once a step")
    return list(choice.calibration.nodes_for(patcher, sigmas, choice.number))


def _number_of_calls(choice: Choice, levels: Levels) -> int:
    """A sampler that asks twice at a level gains next to nothing by the second call there; at a
    share of 1 it makes them all.
    """
    if choice.number:
        return choice.number
    if choice.share == 1:
        return len(levels.visits)
    return calls_of_share(len(levels.sigmas), choice.share)


@dataclass(frozen=True)
class _Plan:
    """How one run will go."""

    levels: Levels
    quantity: Quantity
    next_call: NextFn | None
    total: int | None
    """Calls, where that is known before."""


def _plan(
    choice: Choice, sampler: Sampler, name: str, model: Any, x: Tensor, sigmas: Tensor,
    options: dict, parts: tuple[int, ...],
) -> _Plan:  # fmt: skip
    """Raises LeftAlone."""
    if name in LEFT_ALONE:
        raise LeftAlone(LEFT_ALONE[name])
    quantity = _quantity(model, sigmas)
    levels = _find_levels(sampler, _sample_of(x, options), sigmas)
    times = level_grid(levels, float(sigmas[-1]), quantity)
    if choice.tolerance:
        return _Plan(levels, quantity, adaptive_calls(times, choice.tolerance, parts), None)
    try:
        if choice.nodes or choice.calibration is not None:
            nodes = _listed(choice, levels, sigmas, flow.patcher_of(model))
            return _Plan(levels, quantity, listed_calls(nodes, len(levels.sigmas)), len(nodes))
        calls = _number_of_calls(choice, levels)
        next_call = fixed_calls(levels, times, calls)
        total = min(calls, len(levels.sigmas)) if next_call else len(levels.visits)
        return _Plan(levels, quantity, next_call, total)
    except InvalidInput as e:
        raise LeftAlone(str(e)) from e


class FewerCalls:
    """One MODEL's wrappers: what it calls, and whom it tells about every run."""

    def __init__(self, choice: Choice, tell: Callable[[str], None]):
        self._choice, self._tell = choice, tell
        self._record: Record | None = None
        self._parts: tuple[int, ...] = ()

    def attach(self, model: Any) -> Any:
        """A clone of the MODEL with them."""
        return wrappers.wrap(
            model,
            KEY,
            sampling=self._around_sampling,
            sampler=self._around_sampler,
            network=self._around_network,
        )

    def _around_sampling(self, executor: Any, *args: Any, **options: Any) -> Tensor:
        """Sound and picture reach samplers as one row of numbers; only here are they apart."""
        shapes = options.get("latent_shapes") or ()
        self._parts = tuple(prod(s[1:]) for s in shapes) if len(shapes) > 1 else ()
        return executor(*args, **options)

    def _around_network(self, executor: Any, x: Tensor, *args: Any, **options: Any) -> Tensor:
        if self._record is not None:
            self._record.evaluations += x.shape[0]
        return executor(x, *args, **options)

    def _around_sampler(
        self, executor: Any, model: Any, sigmas: Tensor, extra_args: dict, callback: Any,
        *args: Any, **options: Any,
    ) -> Tensor:  # fmt: skip
        function = getattr(executor.class_obj, "sampler_function", None)
        if function is None or _is_ours(function):
            reason = "this SAMPLER has no function that could be run again"
            if function is not None:
                reason = "this sampler leaves out calls itself"
            self._leave_alone(type(executor.class_obj).__name__, reason)
            return executor(model, sigmas, extra_args, callback, *args, **options)
        sampler, progress = copy.copy(executor.class_obj), callback and Progress(callback)
        sampler.sampler_function = self._with_fewer_calls(function, progress)
        executor.class_obj, executor.original = sampler, sampler.sample
        x = executor(model, sigmas, extra_args, progress, *args, **options)
        if progress is not None and self._record is not None:
            progress.finish()
        self._record = None
        return x

    def _leave_alone(self, name: str, reason: str) -> None:
        self._tell(f"{name} runs as without this node: {reason}")

    def _with_fewer_calls(self, function: Callable, progress: Progress | None) -> Callable:
        @torch.no_grad()
        @functools.wraps(function)
        def driven(model, x, sigmas, extra_args=None, callback=None, disable=None, **options):
            extra_args, self._record = extra_args or {}, None
            sampler = _bind(function, model, extra_args, options)
            name = name_of(function)
            try:
                plan = _plan(self._choice, sampler, name, model, x, sigmas, options, self._parts)
            except LeftAlone as e:
                self._leave_alone(name, str(e))
                return function(
                    model, x, sigmas,
                    extra_args=extra_args, callback=callback, disable=disable, **options,
                )  # fmt: skip
            if progress is not None:
                progress.total = plan.total
            with tqdm(total=plan.total, disable=disable) as bar:
                return self._run(plan, sampler, model, x, sigmas, callback, bar)

        return driven

    def _run(
        self, plan: _Plan, sampler: Sampler, model: Any, x: Tensor, sigmas: Tensor,
        callback: Callable[[dict], None] | None, bar: tqdm,
    ) -> Tensor:  # fmt: skip
        record = self._record = Record(plan.levels)
        batch = len(x)

        def denoise(x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
            stop_if_interrupted()
            began = time.perf_counter()
            denoised = model(x, sigma, **options)
            float(denoised.flatten()[0])  # a device works on until it is asked
            record.seconds += time.perf_counter() - began
            return denoised

        def after_call(node: int, x: Tensor, denoised: Tensor, s: float) -> None:
            sigma, i = sigmas.new_tensor(s), len(record.nodes)
            if callback is not None:
                callback({"x": x, "i": i, "sigma": sigma, "sigma_hat": sigma, "denoised": denoised})
            record.nodes.append(node)
            bar.update()

        x = sample_fewer_calls(
            sampler, denoise, x, sigmas, plan.levels, plan.next_call,
            quantity=plan.quantity, report=after_call,
            convergence=convergence_for(getattr(model.inner_model, "cfg", 1.0)),
        )  # fmt: skip
        record.evaluations //= batch
        self._tell(record.in_words())
        return x


def _is_ours(function: Callable) -> bool:
    pack = __name__.rpartition(".nodes.")[0]
    return getattr(function, "__module__", "").startswith(f"{pack}.nodes.")
