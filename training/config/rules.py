"""Checks between the keys of a configuration, and bounds that a field cannot state."""

import math
from typing import Any

from sv_core.errors import InvalidInput

from .schema import (
    ComfyConfig,
    Config,
    LoraConfig,
    MeanFlowConfig,
    ModelConfig,
    ObjectiveConfig,
)


def _check(config: Config) -> None:
    """Check upper bounds and what concerns more than one key. Raises InvalidInput."""
    objective, optim, align = config.objective, config.optim, config.align
    for key, value, inside in (
        ("data.label_dropout", config.data.label_dropout, config.data.label_dropout <= 1),
        ("data.held_out", config.data.held_out, config.data.held_out < 1),
        ("objective.threshold", objective.threshold, objective.threshold <= 1),
        *(("objective.span", x, x <= 1) for x in objective.span),
        ("lora.dropout", config.lora.dropout, config.lora.dropout < 1),
        ("align.split", align.split, 0 < align.split < 1),
        *(("optim.ema", decay, decay < 1) for decay in optim.ema),
    ):
        if not inside:
            raise InvalidInput(f"{key} must be a share between 0 and 1, got {value:g}")
    if objective.span and not (len(objective.span) == 2 and objective.span[0] < objective.span[1]):
        raise InvalidInput(
            f"objective.span wants two numbers, the lower first, such as [0.0, 0.875], got "
            f"{list(objective.span)}"
        )
    for key, values in (("optim.ema", optim.ema), ("align.encoders", align.encoders)):
        if len(set(values)) < len(values):
            raise InvalidInput(f"{key} names {_twice(values)} twice")
    if not 0 < optim.lr < float("inf"):
        raise InvalidInput(f"optim.lr must be a positive number, got {optim.lr:g}")
    if optim.clip == 0:
        raise InvalidInput("optim.clip = 0 would erase every gradient: use 1.0, or inf for none")
    if optim.optimizer == "schedule_free" and optim.schedule != "constant":
        raise InvalidInput(
            f"optim.schedule = {optim.schedule} makes no sense with optim.optimizer = "
            f"schedule_free: use constant"
        )
    if align.encoders and not config.data.cache:
        raise InvalidInput(
            f"align.encoders = {', '.join(align.encoders)} needs features, which only a cache "
            f"has: set data.cache to one that training.prepare made with an encoder"
        )
    _check_lora(config)
    _check_timesteps(objective)
    _check_comfy(config)
    _check_meanflow(config)


def _check_lora(config: Config) -> None:
    """Check [lora] against the rest, and its numbers. Raises InvalidInput."""
    lora = config.lora
    if lora.rank is None:
        for name, value in vars(LoraConfig()).items():
            if getattr(lora, name) != value:
                raise InvalidInput(
                    f"lora.{name} is for a LoRA, and without lora.rank all weights are trained: "
                    f"set lora.rank, such as 16, or leave out [lora]"
                )
        return
    if config.objective.kind != "meanflow" and not (
        config.model.checkpoint or config.comfy.checkpoint
    ):
        raise InvalidInput(
            "lora.rank trains changes of a network that is kept as it is, and there is none: set "
            "model.checkpoint or comfy.checkpoint, or leave out [lora] to train all weights"
        )
    if lora.alpha is not None and not 0 < lora.alpha < float("inf"):
        raise InvalidInput(
            f"lora.alpha = {lora.alpha:g} would make every change alpha / rank B A nothing, or "
            f"infinite: leave it out, or set a number such as lora.rank"
        )
    for pattern, rank in lora.ranks.items():
        if not (0 <= rank <= 100_000 and rank == int(rank)):
            raise InvalidInput(
                f"lora.ranks: the rank of {pattern!r} must be a whole number from 0 to 100000, got "
                f"{rank:g}"
            )


