"""The sections of a run's configuration: frozen dataclasses, one field per key.

What a key means stands at its field, and docs/configuration.md is generated from here. ``load``
makes these from a TOML file and ``--set``; what must hold between two keys is in ``rules``.
"""

from dataclasses import dataclass

from sv_core.alignment import PROJECTORS
from sv_core.meanflow import DERIVATIVES
from sv_core.timesteps import TIMESTEPS
from sv_core.weighting import WEIGHTS

from .parse import knob


@dataclass(frozen=True)
class ModelConfig:
    """The SiT to train: its name, or its sizes, or a checkpoint to start from."""

    name: str | None = knob(
        None,
        "A published size, in place of the four numbers below: SiT-S, -B, -L or -XL, "
        "with a patch size of /2, /4 or /8.",
        example="SiT-B/2",
    )
    checkpoint: str | None = knob(
        None,
        "A SiT's file to start from (.safetensors or .pt), in place of a name or of sizes.",
        example="out/demo/digits_sit.safetensors",
    )
    patch_size: int | None = knob(
        None,
        "The side of the square that becomes one token.",
        unit="latent cells",
        low=1,
        high=4096,
        example=2,
    )
    hidden_size: int | None = knob(
        None,
        "The width of a token in the transformer; a multiple of num_heads.",
        unit="channels",
        low=4,
        high=100_000,
        example=384,
    )
    depth: int | None = knob(
        None, "How many transformer blocks there are.", low=1, high=1000, example=12
    )
    num_heads: int | None = knob(None, "The attention heads of a block.", low=1, example=6)


@dataclass(frozen=True)
class ComfyConfig:
    """In place of [model], a flow model that ComfyUI loads: Flux, SD3.5, Qwen-Image or Wan."""

    checkpoint: str | None = knob(
        None,
        "The model's file, a diffusion model or a full checkpoint as ComfyUI loads it.",
        example="../../models/diffusion_models/flux1-dev.safetensors",
    )
    folder: str | None = knob(
        None,
        "The ComfyUI whose model code is used. Unset, it is looked for at COMFYUI_PATH, around "
        "this pack and at comfy-cli's default place.",
        example="../..",
    )
    dtype: str = knob(
        "file",
        "What the weights are kept in: as they are stored in the file, or converted.",
        choices=["file", "bf16", "fp32"],
    )
    guidance: float = knob(
        1.0,
        "The guidance that a distilled model such as Flux-dev is given as an input while it "
        "learns. At 1 its output is the plain velocity, which is what training compares it with.",
        low=0,
        example=1.0,
    )
    expert: str | None = knob(
        None,
        "The half of the noise levels that a file of Wan2.2 14B is for. Unset, the file's name "
        "says it.",
        choices=["high", "low"],
    )
    offload_blocks: int = knob(
        0,
        "How many frozen blocks wait in the computer's memory and are copied to the GPU when they "
        "are needed. It needs run.recompute.",
        unit="blocks",
        low=0,
        example=14,
    )


@dataclass(frozen=True)
class DataConfig:
    """What is learnt, how much of it per step, and how much is kept for validation."""

    name: str = knob("digits", "The data set to learn when there is no cache.", choices=["digits"])
    cache: str | None = knob(
        None,
        "A folder that training.prepare made; it replaces the data set of that name.",
        example="cache/flux",
    )
    held_out: float = knob(
        0.05,
        "The share of the pictures that is kept for validation, where the cache has no val folders "
        "of its own; at least 0 and below 1.",
        unit="share",
        low=0,
        example=0.05,
    )
    batch_size: int = knob(
        64, "The samples of one step, over all processes.", unit="samples", low=1, example=16
    )
    label_dropout: float = knob(
        0.1,
        "The share of samples that are learnt without their class or caption, which makes "
        "classifier-free guidance possible later; 0 to 1.",
        unit="share",
        low=0,
        example=0.1,
    )


@dataclass(frozen=True)
class ObjectiveConfig:
    """The target of the velocity and the noise levels that it is learnt at."""

    kind: str = knob(
        "stablevm",
        "cfm is flow matching; stablevm averages its target over references of the same condition; "
        "meanflow learns average velocities, for pictures in one call (see [meanflow]).",
        choices=["cfm", "stablevm", "meanflow"],
    )
    timesteps: str = knob(
        "auto",
        "The distribution of t. auto is uniform for a SiT, shifted as its own schedule is for a "
        "model of ComfyUI, and logit-normal with mean -0.4 for meanflow.",
        choices=["auto", *TIMESTEPS],
    )
    timestep_params: dict[str, float] = knob(  # noqa: RUF009  it is dataclasses.field's
        {},
        "The parameters of that distribution: mean and std of logit_normal and lognormal, shift of "
        "shifted.",
        example={"mean": 0.0, "std": 1.0},
    )
    span: tuple[float, ...] = knob(
        (),
        "Two noise levels between which t stays. Empty: all that the network is for.",
        unit="t",
        low=0,
        example=(0.0, 0.875),
    )
    threshold: float = knob(
        0.5,
        "The noise level below which the target is the plain conditional velocity, because the "
        "posterior has but one reference left there; 0 to 1.",
        unit="t",
        low=0,
        example=0.9,
    )
    bank: int = knob(
        256,
        "How many references a sample's target is averaged over at most: the latest of its "
        "condition.",
        unit="references",
        low=1,
        example=32,
    )
    bank_dtype: str = knob(
        "float32",
        "What the references are kept in. 16 bits take half the memory and move a reference by "
        "1/2000 of itself, far less than the noise at t >= threshold.",
        choices=["float32", "float16"],
    )


