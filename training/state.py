"""What a step changes, how it is saved, and how a run is opened or taken up again."""

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sv_core.bank import MemoryBank
from sv_core.errors import InvalidInput

from . import checkpoint
from .align import Alignment, build_alignment
from .backbones.base import Backbone
from .backbones.choice import build, with_interval
from .config import Config, LoraConfig, dump, load
from .data import Dataset
from .lora import inject, load_state_dict, state_dict, unspreadable
from .objective import build_bank, needs_references
from .offload import Offloaded, offload
from .optim import build_averages, build_optimizer, lent
from .parallel import Processes, load_optimizer, load_tensors, whole
from .rounding import step_in_float32

CONFIG = "config.toml"
FORMAT = 2
"""Of the saved state."""


class TrainState:
    """Weights, their averages, projectors, the optimiser, the bank of references and the step."""

    def __init__(self, config: Config, dataset: Dataset, processes: Processes):
        device, seed = processes.device, config.run.seed
        self.dataset, self.null = dataset, dataset.num_classes
        self.processes = processes
        self.backbone: Backbone = build(config, dataset, processes)
        self.lora = config.lora.rank is not None
        self.alignment: Alignment | None = build_alignment(
            config.align, self.backbone, dataset, seed
        )
        if self.lora:
            _inject(config.lora, self.backbone.model, seed)
        elif not any(p.requires_grad for p in self.backbone.model.parameters()):
            raise InvalidInput(
                f"{config.comfy.checkpoint} keeps its weights in 8 bits, too few for training "
                f"them: set lora.rank, such as 16, or comfy.dtype = bf16"
            )
        self.backbone = with_interval(self.backbone, config)
        self.offloaded: Offloaded | None = None
        if config.comfy.offload_blocks:
            self.offloaded = offload(
                list(self.backbone.blocks),
                config.comfy.offload_blocks,
                device,
                recompute=config.run.recompute,
            )
        self.model: nn.Module = self.backbone.model.to(device).train()
        self.projectors: nn.Module | None = None
        if self.alignment is not None:
            self.projectors = self.alignment.projectors.to(device)
            processes.spread(self.projectors)
        processes.spread(self.model, self.backbone.blocks, unspreadable(self.model))
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        """The network's own; projectors are trained as well, but not averaged nor shipped."""
        own = list(self.trained.values())
        self.parameters = own + (list(self.projectors.parameters()) if self.projectors else [])
        self.optimizer = build_optimizer(self.parameters, config.optim)
        if any(p.dtype == torch.float16 for p in own):
            raise InvalidInput(
                f"{config.comfy.checkpoint} keeps its weights in fp16, in which gradients "
                f"underflow: set comfy.dtype = bf16 or fp32"
            )
        if any(p.dtype == torch.bfloat16 for p in own):
            step_in_float32(self.optimizer, seed)
        self.averages = build_averages(own, config.optim, self.optimizer)
        share = config.data.batch_size // processes.count
        self.bank: MemoryBank | None = None
        if needs_references(config) and dataset.text is None:  # text comes with its references
            self.bank = build_bank(config.objective, dataset, device, share)
        self.step = 0

    @property
    def modules(self) -> list[nn.Module]:
        return [self.model] if self.projectors is None else [self.model, self.projectors]

    @contextmanager
    def averaged(self, number: int = 0) -> Iterator[Backbone]:
        """The backbone with averaged weights: what is validated, previewed and shipped.

        Without averages, with the trained ones.
        """
        training = self.model.training
        values = self.averages[number].tensors if self.averages else []
        with lent(list(self.trained.values()) if self.averages else [], values):
            self.model.eval()
            try:
                yield self.backbone
            finally:
                self.model.train(training)

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors, however many processes share them; all must ask. The bank is one's own."""
        scaler = self.processes.accelerator.scaler
        averages = [dict(zip(self.trained, a.tensors, strict=True)) for a in self.averages]
        return {
            "format": FORMAT,
            "step": self.step,
            "processes": self.processes.count,
            "data": self.dataset.identity,
            "model": whole({name: p.detach() for name, p in self.trained.items()}),
            "averages": whole(averages),
            "projectors": whole(self.projectors.state_dict()) if self.projectors else {},
            "optimizer": whole(self.optimizer.state_dict()),
            "scaler": scaler.state_dict() if scaler else {},
            "bank": self.bank.state_dict() if self.bank else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_tensors(self.trained, state["model"])
        for average, saved in zip(self.averages, state["averages"], strict=True):
            load_tensors(dict(zip(self.trained, average.tensors, strict=True)), saved)
        if self.projectors is not None:
            load_tensors(dict(self.projectors.named_parameters()), state["projectors"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.processes.accelerator.scaler and state["scaler"]:
            self.processes.accelerator.scaler.load_state_dict(state["scaler"])
        if self.bank is not None:
            self.bank.load_state_dict(state["bank"])
        self.step = state["step"]


def _inject(config: LoraConfig, network: nn.Module, seed: int) -> None:
    assert config.rank is not None
    ranks = {pattern: int(rank) for pattern, rank in config.ranks.items()}
    inject(network, config.rank, config.alpha, config.targets or None, config.dropout, ranks, seed)
    if config.checkpoint is not None:
        load_state_dict(network, checkpoint.read_weights(Path(config.checkpoint))[0])


def open_run(config: Config, state: TrainState, resume: bool) -> None:
    """Make the run's folder, or take up the state that is in it.

    Raises InvalidInput when there is a state and ``resume`` is false, or none and it is true, or
    when configuration, data or processes are not those that the state was made with; Unavailable
    for an unusable folder.
    """
    out, processes = Path(config.run.out), state.processes
    if not resume and (out / checkpoint.STATE).exists():
        raise InvalidInput(
            f"{out} already holds a run: go on with it by --resume, or choose another folder "
            f"with --set run.out=..."
        )
    if resume:
        saved = checkpoint.read_state(out)
        _check_resumable(config, load(out / CONFIG))
        _check_saved(config, state, saved)
        if processes.index and state.bank is not None:
            path = checkpoint.bank_path(out, saved["step"], processes.index)
            saved["bank"] = checkpoint.read_weights(path)[0]
        state.load_state_dict(saved)
    processes.wait()
    if processes.is_main:
        checkpoint.prepare_folder(out)
        text = dump(config).encode()
        checkpoint.write_atomically(out / CONFIG, lambda file: file.write(text))
    processes.wait()


def save(config: Config, state: TrainState) -> Path:
    """Averaged weights, then the state that resumes from them. Raises Unavailable in one sentence.

    In this order: a kill in between leaves weights that the resumed run writes again, the same.
    With several processes the first one writes, but each its own bank, before the state and under
    the name of the step, so that the state never meets the bank of another moment.
    """
    out, processes = Path(config.run.out), state.processes
    path = checkpoint.weights_path(out, state.step)
    _save_weights(config, state)
    tree = state.state_dict()
    bank = checkpoint.bank_path(out, state.step, processes.index)
    if processes.index and state.bank is not None:
        checkpoint.save_bank(bank, tree["bank"])
    processes.wait()
    if processes.is_main:
        checkpoint.save_state(out, tree)
    processes.wait()
    if processes.index and state.bank is not None:
        for old in out.glob(checkpoint.bank_path(out, "*", processes.index).name):
            if old != bank:
                with contextlib.suppress(OSError):
                    old.unlink()
    return path


def _save_weights(config: Config, state: TrainState) -> None:
    """The first average under the step's name; further ones under their decay's as well."""
    out = Path(config.run.out)
    data = config.data.cache and Path(config.data.cache).name
    metadata = state.backbone.metadata()
    metadata |= {
        "modelspec.title": f"{data or config.data.name}, {config.objective.kind}, "
        f"step {state.step}",
        "step": str(state.step),
        "training_config": dump(config),  # "config" is a network's own, to ComfyUI and others
    }
    commit = checkpoint.git_hash()
    if commit:
        metadata["git"] = commit
    kind = metadata["modelspec.architecture"]
    beside = metadata | {"modelspec.architecture": f"{kind}/interval-embedder"}
    if state.lora:
        metadata |= {
            "modelspec.architecture": f"{kind}/lora",
            "ss_network_dim": str(config.lora.rank),
            "ss_network_alpha": str(config.lora.alpha or config.lora.rank),
        }
    for number in range(max(1, len(state.averages))):
        decay = config.optim.ema[number] if number else None
        with state.averaged(number) as backbone:
            tensors, sidecar = _shipped(state, backbone), whole(backbone.sidecar())
            if state.processes.is_main:
                path = checkpoint.weights_path(out, state.step, decay)
                if sidecar:  # first, so that weights never lie without it
                    own, said = sidecar
                    checkpoint.save_weights(checkpoint.interval_path(path), own, beside | said)
                checkpoint.save_weights(path, tensors, metadata)


def _shipped(state: TrainState, backbone: Backbone) -> dict[str, Tensor]:
    """What the first process writes; all must ask."""
    if state.lora:
        return whole(state_dict(state.model))
    with state.processes.assembled(state.model):
        return backbone.weights() if state.processes.is_main else {}


def _check_resumable(now: Config, before: Config) -> None:
    """What defines a run must be what it was; how long it runs and reports may change."""
    sections = [
        (n, getattr(before, n), getattr(now, n))
        for n in ("model", "lora", "objective", "meanflow", "align")
    ]
    # The checkpoint and ComfyUI may have moved, too; where frozen weights wait changes nothing.
    free = {
        name: getattr(before.comfy, name) for name in ("checkpoint", "folder", "offload_blocks")
    }
    sections.append(("comfy", before.comfy, replace(now.comfy, **free)))
    # A cache may have moved; whether it is the same is for its identity to say.
    moved = replace(now.data, cache=before.data.cache) if now.data.cache else now.data
    sections.append(("data", before.data, moved))
    sections.append(("run", replace(now.run, seed=before.run.seed), now.run))
    kept = {"optimizer": before.optim.optimizer, "ema": before.optim.ema}
    sections.append(("optim", replace(now.optim, **kept), now.optim))
    for section, old, new in sections:
        for name, value in vars(old).items():
            if vars(new)[name] != value:
                raise InvalidInput(
                    f"the run to resume began with {section}.{name} = {value}, this config says "
                    f"{vars(new)[name]}: use the value it began with, or another run.out"
                )


def _check_saved(config: Config, state: TrainState, saved: dict[str, Any]) -> None:
    """The state must be of this version, of these data and of as many banks as there are now."""
    out, processes = config.run.out, state.processes
    if saved.get("format") != FORMAT:
        raise InvalidInput(
            f"the run in {out} is of an older version: begin anew in another run.out"
        )
    if saved["step"] > config.optim.steps:
        raise InvalidInput(
            f"the run in {out} is at step {saved['step']}, past optim.steps = "
            f"{config.optim.steps}: raise optim.steps, or choose another run.out"
        )
    was, now = saved["data"], state.dataset.identity
    other = [name for name in was.keys() | now.keys() if was.get(name) != now.get(name)]
    if other:
        raise InvalidInput(
            f"the run in {out} learnt from other data (another {min(other)} than that of "
            f"{config.data.cache or config.data.name}): resume with the cache that it began with"
        )
    if state.bank is not None and saved["processes"] != processes.count:
        raise InvalidInput(
            f"the run in {out} has {saved['processes']} memory banks, one per process, and there "
            f"are {processes.count} processes now: start as many as before"
        )
