"""What a run can be told: frozen dataclasses, and what must hold between their fields.

A knob is a field here with a default; how a file or ``--set`` becomes these is settings.py's.
"""

from dataclasses import dataclass, field

from sv_core.alignment import PROJECTORS
from sv_core.meanflow import DERIVATIVES
from sv_core.timesteps import TIMESTEPS
from sv_core.weighting import WEIGHTS

from .parse import knob


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


def needs_references(config: Config) -> bool:
    """Whether velocities are averaged over a bank of references."""
    kind = config.objective.kind
    return kind == "stablevm" or (kind == "meanflow" and config.meanflow.velocity == "stable")
