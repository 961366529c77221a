"""What a run can be told: frozen dataclasses, and what must hold between their fields.

A knob is a field here with a default; how a file or ``--set`` becomes these is settings.py's.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from sv_core.alignment import PROJECTORS
from sv_core.errors import InvalidInput
from sv_core.meanflow import DERIVATIVES
from sv_core.timesteps import TIMESTEPS
from sv_core.weighting import WEIGHTS

from .settings import build, knob, override, read, toml


@dataclass(frozen=True)
class ModelConfig:
    """A SiT: a name of that family, or its sizes, or a checkpoint to start from."""

    name: str | None = None
    checkpoint: str | None = None
    patch_size: int | None = knob(None, low=1)
    hidden_size: int | None = knob(None, low=4)
    depth: int | None = knob(None, low=1)
    num_heads: int | None = knob(None, low=1)


@dataclass(frozen=True)
class ComfyConfig:
    """In place of [model], a flow model that ComfyUI loads: Flux, SD3.5, Qwen-Image or Wan.

    ``checkpoint`` is the user's file; the code comes from the ComfyUI in ``folder``, looked for
    where it usually is when unset. ``dtype`` is what the weights are kept in, ``file`` being as
    they are stored; ``guidance`` is what a distilled model such as Flux-dev is told; ``expert`` is
    the half of Wan2.2's noise levels that the file is for; so many frozen blocks wait in the
    computer's memory until they are needed (``offload_blocks``).
    """

    checkpoint: str | None = None
    folder: str | None = None
    dtype: str = knob("file", choices=["file", "bf16", "fp32"])
    guidance: float = knob(1.0, low=0)
    expert: str | None = knob(None, choices=["high", "low"])
    offload_blocks: int = knob(0, low=0)


@dataclass(frozen=True)
class DataConfig:
    """What is learnt: a ``cache`` that training.prepare made, else the data of that ``name``.

    ``held_out`` is the share of a cache without val folders that is kept for validation;
    ``batch_size`` is that of a step, over all processes; ``label_dropout`` is what makes guidance
    possible later.
    """

    name: str = knob("digits", choices=["digits"])
    cache: str | None = None
    held_out: float = knob(0.05, low=0)
    batch_size: int = knob(64, low=1)
    label_dropout: float = knob(0.1, low=0)


@dataclass(frozen=True)
class ObjectiveConfig:
    """Flow matching (``cfm``) or StableVM, which averages the target over ``bank`` references.

    Or ``meanflow``, for pictures in one call: see MeanFlowConfig. ``timesteps`` auto are uniform
    for a SiT, shifted as its own schedule is for a model of ComfyUI, and logit-normal with mean
    -0.4 for MeanFlow's r and t; ``span`` keeps t between two numbers. Rounded to 16 bits
    (``bank_dtype``) a reference moves by 1/2000 of itself, far less than the noise at
    t >= ``threshold``, and takes half the memory.
    """

    kind: str = knob("stablevm", choices=["cfm", "stablevm", "meanflow"])
    timesteps: str = knob("auto", choices=["auto", *TIMESTEPS])
    timestep_params: dict[str, float] = field(default_factory=dict)
    span: tuple[float, ...] = knob((), low=0)
    threshold: float = knob(0.5, low=0)
    bank: int = knob(256, low=1)
    bank_dtype: str = knob("float32", choices=["float32", "float16"])


@dataclass(frozen=True)
class MeanFlowConfig:
    """MeanFlow: the average velocity over [r, t], which makes a picture in one call.

    ``beta`` is the share of the network's own velocity in the tangent, auto the estimate of every
    batch, at most 0.5; ``velocity`` stable is StableVM's, from a bank; ``equal`` is the share of
    r = t. The loss is weighed by 1 / (error + 0.01)^``power``, or by ``trace_weight`` where the
    target is noisy; ``anchor`` is lambda of the flow matching beside the diagonal. ``guidance`` is
    built in, so that sampling needs no second call, ``mix`` of it taken from the network itself.
    A target more than ``limit`` times as long as its velocity ends the run.
    """

    beta: float | str = 0.0
    velocity: str = knob("conditional", choices=["conditional", "stable"])
    equal: float = knob(0.75, low=0)
    power: float = knob(1.0, low=0)
    trace_weight: bool = False
    anchor: float = knob(0.0, low=0)
    guidance: float = knob(1.0, low=0)
    mix: float = knob(0.0, low=0)
    derivative: str = knob("available", choices=DERIVATIVES)
    limit: float = knob(100.0, low=1)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank changes of a frozen network; without a ``rank`` all of its weights are trained.

    The change is alpha / rank * B A, ``alpha`` being the rank when unset. ``targets`` are patterns
    of layers' names, such as ``*attn*``; unset, every linear layer of the blocks. ``ranks`` gives
    patterns a rank of their own. ``checkpoint`` is a LoRA file to begin with.
    """

    checkpoint: str | None = None
    rank: int | None = knob(None, low=1)
    alpha: float | None = knob(None, low=0)
    dropout: float = knob(0.0, low=0)
    targets: tuple[str, ...] = ()
    ranks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class AlignConfig:
    """Alignment with the ``encoders``' features in the cache; none of them: no alignment.

    VA-REPA by default; ``weighting`` constant is REPA. ``weight`` is lambda, ``split`` and ``k``
    are the gate's, ``block`` counts from 1, ``hidden`` is the mlp's width, and ``gamma`` is iREPA's
    spatial normalisation of the features (0.6 there; unset: none).
    """

    encoders: tuple[str, ...] = ()
    weighting: str = knob("sigmoid", choices=WEIGHTS)
    split: float = knob(0.7, low=0)
    k: float = knob(20.0, low=0)
    weight: float = knob(0.5, low=0)
    block: int = knob(8, low=1)
    projector: str = knob("mlp", choices=PROJECTORS)
    hidden: int = knob(2048, low=1)
    gamma: float | None = knob(None, low=0)


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser, its learning rate over ``steps``, clipping and the running averages.

    ``accumulate`` computes a step's batch in so many parts. Of several ``ema`` decays the first is
    what is validated, previewed and called the weights; without any these are the trained ones.
    Schedule-free brings its own average in place of these.
    """

    optimizer: str = knob("adamw", choices=["adamw", "adamw_8bit", "schedule_free"])
    steps: int = knob(1000, low=1)
    accumulate: int = knob(1, low=1)
    lr: float = knob(1e-4, low=0)
    schedule: str = knob("constant", choices=["constant", "cosine"])
    warmup: int = knob(0, low=0)
    weight_decay: float = knob(0.0, low=0)
    clip: float = knob(1.0, low=0)
    ema: tuple[float, ...] = knob((0.9999,), low=0)


@dataclass(frozen=True)
class RunConfig:
    """Where and how it runs, and how often it reports. 0 for an interval means: at the end only.

    ``shard`` spreads weights and optimiser over the processes (FSDP) instead of copying them (DDP);
    ``recompute`` trades a third more time for the activations' memory (gradient checkpointing);
    after ``timeout`` seconds without a sign of another process the run ends; a ``vae`` turns
    previews of latents into pictures. ``report_every`` is the interval of what StableVM did, which
    costs as much as its targets once more.
    """

    out: str = "runs/latest"
    seed: int = 0
    device: str = knob("auto", choices=["auto", "cpu", "cuda"])
    precision: str = knob("fp32", choices=["fp32", "bf16", "fp16"])
    compile: bool = False
    recompute: bool = False
    shard: bool = False
    timeout: float = knob(600.0, low=1)
    vae: str | None = None
    trackers: tuple[str, ...] = knob((), choices=["tensorboard", "wandb"])
    report_every: int = knob(10, low=0)
    validate_every: int = knob(0, low=0)
    preview_every: int = knob(0, low=0)
    save_every: int = knob(0, low=0)


@dataclass(frozen=True)
class Config:
    """A whole run."""

    model: ModelConfig = ModelConfig()
    comfy: ComfyConfig = ComfyConfig()
    data: DataConfig = DataConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    meanflow: MeanFlowConfig = MeanFlowConfig()
    lora: LoraConfig = LoraConfig()
    align: AlignConfig = AlignConfig()
    optim: OptimConfig = OptimConfig()
    run: RunConfig = RunConfig()


def load(path: Path, overrides: Iterable[str] = ()) -> Config:
    """Read a TOML file, apply the overrides in order, check everything.

    Raises InvalidInput, in one sentence, for a file that is missing or no TOML, and for anything in
    it that is not a known key with a value it can have.
    """
    table = read(path)
    for assignment in overrides:
        override(table, assignment)
    config = build(Config, table)
    _check(config)
    return config


def _check(config: Config) -> None:
    """What concerns more than one field, or a bound above."""
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
    _check_comfy(config)
    _check_meanflow(config)


def _check_meanflow(config: Config) -> None:
    """[meanflow] and what goes with it."""
    meanflow = config.meanflow
    if config.objective.kind != "meanflow":
        for name, value in vars(MeanFlowConfig()).items():
            if vars(meanflow)[name] != value:
                raise InvalidInput(
                    f"meanflow.{name} is for objective.kind = meanflow, and it is "
                    f"{config.objective.kind}: change that, or leave out [meanflow]"
                )
        return
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
    if config.run.precision == "fp16":
        raise InvalidInput("run.precision = fp16 overflows in MeanFlow's derivative: use bf16")
    comfy = config.comfy
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
    if comfy.checkpoint is not None and meanflow.derivative == "difference":
        raise InvalidInput(
            "meanflow.derivative = difference is too coarse for a model of ComfyUI, which counts "
            "time in thousandths: leave it out, the exact one is checked at the start"
        )


def _check_comfy(config: Config) -> None:
    """[comfy] and what goes with it."""
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


def dump(config: Config) -> str:
    """The resolved configuration as TOML, each field on its line; unset fields are left out."""
    lines = []
    for section in fields(config):
        part = getattr(config, section.name)
        lines.append(f"[{section.name}]")
        for f in fields(part):
            value = getattr(part, f.name)
            if value is not None:
                lines.append(f"{f.name} = {toml(value)}")
        lines.append("")
    return "\n".join(lines)
