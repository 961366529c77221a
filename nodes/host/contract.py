"""The host contract: every name of ComfyUI's internals that is used here, and what is off without.

``comfy.*`` promises nothing: names move, parameters and ranges change. Each entry of ``NAMES`` is
looked up when the pack loads, is tried with the arguments that it will get, and, where a wrong
value would pass silently, with numbers. A node that cannot work is not registered, and one line of
the log says why; the others are. ``comfy_api.latest``, which the host does promise, is not listed.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, ParamSpec, TypeVar

import torch

from ...sv_core.errors import InvalidInput

P = ParamSpec("P")
T = TypeVar("T")

STABLE_VS, REGIME_SPLIT = "sampler stable_vs", "scheduler regime_split"
"""The entries of KSampler's drop-downs, which are off or on as the nodes are."""

GROUPS = {
    "MODEL": (
        *("FewerCalls", "CoarseFirst", "LatentSpectrum", "CountCalls", "CallReport"),
        *("MeanFlowLoader", "SiTLoader", "SiTClassCondition"),
    ),
    "SAMPLER": (
        *("StableVSSampler", "StableVSCalibrate", "StableVSCalibrationLoader"),
        *("MeanFlowSampler", STABLE_VS),
    ),
    "SIGMAS": ("RegimeSplitScheduler", "RegimeSplitSigmas", REGIME_SPLIT),
    "IMAGE": ("RegimePlot", "FidelityReport"),
}
"""Nodes that stand on the same parts of the host: what is missing takes nodes of one group only."""

_OWN_SAMPLERS = ("StableVSSampler", "StableVSCalibrate", "MeanFlowSampler")
_SIT = ("SiTLoader", "SiTClassCondition")
_BEHIND = ("FewerCalls", "CoarseFirst")
_WRAPPING = (*_BEHIND, "CountCalls", "MeanFlowLoader")

UNLIKE = (ImportError, AttributeError, TypeError, NameError)
"""What a host of another shape makes Python raise."""


class HostChanged(InvalidInput):
    """ComfyUI has changed where this pack holds on to it."""

    def __init__(self, why: object):
        super().__init__(
            f"this ComfyUI is not the one that Stable Velocity knows ({why}): update Stable "
            "Velocity, or run ComfyUI without this node"
        )


class Name(NamedTuple):
    """A name of the host."""

    module: str
    path: str
    off: tuple[str, ...]
    """The nodes that cannot work without it; none where there is another way."""
    arguments: int | None = None
    """How many arguments it is called with by position, ``self`` included; None: it isn't."""
    options: tuple[str, ...] = ()
    """The arguments that it is called with by name."""
    wrong: Callable[[Any], str | None] | None = None
    """What is wrong with the thing itself, if anything."""

    def __str__(self) -> str:
        return f"{self.module}.{self.path}"

    def complaint(self) -> str | None:
        """What is missing or has changed, or None."""
        try:
            thing = self.find()
            if self.arguments is not None:
                filled = dict.fromkeys(self.options)
                inspect.signature(thing).bind(*[None] * self.arguments, **filled)
            return self.wrong and self.wrong(thing)
        except (*UNLIKE, ValueError, IndexError, KeyError, RuntimeError) as e:
            return str(e) or type(e).__name__

    def find(self) -> Any:
        """The thing itself. Raises ImportError or AttributeError."""
        thing = importlib.import_module(self.module)
        for part in self.path.split("."):
            thing = getattr(thing, part)
        return thing


def _no_list(names: Any) -> str | None:
    ok = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return None if ok else "it is no list of names"


def _no_table(handlers: Any) -> str | None:
    return None if isinstance(handlers, dict) else "it is no dictionary"


def _no_sampler(make: Any) -> str | None:
    made = make("euler")
    fields = ("sampler_function", "extra_options", "inpaint_options", "sample")
    lost = [name for name in fields if not hasattr(made, name)]
    return f"a SAMPLER has no {lost[0]}" if lost else None


def _no_ksampler(kind: Any) -> str | None:
    def function() -> None: ...

    made = kind(function, extra_options={"a": 1}, inpaint_options={"b": 2})
    kept = (made.sampler_function, made.extra_options, made.inpaint_options)
    return None if kept == (function, {"a": 1}, {"b": 2}) else "it keeps other things than it gets"


