"""A ComfyUI that has changed, and what the pack makes of it: every node at work before and after.

Whatever is changed, a node is off with a line in the log, refuses in a sentence, or gives what it
gave before. Anything else is a finding.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from enum import EnumMeta
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import comfy.model_base
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import folder_paths
import torch
from safetensors.torch import save_file

import nodes
from tests.host import tiny
from tests.nodes.loaded_pack import MODEL, NAME, PACK, flow, latent, sample, sit, sit_model

contract = import_module(".nodes.host.contract", NAME)
sit_file = import_module(".sv_core.models.sit_file", NAME)
interval = import_module(".sv_core.models.interval", NAME)
NODES = [node for group in contract.GROUPS.values() for node in group if " " not in node]
SHAPE, STEPS = (2, 4, 16, 16), 10
GRID = flow.host_grid(MODEL, "simple", STEPS, 1.0)
SIT = sit.SiTConfig(16, 4, 4, 64, 1, 2, num_classes=3, interval=True)
CONDITIONS = [sit_model.conditioning_from_classes(c) for c in ([0], None)]
EULER = comfy.samplers.sampler_object("euler")
MISSING = object()


# What is changed.


class Change(NamedTuple):
    """One change of the host, at work from the pack's loading on, or only when its nodes run."""

    label: str
    apply: Callable[[], contextlib.AbstractContextManager]
    while_loading: bool = True
    name: Any = None
    """The entry of the contract that is hidden, if that is the change."""