@dataclass(frozen=True)
class MeanFlowConfig:
    """MeanFlow, for objective.kind = meanflow: the average velocity over [r, t], in one call."""

    beta: float | str = knob(
        0.0,
        "The share of the network's own velocity in the derivative's tangent: 0 to 1, or auto for "
        "the estimate of every batch, at most 0.5.",
        example="auto",
    )
    velocity: str = knob(
        "conditional",
        "The velocity in target and tangent: that of the sample's own path, or StableVM's average "
        "over references.",
        choices=["conditional", "stable"],
    )
    equal: float = knob(
        0.75,
        "The share of samples with r = t, which learn the velocity itself; at least 0 and below 1.",
        unit="share",
        low=0,
        example=0.25,
    )
    power: float = knob(
        1.0,
        "The exponent p of the adaptive weight 1 / (error + 0.01)^p; 0 is the plain square.",
        low=0,
        example=0.0,
    )
    trace_weight: bool = knob(
        False,
        "Whether samples with a noisy target count less: 1 / (1 + t^4 Tr(J J^T)/d). It needs "
        "power = 0.",
    )
    anchor: float = knob(
        0.0,
        "The weight of flow matching at r = t - 0.001, which holds the network's own velocity in "
        "place when beta is above 0.",
        low=0,
        example=0.1,
    )
    guidance: float = knob(
        1.0,
        "The scale of classifier-free guidance that is built into the network, so that sampling "
        "needs no second call; 1 is none.",
        low=0,
        example=1.25,
    )
    mix: float = knob(
        0.0,
        "The share of that guidance which is taken from the network's own conditional velocity; at "
        "least 0 and below 1.",
        unit="share",
        low=0,
        example=0.5,
    )
    derivative: str = knob(
        "available",
        "How the network is differentiated: exactly (forward mode), by central differences in "
        "float32, or exactly where that is available.",
        choices=DERIVATIVES,
    )
    limit: float = knob(
        100.0,
        "A target that is more than so many times as long as its velocity ends the run.",
        low=1,
        example=100.0,
    )


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank changes of a frozen network; without a rank all of its weights are trained."""

    checkpoint: str | None = knob(
        None, "A LoRA file to start from.", example="runs/flux_lora/weights-000600.safetensors"
    )
    rank: int | None = knob(
        None,
        "The rank of the change B A of every chosen layer. Unset: all weights are trained.",
        low=1,
        high=100_000,
        example=16,
    )
    alpha: float | None = knob(
        None,
        "The change is alpha / rank B A; above 0. Unset, alpha is the rank.",
        low=0,
        example=16.0,
    )
    dropout: float = knob(
        0.0,
        "The share of a layer's inputs that the change does not see in a step; at least 0 and "
        "below 1.",
        unit="share",
        low=0,
        example=0.1,
    )
    targets: tuple[str, ...] = knob(
        (),
        "Patterns of the names of the layers to change. Empty: every linear layer of the blocks.",
        example=("*attn*",),
    )
    ranks: dict[str, float] = knob(  # noqa: RUF009  it is dataclasses.field's
        {},
        "Patterns of layers' names with a rank of their own; 0 leaves a layer out.",
        example={"*attn*": 8.0},
    )


@dataclass(frozen=True)
class AlignConfig:
    """Representation alignment with features in the cache: VA-REPA, REPA or iREPA."""

    encoders: tuple[str, ...] = knob(
        (),
        "The encoders whose features in the cache the network's tokens are drawn towards. Empty: "
        "no alignment.",
        example=("dinov2-base",),
    )
    weighting: str = knob(
        "sigmoid",
        "The gate w(t), by which alignment fades out towards noise: sigmoid is VA-REPA's, "
        "constant is REPA.",
        choices=WEIGHTS,
    )
    split: float = knob(
        0.7,
        "The noise level at which the gate closes; between 0 and 1.",
        unit="t",
        low=0,
        example=0.7,
    )
    k: float = knob(20.0, "The steepness of the sigmoid gate.", unit="1/t", low=0, example=20.0)
    weight: float = knob(
        0.5, "The weight lambda of the alignment loss beside the velocity's.", low=0, example=0.5
    )
    block: int = knob(
        8, "The transformer block whose tokens are aligned, counted from 1.", low=1, example=8
    )
    projector: str = knob(
        "mlp",
        "The trained map from tokens to features: three linear layers, or iREPA's 3x3 convolution.",
        choices=PROJECTORS,
    )
    hidden: int = knob(
        2048, "The width of the mlp projector.", unit="channels", low=1, example=2048
    )
    gamma: float | None = knob(
        None,
        "iREPA's spatial normalisation: the share of the tokens' mean that is taken out of the "
        "features (0.6 in the paper). Unset: none.",
        unit="share",
        low=0,
        example=0.6,
    )


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser, its learning rate over the steps, clipping and the running averages."""

    optimizer: str = knob(
        "adamw",
        "AdamW; with moments in 8 bits (package bitsandbytes); or schedule-free (package "
        "schedulefree), which brings its own average.",
        choices=["adamw", "adamw_8bit", "schedule_free"],
    )
    steps: int = knob(1000, "How many steps the run has.", unit="steps", low=1, example=600)
    accumulate: int = knob(
        1,
        "In how many parts, one after the other, a step's batch is computed, which saves memory.",
        unit="parts",
        low=1,
        example=4,
    )
    lr: float = knob(
        1e-4, "The learning rate after the warm-up; above 0.", low=0, high=1e36, example=2e-3
    )
    schedule: str = knob(
        "constant",
        "What the learning rate does after the warm-up: it stays, or it falls to 0 as a cosine.",
        choices=["constant", "cosine"],
    )
    warmup: int = knob(
        0, "The steps in which the learning rate rises from 0.", unit="steps", low=0, example=20
    )
    weight_decay: float = knob(0.0, "AdamW's weight decay.", low=0, high=1e6, example=0.01)
    clip: float = knob(
        1.0, "The largest norm of the gradient, above 0; inf for none.", low=0, example=1.0
    )
    ema: tuple[float, ...] = knob(
        (0.9999,),
        "The decays of running averages of the weights, each at least 0 and below 1. The first is "
        "validated, previewed and saved as the weights. Empty: the trained weights are.",
        unit="share per step",
        low=0,
        example=(0.99, 0.999),
    )