class _Table:
    """A linear flow's ``model_sampling`` of shift 1, as far as the host's schedulers look at it."""

    sigmas = torch.arange(1, 1001) / 1000
    sigma_min, sigma_max = sigmas[0], sigmas[-1]


def is_linear_flow(model_sampling: Any) -> bool:
    """Whether denoised data is x - sigma v, and x is (1 - sigma) x0 and noise: tried on numbers."""
    sigma, v, x = torch.tensor([0.25]), torch.full((1, 1, 1, 1), 2.0), torch.full((1, 1, 1, 1), 3.0)
    try:
        denoised = model_sampling.calculate_denoised(sigma, v, x)
        begun = model_sampling.noise_scaling(sigma, torch.zeros_like(v), x)
        return abs(float(denoised) - 2.5) < 1e-3 and abs(float(begun) - 2.25) < 1e-3
    except (*UNLIKE, ValueError, RuntimeError):
        return False


def _no_linear_flow(kind: Any) -> str | None:
    return None if is_linear_flow(kind()) else "its flow is not the linear one"


def _no_flow_grid(calculate: Any) -> str | None:
    grid = calculate(_Table(), "simple", 4)
    wanted = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0])
    if grid.shape == wanted.shape and torch.allclose(grid.float().cpu(), wanted, atol=0.01):
        return None
    return f"its grid of 4 steps runs from {float(grid[0]):g} to {float(grid[-1]):g}, not 1 to 0"


def _no_wrapper(name: Any) -> str | None:
    return None if isinstance(name, str) else "it is no name"


