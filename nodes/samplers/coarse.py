"""Coarse First behind a MODEL: the network runs on a smaller picture while noise hides the details.

A wrapper around the guider's prediction answers it from a smaller state. Sampler, grid, noise,
masks and previews stay the host's and at full size, and Fewer Calls, which forecasts between the
sampler's calls, works the same before or behind this node.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from ...sv_core.errors import InvalidInput
from ...sv_core.progressive import (
    Plan,
    Stage,
    coarse_denoised,
    coarse_size,
    coarse_time,
    full_size_calls,
    last_level,
    missing_power,
    ratio_of,
    transition_time,
)
from ...sv_core.spectrum import FLUX_SPECTRUM, PowerLaw, Size
from ..grid_check import require_flow_grid
from ..host import flow, wrappers
from ..host.conditions import Conditions, Inputs, conditions_at, retime, unfit
from .any_sampler import LeftAlone

KEY = "stable_velocity_coarse_first"
LAYOUT_UNTIL = 0.93
"""Down to this level "keep layout" stays at full size."""
SIZES = {"1/2": (2.0,), "3/4": (4 / 3,), "1/4, then 1/2": (4.0, 2.0)}
"""The ratios of the stages, by the name of the smallest size."""
_CACHES = ("cache", "teacache", "firstblock", "wavespeed")
"""Words in the names of wrappers that keep what a network computed, which has one size."""


@dataclass(frozen=True)
class Settings:
    """What the node's inputs say."""

    ratios: tuple[float, ...] = SIZES["1/2"]
    until: float = 0.0
    """The level at which full size begins; 0: from the spectrum and the tolerance."""
    tolerance: float = 0.05
    keep_layout: bool = False
    detail: float = 0.5
    """The share of the expected power with which missing details are moved."""
    full_calls: int = 2
    edit_models: bool = False
    spectrum: PowerLaw | None = None
    """Measured on the user's model, in place of the family's."""


def plan_for(settings: Settings, law: PowerLaw, sigmas: list[float]) -> Plan:
    """Where a run over ``sigmas`` has which size. Raises InvalidInput for impossible settings."""
    ends = [transition_time(law.power_at(1 / r), settings.tolerance) for r in settings.ratios]
    if settings.until:
        ends[-1] = settings.until
    stages = tuple(Stage(r, max(e, ends[-1])) for r, e in zip(settings.ratios, ends, strict=True))
    begin = LAYOUT_UNTIL if settings.keep_layout else 1.0
    return Plan(stages, begin, last_level(sigmas, settings.full_calls))


@dataclass
class Run:
    """One run of a sampler."""

    plan: Plan
    law: PowerLaw
    raw: Conditions
    inputs: Inputs
    sigmas: Tensor
    patch: int
    sizes: list[Size] = field(default_factory=list)
    """Of every call."""
    current: Size | None = None
    prepared: dict[Size, Conditions] = field(default_factory=dict)

    def size_at(self, t: float) -> Size:
        """In cells."""
        return coarse_size(self.inputs.full, self.plan.ratio_at(t), self.patch)

    def in_words(self) -> str:
        """What was done and what it saved."""
        full, counted = self.inputs.full, Counter(self.sizes)
        parts = [f"{n} calls at {h}x{w}" for (h, w), n in counted.items()]
        even, squared = (
            full_size_calls(self.sizes, full, attention) for attention in (False, True)
        )
        saved = 1 - even / len(self.sizes)
        return (
            f"{', '.join(parts)}\nas much as {even:.4g} calls at full size ({squared:.4g} where "
            f"attention dominates): {100 * saved:.0f} % saved"
        )