@dataclass(frozen=True)
class RunConfig:
    """Where and how it runs, and how often it reports. An interval of 0: at the end only."""

    out: str = knob(
        "runs/latest", "The folder that everything is written to.", example="runs/flux_lora"
    )
    seed: int = knob(0, "The seed of everything that is drawn.", low=0, high=2**63 - 1, example=1)
    device: str = knob(
        "auto",
        "What computes; auto is a GPU where there is one.",
        choices=["auto", "cpu", "cuda"],
    )
    precision: str = knob(
        "fp32",
        "The precision of the network's products; trained weights keep their own.",
        choices=["fp32", "bf16", "fp16"],
    )
    compile: bool = knob(False, "Whether the network is compiled (torch.compile).")
    recompute: bool = knob(
        False,
        "Gradient checkpointing: activations are computed once more in the backward pass instead "
        "of being kept, for about a third more time.",
    )
    shard: bool = knob(
        False,
        "With several processes: spread weights and optimiser over them (FSDP) instead of copying "
        "them (DDP).",
    )
    timeout: float = knob(
        600.0,
        "How long a process waits for a sign of another one before the run ends.",
        unit="seconds",
        low=1,
        high=1e7,
        example=600.0,
    )
    vae: str | None = knob(
        None,
        "A VAE's file, which turns previews of latents into pictures. Unset, they are in false "
        "colours.",
        example="../../models/vae/ae.safetensors",
    )
    trackers: tuple[str, ...] = knob(
        (), "What is also reported to, beside metrics.jsonl.", choices=["tensorboard", "wandb"]
    )
    report_every: int = knob(
        10,
        "The interval of the figures about the targets themselves, such as how many references had "
        "a say; they cost as much as the targets once more.",
        unit="steps",
        low=0,
        example=50,
    )
    validate_every: int = knob(
        0, "The interval of the loss on what is held out.", unit="steps", low=0, example=150
    )
    preview_every: int = knob(
        0, "The interval of previews and of the chart bins.png.", unit="steps", low=0, example=150
    )
    save_every: int = knob(
        0,
        "The interval of weights files and of the state to resume from.",
        unit="steps",
        low=0,
        example=150,
    )
    save_minutes: float = knob(
        10.0,
        "The state alone is saved when so many minutes have passed since the last save, so that a "
        "crash costs no more; 0 for never.",
        unit="minutes",
        low=0,
        example=30.0,
    )
    keep_last: int = knob(
        0,
        "Of how many saves, the latest ones, the weights files are kept; 0 for all.",
        unit="saves",
        low=0,
        example=3,
    )


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


def needs_references(objective: ObjectiveConfig, meanflow: MeanFlowConfig) -> bool:
    """Whether velocities are averaged over references."""
    kind = objective.kind
    return kind == "stablevm" or (kind == "meanflow" and meanflow.velocity == "stable")