NAMES = (
    # What has another way: no node is off.
    Name("comfy.model_management", "throw_exception_if_processing_interrupted", (), 0),
    Name("comfy.model_sampling", "COSMOS_RFLOW", ()),
    Name("comfy.model_patcher", "ModelPatcher.get_model_object", (), 2),
    Name("comfy.samplers", "SAMPLER_NAMES", (), wrong=_no_list),
    Name("comfy.samplers", "SCHEDULER_NAMES", (), wrong=_no_list),
    # SAMPLERs.
    Name(
        *("comfy.samplers", "KSAMPLER", _OWN_SAMPLERS, 1, ("extra_options", "inpaint_options")),
        wrong=_no_ksampler,
    ),
    Name("comfy.samplers", "KSAMPLER.sample", _OWN_SAMPLERS, 9),
    Name("comfy.samplers", "sampler_object", ("StableVSSampler",), 1, wrong=_no_sampler),
    Name("comfy.samplers", "CFGGuider", ("StableVSCalibrate",), 1),
    Name("comfy.samplers", "CFGGuider.set_conds", ("StableVSCalibrate",), 3),
    Name("comfy.samplers", "CFGGuider.set_cfg", ("StableVSCalibrate",), 2),
    Name(
        *("comfy.samplers", "CFGGuider.sample", ("StableVSCalibrate",), 5),
        ("denoise_mask", "callback", "disable_pbar", "seed"),
    ),
    Name("comfy.sample", "fix_empty_latent_channels", ("StableVSCalibrate",), 2),
    Name("comfy.sample", "prepare_noise", ("StableVSCalibrate",), 3),
    Name("comfy.utils", "PROGRESS_BAR_ENABLED", ("StableVSCalibrate",)),
    Name("latent_preview", "prepare_callback", ("StableVSCalibrate",), 2),
    Name(
        *("folder_paths", "get_output_directory"),
        *(("StableVSCalibrate", "StableVSCalibrationLoader"), 0),
    ),
    Name("comfy.samplers", "KSampler.SAMPLERS", (STABLE_VS,), wrong=_no_list),
    Name("comfy.samplers", "KSAMPLER_NAMES", (STABLE_VS,), wrong=_no_list),
    Name("comfy.samplers", "ksampler", (STABLE_VS,), 1),
    Name("comfy.k_diffusion.sampling", "sample_euler", (STABLE_VS,)),
    # SIGMAS.
    Name(
        *("comfy.samplers", "calculate_sigmas", ("RegimeSplitScheduler", REGIME_SPLIT), 3),
        wrong=_no_flow_grid,
    ),
    Name("comfy.samplers", "KSampler.SCHEDULERS", (REGIME_SPLIT,), wrong=_no_list),
    Name("comfy.samplers", "SCHEDULER_HANDLERS", (REGIME_SPLIT,), wrong=_no_table),
    Name("comfy.samplers", "SchedulerHandler", (REGIME_SPLIT,), 1),
    # MODELs.
    Name("comfy.model_patcher", "ModelPatcher.clone", _WRAPPING, 1),
    Name("comfy.model_patcher", "ModelPatcher.add_wrapper_with_key", _WRAPPING, 4),
    Name(
        "comfy.patcher_extension",
        "WrappersMP.APPLY_MODEL",
        ("FewerCalls", "MeanFlowLoader", "CountCalls"),
        wrong=_no_wrapper,
    ),
    Name(
        *("comfy.patcher_extension", "WrappersMP.OUTER_SAMPLE", (*_BEHIND, "CountCalls")),
        wrong=_no_wrapper,
    ),
    Name("comfy.patcher_extension", "WrappersMP.SAMPLER_SAMPLE", _BEHIND, wrong=_no_wrapper),
    Name(
        *("comfy.patcher_extension", "WrappersMP.PREDICT_NOISE", ("CoarseFirst", "CountCalls")),
        wrong=_no_wrapper,
    ),
    Name("comfy.samplers", "process_conds", ("CoarseFirst",), 7),
    Name("comfy.samplers", "pre_run_control", ("CoarseFirst",), 2),
    Name("comfy.model_management", "InterruptProcessingException", ("CoarseFirst",)),
    Name("comfy.model_management", "OOM_EXCEPTION", ("CoarseFirst",)),
    Name("comfy.model_patcher", "ModelPatcher.remove_wrappers_with_key", ("MeanFlowLoader",), 3),
    Name("comfy.model_patcher", "ModelPatcher.set_additional_models", ("MeanFlowLoader",), 3),
    Name(
        *("comfy.model_patcher", "ModelPatcher", ("MeanFlowLoader", *_SIT), 1),
        ("load_device", "offload_device"),
    ),
    Name("folder_paths", "get_filename_list", ("MeanFlowLoader", "SiTLoader"), 1),
    Name("folder_paths", "get_full_path", ("MeanFlowLoader", "SiTLoader"), 2),
    Name("comfy.model_sampling", "CONST", _SIT, 0, wrong=_no_linear_flow),
    Name("comfy.model_base", "BaseModel", _SIT, 2),
    Name("comfy.model_base", "ModelType.FLOW", _SIT),
    Name("comfy.supported_models_base", "BASE", _SIT, 1),
    Name("comfy.latent_formats", "LatentFormat", _SIT),
    Name("comfy.latent_formats", "SD15", _SIT, 0),
    Name("comfy.conds", "CONDRegular", _SIT, 1),
    Name("comfy.model_management", "get_torch_device", _SIT, 0),
    Name("comfy.model_management", "unet_offload_device", ("MeanFlowLoader", *_SIT), 0),
    Name("comfy.model_management", "intermediate_device", _SIT, 0),
)
"""Every name that nodes/host/ uses, once."""


def check(names: Iterable[Name] = NAMES) -> dict[str, str]:
    """What is wrong with the names that this host lacks or has changed, by node that is off."""
    off: dict[str, str] = {}
    for name in names:
        if name.off and (why := name.complaint()):
            for node in name.off:
                off.setdefault(node, f"{name}: {why}")
    return off


def summary(off: dict[str, str]) -> str:
    """One line for the log: the nodes that are off, and why."""
    reasons = dict.fromkeys(off.values())
    parts = [
        f"{', '.join(node for node, why in off.items() if why == reason)} ({reason})"
        for reason in reasons
    ]
    return (
        "Stable Velocity: this ComfyUI has changed, so these are off: " + "; ".join(parts) + ". "
        "Everything else works; update Stable Velocity."
    )


def of_the_host(function: Callable[P, T]) -> Callable[P, T]:
    """Decorator: a name that the host lacks, or calls otherwise, is said in a sentence.

    That is so for what Python raises in the function itself: a missing attribute, or a call that
    does not fit. What the host raises inside its own functions is left as it is.
    """

    @functools.wraps(function)
    def guarded(*args: P.args, **options: P.kwargs) -> T:
        try:
            return function(*args, **options)
        except UNLIKE as e:
            inside = e.__traceback__ and e.__traceback__.tb_next
            if inside is None or inside.tb_next is not None:
                raise
            raise HostChanged(e) from e

    return guarded