class CoarseFirst:
    """One MODEL's wrappers."""

    def __init__(self, settings: Settings, tell: Callable[[str], None]):
        self._settings, self._tell = settings, tell
        self._raw: Conditions = {}
        self._nested = False
        self._run: Run | None = None

    def attach(self, model: Any) -> Any:
        """A clone of the MODEL with them."""
        return wrappers.wrap(
            model,
            KEY,
            sampling=self._around_sampling,
            sampler=self._around_sampler,
            guidance=self._around_guidance,
        )

    def _around_sampling(self, executor: Any, *args: Any, **options: Any) -> Tensor:
        """Here the conditions have their hooks, and are not yet made for one size."""
        conds = executor.class_obj.conds
        self._raw = {k: [dict(c) for c in v] for k, v in conds.items()}
        self._nested = len(options.get("latent_shapes") or ()) > 1
        try:
            return executor(*args, **options)
        finally:
            self._raw, self._run = {}, None

    def _around_sampler(
        self, executor: Any, guider: Any, sigmas: Tensor, extra_args: dict, callback: Any,
        noise: Tensor, latent: Tensor | None = None, mask: Tensor | None = None, *rest: Any,
        **options: Any,
    ) -> Tensor:  # fmt: skip
        inputs = Inputs(guider.inner_model, noise, latent, mask, extra_args.get("seed"))
        try:
            self._run = self._begin(inputs, sigmas, extra_args["model_options"], guider)
        except LeftAlone as e:
            self._tell(f"at full size throughout: {e}")
        made = executor(guider, sigmas, extra_args, callback, noise, latent, mask, *rest, **options)
        if self._run is not None and self._run.sizes:
            self._tell(self._run.in_words())
        self._run = None
        return made

    def _begin(self, inputs: Inputs, sigmas: Tensor, model_options: dict, guider: Any) -> Run:
        """Raises LeftAlone."""
        patcher, settings = guider.model_patcher, self._settings
        try:
            flow.require_linear_flow(flow.model_sampling_of(patcher))
            require_flow_grid(sigmas.unique().flip(0))  # a sampler may go back up
        except InvalidInput as e:
            raise LeftAlone(str(e)) from e
        if self._nested or inputs.noise.ndim not in (4, 5):
            raise LeftAlone("its latent is not one picture or video (sound and picture together)")
        cache = wrappers.has_wrapper(model_options, _CACHES)
        if cache is not None:
            raise LeftAlone(f"{cache} keeps what the network computed at one size: take it out")
        reason = unfit(self._raw, inputs.full, settings.edit_models)
        if reason is not None:
            raise LeftAlone(reason)
        family = flow.family(patcher)
        law = settings.spectrum or (family and family.spectrum) or FLUX_SPECTRUM
        levels = sigmas.tolist()
        plan = plan_for(settings, law, levels)
        run = Run(plan, law, self._raw, inputs, sigmas, patch=2)
        if all(run.size_at(t) == inputs.full for t in levels[:-1]):
            raise LeftAlone(
                f"its noise levels, from {levels[0]:.3g}, have none between {plan.begin:.3g} and "
                f"{plan.stages[-1].until:.3g}, where a smaller picture suffices"
            )
        return run

    def _around_guidance(
        self, executor: Any, x: Tensor, timestep: Tensor, model_options: dict | None = None,
        seed: int | None = None,
    ) -> Tensor:  # fmt: skip
        model_options = model_options or {}
        run, guider = self._run, executor.class_obj
        if run is None:
            return executor(x, timestep, model_options, seed)
        size = run.size_at(float(timestep.flatten()[0]))
        if size != run.inputs.full:
            try:
                answer = self._smaller(run, executor, x, timestep, size, model_options, seed)
                run.sizes.append(size)
                return answer
            except Exception as e:
                if run.sizes or wrappers.ends_a_run(e):
                    raise
                self._give_up(run, size, e)
        self._switch(run, run.inputs.full, guider.conds, guider)
        run.sizes.append(run.inputs.full)
        return executor(x, timestep, model_options, seed)

    def _give_up(self, run: Run, size: Size, error: Exception) -> None:
        """A network that only knows one size is found out by its first call."""
        logging.warning("Coarse First: the model failed at %dx%d", *size, exc_info=error)
        reason = str(error).split("\n")[0]
        self._tell(
            f"at full size throughout: the model does not run at {size[0]}x{size[1]} ({reason})"
        )
        self._run = None

    def _switch(self, run: Run, size: Size, conditions: Conditions, guider: Any) -> None:
        """Controls and hooks are shared by all sizes and have the times of one."""
        if run.current not in (None, size):
            retime(conditions, guider.inner_model, _mapping(run, size))
        run.current = size

    def _smaller(
        self, run: Run, executor: Any, x: Tensor, timestep: Tensor, size: Size,
        model_options: dict, seed: int | None,
    ) -> Tensor:  # fmt: skip
        guider, ratio = executor.class_obj, ratio_of(run.inputs.full, size)
        conditions = run.prepared.get(size)
        if conditions is None:
            conditions = conditions_at(run.raw, run.inputs, size, ratio, _mapping(run, size))
            run.prepared[size], run.current = conditions, size
        self._switch(run, size, conditions, guider)
        transformer = dict(model_options.get("transformer_options") or {})
        # Some networks look their noise level up among the run's.
        transformer["sample_sigmas"] = coarse_time(run.sigmas, ratio)
        options = model_options | {"transformer_options": transformer}

        def denoise(y: Tensor, s: Tensor) -> Tensor:
            return executor(y, s.to(timestep).expand_as(timestep), options, seed)

        share = self._settings.detail
        power = missing_power(run.law, run.inputs.full, size, share) if share else None
        full, guider.conds = guider.conds, conditions
        try:
            return coarse_denoised(denoise, x, timestep.flatten()[0], size, power)
        finally:
            guider.conds = full


def _mapping(run: Run, size: Size) -> Callable[[float], float]:
    ratio = ratio_of(run.inputs.full, size)
    # In the dtype of the levels that it is compared with, so that equal levels stay equal.
    return lambda t: float(coarse_time(run.sigmas.new_tensor(t), ratio))
