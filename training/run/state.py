"""Everything that a step changes: weights, averages, optimiser, bank, and the step's number."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sv_core.bank import MemoryBank
from sv_core.errors import InvalidInput

from .. import files
from ..config.schema import Config, LoraConfig, needs_references
from ..data.dataset import Dataset
from ..engine.distributed import Processes, load_optimizer, load_tensors, whole
from ..engine.offload import Offloaded, offload
from ..engine.optim import build_averages, build_optimizer, lent
from ..engine.stochastic_rounding import step_in_float32
from ..lora import inject, load_state_dict, state_dict, unspreadable
from ..networks.base import Backbone
from ..networks.build import build, with_interval
from ..objectives.alignment import Alignment, build_alignment
from ..objectives.bank import build_bank

FORMAT = 3
"""The version of the saved state's format."""


class TrainState:
    """Weights, their averages, projectors, the optimiser, the bank of references and the step."""

    def __init__(self, config: Config, dataset: Dataset, processes: Processes):
        device, seed = processes.device, config.run.seed
        self.dataset, self.null = dataset, dataset.num_classes
        self.processes = processes
        comfy, interval = config.comfy, config.objective.kind == "meanflow"
        self.backbone: Backbone = build(config.model, comfy, dataset, processes, seed, interval)
        self.lora = config.lora.rank is not None
        self.alignment: Alignment | None = build_alignment(
            config.align, self.backbone, dataset, seed
        )
        if self.lora:
            _inject(config.lora, self.backbone.model, seed)
        elif not any(p.requires_grad for p in self.backbone.model.parameters()):
            raise InvalidInput(
                f"{comfy.checkpoint} keeps its weights in 8 bits, too few for training "
                f"them: set lora.rank, such as 16, or comfy.dtype = bf16"
            )
        if interval:
            begun = (config.lora.checkpoint, comfy.checkpoint)
            self.backbone = with_interval(self.backbone, begun, seed)
        self.offloaded: Offloaded | None = None
        if comfy.offload_blocks:
            blocks = list(self.backbone.blocks)
            recompute = config.run.recompute
            self.offloaded = offload(blocks, comfy.offload_blocks, device, recompute=recompute)
        self.model: nn.Module = self.backbone.model.to(device).train()
        self.projectors: nn.Module | None = None
        if self.alignment is not None:
            self.projectors = self.alignment.projectors.to(device)
            processes.spread(self.projectors)
        processes.spread(self.model, self.backbone.blocks, unspreadable(self.model))
        self.trained = {n: p for n, p in self.model.named_parameters() if p.requires_grad}
        """The network's trained parameters; projectors are trained too, but not averaged."""
        own = list(self.trained.values())
        self.parameters = own + (list(self.projectors.parameters()) if self.projectors else [])
        self.optimizer = build_optimizer(self.parameters, config.optim)
        if any(p.dtype == torch.float16 for p in own):
            raise InvalidInput(
                f"{comfy.checkpoint} keeps its weights in fp16, in which gradients "
                f"underflow: set comfy.dtype = bf16 or fp32"
            )
        if any(p.dtype == torch.bfloat16 for p in own):
            step_in_float32(self.optimizer, seed)
        self.averages = build_averages(own, config.optim, self.optimizer)
        share = config.data.batch_size // processes.count
        self.bank: MemoryBank | None = None
        # Where there is text, references are read from the cache.
        if needs_references(config.objective, config.meanflow) and dataset.text is None:
            self.bank = build_bank(config.objective, dataset, device, share)
        self.step = 0

    @property
    def modules(self) -> list[nn.Module]:
        return [self.model] if self.projectors is None else [self.model, self.projectors]

    @contextmanager
    def averaged(self, number: int = 0) -> Iterator[Backbone]:
        """Context manager: the backbone with averaged weights, for validation, previews and files.

        Without averages it has the trained weights.
        """
        training = self.model.training
        values = self.averages[number].tensors if self.averages else []
        with lent(list(self.trained.values()) if self.averages else [], values):
            self.model.eval()
            try:
                yield self.backbone
            finally:
                self.model.train(training)

    @contextmanager
    def shipped(
        self, number: int = 0
    ) -> Iterator[tuple[Mapping[str, Tensor], tuple[Mapping[str, Tensor], dict[str, str]] | None]]:
        """Context manager: the tensors of a file of averaged weights, and its sidecar's.

        Each is taken from the average when it is asked for, so that nothing is copied. Where
        weights are spread over processes they are gathered: all must call it, the first one gets
        them.
        """
        if self.processes.sharded:
            with self.averaged(number) as backbone:
                sidecar = whole(backbone.sidecar())
                if self.lora:
                    yield whole(state_dict(self.model)), sidecar
                    return
                with self.processes.assembled(self.model):
                    yield (backbone.weights() if self.processes.is_main else {}), sidecar
            return
        value = self._averager(number)
        own = self.backbone.weights
        tensors = state_dict(self.model, value=value) if self.lora else own(value)
        yield tensors, self.backbone.sidecar(value)

    def _averager(self, number: int) -> Callable[[Tensor], Tensor]:
        """The function from a trained tensor to its average, and from any other to itself."""
        averages = self.averages[number].tensors if self.averages else []
        pairs = zip(self.trained.values(), averages, strict=bool(averages))
        at = {p.data_ptr(): average for p, average in pairs if p.numel()}

        def value(x: Tensor) -> Tensor:
            average = at.get(x.data_ptr())
            return x if average is None or average.shape != x.shape else average.to(x.dtype)

        return value

    def state_dict(self) -> dict[str, Any]:
        """The state as whole tensors. All processes must call it; each gets its own bank."""
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
        load_state_dict(network, files.read_weights(Path(config.checkpoint))[0])