def _check_timesteps(objective: ObjectiveConfig) -> None:
    """Check that the distribution of t is one, and has times in the span. Raises InvalidInput."""
    key = "objective.timestep_params"
    for name, value in objective.timestep_params.items():
        if not math.isfinite(value) or (name in ("std", "shift") and value <= 0):
            kind = "a positive number" if name in ("std", "shift") else "a number"
            raise InvalidInput(f"{key}.{name} must be {kind}, got {value:g}")


def _check_meanflow(config: Config) -> None:
    """Check [meanflow] against the rest. Raises InvalidInput."""
    if config.objective.kind == "meanflow":
        _check_meanflow_numbers(config.meanflow)
        _check_meanflow_network(config)
        return
    for name, value in vars(MeanFlowConfig()).items():
        if vars(config.meanflow)[name] != value:
            raise InvalidInput(
                f"meanflow.{name} is for objective.kind = meanflow, and it is "
                f"{config.objective.kind}: change that, or leave out [meanflow]"
            )


def _check_meanflow_numbers(meanflow: MeanFlowConfig) -> None:
    """Check the numbers of [meanflow] among themselves. Raises InvalidInput."""
    if isinstance(meanflow.beta, str):
        if meanflow.beta != "auto":
            raise InvalidInput(f"meanflow.beta must be a number or auto, got {meanflow.beta!r}")
    elif not 0 <= meanflow.beta <= 1:
        raise InvalidInput(f"meanflow.beta must be a share between 0 and 1, got {meanflow.beta:g}")
    for name in ("equal", "mix"):
        share = getattr(meanflow, name)
        if not share < 1:
            raise InvalidInput(f"meanflow.{name} must be at least 0 and below 1, got {share:g}")
    if meanflow.trace_weight and meanflow.power:
        raise InvalidInput(
            f"meanflow.trace_weight and meanflow.power = {meanflow.power:g} count the same noise "
            f"twice: set meanflow.power=0, or leave out trace_weight"
        )
    if meanflow.anchor and meanflow.beta == 0:
        raise InvalidInput(
            f"meanflow.anchor = {meanflow.anchor:g} holds the network's own velocity in place, "
            f"which meanflow.beta = 0 does not use: set a beta, or leave out the anchor"
        )


def _check_meanflow_network(config: Config) -> None:
    """Check what MeanFlow needs of the network and the precision. Raises InvalidInput."""
    comfy = config.comfy
    if config.run.precision == "fp16":
        raise InvalidInput("run.precision = fp16 overflows in MeanFlow's derivative: use bf16")
    if config.lora.rank is not None and comfy.checkpoint is None:
        raise InvalidInput(
            "MeanFlow teaches a network what an interval is, which [lora] keeps frozen in a SiT: "
            "leave out lora.rank to train all weights"
        )
    if comfy.offload_blocks:
        raise InvalidInput(
            f"MeanFlow's derivative needs all blocks where they are computed, and "
            f"comfy.offload_blocks = {comfy.offload_blocks} keeps some elsewhere: set it to 0"
        )
    if comfy.checkpoint is not None and config.meanflow.derivative == "difference":
        raise InvalidInput(
            "meanflow.derivative = difference is too coarse for a model of ComfyUI, which counts "
            "time in thousandths: leave it out, the exact one is checked at the start"
        )


def _check_comfy(config: Config) -> None:
    """Check [comfy] against the rest. Raises InvalidInput."""
    if config.comfy.checkpoint is None:
        if config.comfy != ComfyConfig():
            raise InvalidInput(
                "[comfy] names no checkpoint: set comfy.checkpoint to a model's file"
            )
        return
    if config.model != ModelConfig():
        raise InvalidInput(
            "[model] describes a SiT and [comfy] a model of ComfyUI: keep one of the two sections"
        )
    if config.data.cache is None:
        raise InvalidInput(
            "a model of ComfyUI learns from a cache with its text: set data.cache to one that "
            "training.prepare made with vae=, family= and text="
        )


def _twice(values: tuple) -> Any:
    return next(v for v in values if values.count(v) > 1)