@contextlib.contextmanager
def put(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Context manager: another value under a name, or none."""
    own = name in vars(owner)
    before = getattr(owner, name)
    if value is MISSING:
        if own:
            delattr(owner, name)
    else:
        setattr(owner, name, value)
    try:
        yield
    finally:
        if own or value is MISSING:
            setattr(owner, name, before)
        else:
            delattr(owner, name)


def owner_of(entry: Any) -> tuple[Any, str]:
    *way, name = entry.path.split(".")
    owner = import_module(entry.module)
    for part in way:
        owner = getattr(owner, part)
    return owner, name


def exists(entry: Any) -> bool:
    owner, name = owner_of(entry)
    return hasattr(owner, name)


def hidden(entry: Any) -> contextlib.AbstractContextManager:
    owner, name = owner_of(entry)
    if isinstance(owner, EnumMeta):  # which keeps its members: all of them are hidden
        return put(import_module(entry.module), owner.__name__, SimpleNamespace())
    return put(owner, name, MISSING)


def refitted(thing: Any) -> Any:
    """The same thing with a parameter that nobody gives."""
    if inspect.isclass(thing):

        def __init__(self, *given, added, **options):
            raise AssertionError("it cannot be called without the new parameter")

        return type(thing.__name__, (thing,), {"__init__": __init__})

    @functools.wraps(thing)
    def function(*given, added, **options):
        return thing(*given, **options)

    del function.__wrapped__  # or its signature would be the old one
    return function


def resigned(entry: Any) -> contextlib.AbstractContextManager:
    return put(*owner_of(entry), refitted(entry.find()))


def altered(module: str, name: str, make: Callable[[Any], Any]) -> Callable:
    def apply() -> contextlib.AbstractContextManager:
        owner, last = owner_of(contract.Name(module, name, ()))
        return put(owner, last, make(getattr(owner, last)))

    return apply


def after(change: Callable[[Any], Any]) -> Callable[[Callable], Callable]:
    """The same function with its result changed."""

    def make(function: Callable) -> Callable:
        @functools.wraps(function)
        def other(*given, **options):
            return change(function(*given, **options))

        return other

    return make


def no_attribute(of: Callable[[], Any], name: str) -> Callable:
    return lambda: put(of(), name, MISSING)


RANGES = {
    "sigmas times 1000": after(lambda s: s * 1000),
    "sigmas times 14.6": after(lambda s: s * 14.6),
    "sigmas upside down": after(lambda s: s.flip(0)),
    "sigmas below 0": after(lambda s: s - 0.5),
    "sigmas that are no numbers": after(lambda s: s * float("nan")),
    "sigmas in a list": after(lambda s: s.tolist()),
    "sigmas in two rows": after(lambda s: s[None]),
    "sigmas of whole numbers": after(lambda s: (s * 1000).long()),
}
LISTS = (
    *(("comfy.samplers", n) for n in ("SAMPLER_NAMES", "SCHEDULER_NAMES", "KSAMPLER_NAMES")),
    *(("comfy.samplers", f"KSampler.{n}") for n in ("SAMPLERS", "SCHEDULERS")),
)
DENOISED = {
    "denoised data is the velocity": lambda self, sigma, v, x: v,
    "denoised data has another sign": lambda self, sigma, v, x: x + v * sigma.view(-1, 1, 1, 1),
    "denoised data takes sigma times 1000": (
        lambda self, sigma, v, x: x - v * sigma.view(-1, 1, 1, 1) / 1000
    ),
}


def changes() -> list[Change]:
    """All of them."""
    entries = [entry for entry in contract.NAMES if exists(entry)]
    found = [
        Change(f"without {entry}", functools.partial(hidden, entry), name=entry)
        for entry in entries
    ]
    for entry in entries:
        if entry.arguments is not None:
            apply = functools.partial(resigned, entry)
            found.append(Change(f"another signature of {entry}", apply))
    for label, make in RANGES.items():
        for loading in (True, False):
            apply = altered("comfy.samplers", "calculate_sigmas", make)
            found.append(Change(f"{label}{'' if loading else ', later'}", apply, loading))
    for module, name in LISTS:
        found.append(Change(f"{name} is a tuple", altered(module, name, tuple)))
        found.append(Change(f"{name} is a dictionary", altered(module, name, dict.fromkeys)))
    for label, function in DENOISED.items():
        make = altered("comfy.model_sampling", "CONST.calculate_denoised", lambda _, f=function: f)
        found += [Change(label, make), Change(f"{label}, later", make, False)]
    for name in ("patches_uuid", "object_patches", "model_options", "load_device"):
        found.append(Change(f"MODEL without {name}", no_attribute(lambda: MODEL, name), False))
    for entry in entries:
        found.append(Change(f"without {entry}, later", functools.partial(hidden, entry), False))
    return found


# What is tried.


class Trials:
    """Every node at work, small; files of its own lie in ``folder``."""

    def __init__(self, folder: Path):
        self.embedded = family()
        self.meanflow = patched(stirred(sit.SiT(SIT)))
        network = stirred(sit.SiT(SIT))
        spec = latent.LatentSpec("sd", 4, 1.0, 0.0, 8)
        (folder / "models").mkdir()
        save_file(
            network.state_dict(), folder / "models/sit.safetensors", sit_file.to_metadata(SIT, spec)
        )
        width = interval.width(
            interval.time_embedding(self.embedded.model.diffusion_model, "Wan2.2")
        )
        tensors, about = interval.to_file(interval.IntervalEmbedder(width, 32), "Wan2.2")
        save_file(tensors, folder / "models/embedder.safetensors", about)

    def run(self, node: str, made: Any) -> Any:
        return getattr(self, node)(made)

    def FewerCalls(self, node):
        return sample(EULER, GRID, shape=SHAPE, model=node.execute(MODEL).args[0])

    def CoarseFirst(self, node):
        made = node.execute(
            MODEL, size="1/2", until="usual", level=0.5, keep_layout=False, detail=0.5,
            full_calls=2, edit_models=False,
        ).args[0]  # fmt: skip
        return sample(EULER, GRID, shape=SHAPE, model=made)

    def CountCalls(self, node):
        model, counts = node.execute(MODEL).args
        sample(EULER, GRID, shape=SHAPE, model=model)
        return torch.tensor([counts.calls, counts.evaluations])

    def CallReport(self, node):
        counts = sys.modules[node.__module__].Counts(calls=3)
        return torch.tensor(len(node.execute(counts, None).args[0]))

    def LatentSpectrum(self, node):
        latents = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        return node.execute(MODEL, {"samples": latents}).args[1]

    def StableVSSampler(self, node):
        settings = {"base": "euler", "split": 0.85, "noise": 0.0}
        samplers = (node.execute(**settings, mode=mode, calls=6).args[0] for mode in MODES)
        return torch.stack([sample(made, GRID, shape=SHAPE) for made in samplers])

    def MeanFlowSampler(self, node):
        return sample(node.execute(calls=2).args[0], GRID, shape=SHAPE, model=self.meanflow)

    def MeanFlowLoader(self, node):
        made = node.execute(self.embedded, "embedder.safetensors").args[0]
        return torch.tensor(len(made.get_nested_additional_models()))

    def StableVSCalibrate(self, node):
        start = {"samples": torch.zeros(SHAPE)}
        found = node.execute(
            sigmas=GRID, latent=start, model=MODEL, positive=CONDITIONS[0], cfg=1.0, runs=1,
            calls=6, first_seed=0, name="tried",
        )  # fmt: skip
        return torch.tensor(found.args[0].nodes[6])

    def StableVSCalibrationLoader(self, node):
        return torch.tensor(node.execute("kept.json").args[0].nodes[6])

    def RegimeSplitScheduler(self, node):
        made = node.execute(MODEL, scheduler="simple", steps=20, low_steps=5, preset="manual")
        return made.args[0]

    def RegimeSplitSigmas(self, node):
        return node.execute(GRID, low_steps=3).args[0]

    def SiTLoader(self, node):
        network = node.execute("sit.safetensors", 3.0, "auto").args[0].model.diffusion_model
        x = torch.linspace(-1, 1, 4 * 16 * 16).view(1, 4, 16, 16)
        with torch.no_grad():  # another sampler's result is the host's
            return network(x, torch.tensor([0.5]), y=torch.tensor([1]))

    def SiTClassCondition(self, node):
        loaded = sys.modules[node.__module__].SiTLoader.execute("sit.safetensors", 3.0, "auto")
        return node.execute(loaded.args[0], "0-2", 1).args[2]["samples"]

    def RegimePlot(self, node):
        return node.execute(GRID, GRID[::2], 0.85, 0.0).args[0]

    def FidelityReport(self, node):
        pictures = torch.linspace(0, 1, 2 * 12 * 12 * 3).view(2, 12, 12, 3)
        return node.execute(pictures, pictures * 0.9, 0.0).args[0]


MODES = ("paper", "forecast", "adaptive", "self-calibrating", "ode")


def stirred(module):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    return module.eval()


def patched(network):
    model = sit_model.SiTModel(network, latent.SD_VAE, 3.0)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def family():
    """A tiny Wan of the host's own class, as a MODEL."""
    import comfy.model_detection

    made = comfy.model_detection.model_config_from_unet_config(dict(tiny.WAN_14B), {})
    made.set_inference_dtype(torch.float32, None)
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(made.get_model({}, device=cpu).eval(), cpu, cpu)


def host_s_own() -> None:
    """An ordinary run without a node of ours: where that fails too, the host is what is broken."""
    comfy.samplers.calculate_sigmas(MODEL.get_model_object("model_sampling"), "simple", 3)
    sample(comfy.samplers.sampler_object("euler"), GRID, shape=SHAPE, model=MODEL.clone())
    comfy.model_base.model_sampling(MODEL.model.model_config, comfy.model_base.ModelType.FLOW)


# What comes of it.


class Finding(NamedTuple):
    outcome: str
    detail: str


class Outcome(NamedTuple):
    """Of one change: the nodes that are off, refused, and as before, the log, the findings."""

    off: list[str]
    refused: dict[str, str]
    same: list[str]
    lines: list[str]
    findings: list[Finding]


class _Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def load(place: Path) -> tuple[dict[str, Any], list[str]]:
    """The nodes that a fresh copy of the pack registers, and what it writes into the log."""
    heard = _Lines()
    kept = {node: nodes.NODE_CLASS_MAPPINGS.pop(node, None) for node in NODES}
    before = set(sys.modules)
    logging.disable(logging.NOTSET)
    logging.getLogger().addHandler(heard)
    try:
        assert asyncio.run(nodes.load_custom_node(str(place))), heard.lines
        made = {n: nodes.NODE_CLASS_MAPPINGS[n] for n in NODES if n in nodes.NODE_CLASS_MAPPINGS}
    finally:
        logging.getLogger().removeHandler(heard)
        logging.disable(logging.WARNING)
        nodes.NODE_CLASS_MAPPINGS.update({n: made for n, made in kept.items() if made})
    return (
        made,
        [line for line in heard.lines if "Stable Velocity" in line],
        set(sys.modules) - before,
    )


class Bench:
    """Everything that trials need, and what they give in the host as it is."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.trials = Trials(folder)
        self.number = 0
        (folder / "output").mkdir()
        with self.in_folders():
            made, lines, _ = self.load()
            assert not lines and made.keys() == set(NODES), lines
            self.trials.StableVSCalibrate(made["StableVSCalibrate"])
            calibrations = folder / "output/stable_velocity"
            (calibrations / "tried.json").rename(calibrations / "kept.json")
            self.before = {node: self.trials.run(node, made[node]) for node in NODES}

    @contextlib.contextmanager
    def in_folders(self) -> Iterator[None]:
        """Context manager: models are read and results are written here."""
        paths = folder_paths.folder_names_and_paths
        kept = {kind: paths[kind] for kind in ("diffusion_models", "loras")}
        out, temp = folder_paths.get_output_directory(), folder_paths.get_temp_directory()
        folder_paths.set_output_directory(str(self.folder / "output"))
        folder_paths.set_temp_directory(str(self.folder / "temp"))
        for kind in kept:
            paths[kind] = ([str(self.folder / "models")], {".safetensors"})
        try:
            yield
        finally:
            paths.update(kept)
            for kind in kept:
                folder_paths.filename_list_cache.pop(kind, None)
            folder_paths.set_output_directory(out)
            folder_paths.set_temp_directory(temp)

    def load(self):
        self.number += 1
        place = self.folder / f"pack-{self.number}"
        place.symlink_to(PACK, target_is_directory=True)
        return load(place)

    def outcome(self, change: Change) -> Outcome:
        """What becomes of every node under a change."""
        with self.in_folders():
            if change.while_loading:
                with change.apply():
                    made, lines, modules = self.load()
                    result = self._tried(made, lines, change)
            else:
                made, lines, modules = self.load()
                with change.apply():
                    result = self._tried(made, lines, change)
        for module in modules:
            if "pack-" in module:
                sys.modules.pop(module, None)
        return result

    def _tried(self, made: dict[str, Any], lines: list[str], change: Change) -> Outcome:
        result = Outcome([n for n in NODES if n not in made], {}, [], lines, [])
        broken = self._host_is_broken()
        for node, of in made.items():
            try:
                given = self.trials.run(node, of)
            except Exception as e:
                if any(kind.__name__ == "InvalidInput" for kind in type(e).__mro__):
                    result.refused[node] = str(e)
                elif not broken or _raised_here(e):
                    where = "".join(traceback.format_exception(e)[-3:])
                    result.findings.append(Finding("traceback", f"{change.label}: {node}: {where}"))
                continue
            if given.shape == self.before[node].shape and torch.allclose(
                given.float(), self.before[node].float(), atol=1e-5
            ):
                result.same.append(node)
            else:
                result.findings.append(Finding("silent", f"{change.label}: {node}"))
        if bool(result.off) != bool(lines) and not _only_entries(lines):
            result.findings.append(Finding("silent", f"{change.label}: {result.off}, {lines}"))
        return result

    def _host_is_broken(self) -> bool:
        try:
            host_s_own()
        except Exception:
            return True
        return False


def _only_entries(lines: list[str]) -> bool:
    """Whether the log speaks of KSampler's drop-downs, which are no nodes."""
    return len(lines) == 1 and any(
        entry in lines[0] for entry in (contract.STABLE_VS, contract.REGIME_SPLIT)
    )


def _raised_here(e: BaseException) -> bool:
    """Whether an exception comes from a line of this pack, not from one of the host."""
    last = traceback.extract_tb(e.__traceback__)[-1].filename
    return any(part in last for part in ("/nodes/host/", "/nodes/samplers/", "/sv_core/"))


@contextlib.contextmanager
def bench() -> Iterator[Bench]:
    """Context manager: a bench in a folder that is gone afterwards."""
    with tempfile.TemporaryDirectory() as folder:
        yield Bench(Path(folder))
