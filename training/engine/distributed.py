"""Several processes as one run. accelerate and torch.distributed live here only.

Start them with ``torchrun --nproc_per_node N -m training.finetune CONFIG``, on each machine (not by
``accelerate launch --cpu``, which always runs one process). All draw the same global
batch and compute their share of it; gradients are averaged (DDP), or weights, averages and
optimiser are spread as well (FSDP). On several machines run.out must be a folder that all see.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from sv_core.errors import InvalidInput, Unavailable

from ..config.schema import RunConfig


class Processes:
    """This process among the others: its device, its share of a batch, collective operations."""

    def __init__(self, config: RunConfig):
        """Raises InvalidInput when the device is missing or does not support the precision."""
        cuda = torch.cuda.is_available()
        if config.device == "cuda" and not cuda:
            raise InvalidInput("run.device is cuda, but torch sees no such GPU: use auto or cpu")
        cpu = config.device == "cpu" or not (cuda or torch.backends.mps.is_available())
        if config.precision == "fp16" and cpu:
            raise InvalidInput("run.precision = fp16 needs a GPU: use bf16 or fp32")
        if config.precision == "fp16" and config.shard:
            raise InvalidInput("run.precision = fp16 does not go with run.shard: use bf16")
        try:
            self.accelerator = Accelerator(
                cpu=cpu,
                mixed_precision={"fp32": "no"}.get(config.precision, config.precision),
                kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=config.timeout))],
            )
        except torch.distributed.DistError as e:
            raise Unavailable(
                f"this process cannot reach the others ({str(e).splitlines()[0]}): start all of "
                f"them, by torchrun with the same address and port"
            ) from e
        self.device = self.accelerator.device
        self.count, self.index = self.accelerator.num_processes, self.accelerator.process_index
        self.is_main = self.index == 0
        self.sharded = config.shard and self.count > 1
        self.autocast = self.accelerator.autocast
        self.copied: list[nn.Parameter] = []
        self.idle: list[nn.Parameter] | None = None
        """Of modules under DDP, the parameters without a gradient; known after the first loss."""

    def share(self, n: int, parts: int = 1) -> slice:
        """This process's rows of n. Raises InvalidInput when n cannot be dealt out evenly."""
        if n % (self.count * parts):
            raise InvalidInput(
                f"data.batch_size = {n} cannot be shared by {self.count} processes in {parts} "
                f"parts each (optim.accumulate): use a multiple of {self.count * parts}"
            )
        each = n // self.count
        return slice(self.index * each, (self.index + 1) * each)

    def spread(
        self,
        model: nn.Module,
        blocks: Iterable[nn.Module] = (),
        kept: Collection[nn.Parameter] = (),
    ) -> None:
        """With run.shard, keep only this process's share of the weights of each block and the rest.

        Those in ``kept`` stay whole.
        """
        if self.sharded:
            # It warns of in-place changes of a network's output; nothing here makes any.
            warnings.filterwarnings("ignore", "FSDP2-wrapped module .* returned a view")
            mesh = init_device_mesh(self.device.type, (self.count,))
            done: set[nn.Module] = set()
            for module in (*blocks, model):
                for part in (*_odd_ones(module, done), module):
                    # Also the outermost one: a pass without gradients would leave it gathered.
                    fully_shard(
                        part, mesh=mesh, reshard_after_forward=True, ignored_params=set(kept)
                    )
                done |= set(module.modules())

    @contextmanager
    def assembled(self, model: nn.Module) -> Iterator[None]:
        """Context manager: the first process has whole weights in place of its shares, to save.

        They are gathered one after the other into its CPU memory; other processes keep their
        shares. All processes must call it, and none may run the network meanwhile.
        """
        spread = [
            (module, name, p)
            for module in model.modules()
            for name, p in module.named_parameters(recurse=False)
            if isinstance(p, DTensor)
        ]
        whole_ones = whole([p.detach() for _, _, p in spread])
        if self.is_main:
            for (module, name, p), value in zip(spread, whole_ones, strict=True):
                module._parameters[name] = nn.Parameter(value, requires_grad=p.requires_grad)
        try:
            yield
        finally:
            for module, name, p in spread:
                module._parameters[name] = p

    def prepare(self, *parts: Any) -> list[Any]:
        """Wrap modules and the optimiser for several processes and the run's precision."""
        if self.count > 1 and not self.sharded:
            modules = [part for part in parts if isinstance(part, nn.Module)]
            self.copied += [p for m in modules for p in m.parameters() if p.requires_grad]
        return [
            part if isinstance(part, nn.Module) and self.sharded else self.accelerator.prepare(part)
            for part in parts
        ]

    def synchronising(self, model: nn.Module, now: bool) -> Any:
        """Context manager of a forward and backward pass; gradients are averaged if ``now``."""
        if self.sharded:
            assert isinstance(model, FSDPModule)
            model.set_requires_gradient_sync(now)
        elif self.count > 1 and not now:
            return self.accelerator.no_sync(model)
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """The backward pass; gradients are averaged over the processes.

        DDP waits for the gradients of all parameters. A LoRA may be on a layer that no gradient
        reaches, as the last block of Qwen-Image has some: such parameters get one of zeros.
        """
        if self.idle is None:
            reached = _reached(loss) if self.copied else set()
            self.idle = [p for p in self.copied if id(p) not in reached]
        for p in self.idle:
            loss = loss + 0 * p.sum()
        self.accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], limit: float) -> Tensor:
        """Scale the gradients to a norm of at most ``limit``; returns the norm that they had."""
        norm = self.accelerator.clip_grad_norm_(parameters, limit)
        assert isinstance(norm, Tensor)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def sum(self, x: Tensor) -> Tensor:
        """The sum over all processes, on each of them."""
        total = self.accelerator.reduce(x, "sum") if self.count > 1 else x
        assert isinstance(total, Tensor)  # as x is
        return total

    def largest(self, n: int) -> int:
        """The largest of the processes' numbers, on each of them."""
        counts = self.accelerator.gather(torch.tensor([n], device=self.device))
        assert isinstance(counts, Tensor)
        return int(counts.max())

    def wait(self) -> None:
        """Wait until all processes have come here."""
        self.accelerator.wait_for_everyone()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Context manager: Unavailable, in one sentence, when another process dies or stalls."""
        try:
            yield
            if self.count > 1:
                self.wait()
        except RuntimeError as e:
            if self.count == 1 or not _lost(e):
                raise
            raise Unavailable(
                f"process {self.index} of {self.count} has lost the others (one has died, or been "
                f"silent for run.timeout): what was saved is intact, start all of them again with "
                f"--resume"
            ) from e

    def leave(self) -> None:
        """End the connection, so that the other processes do not wait for this one."""
        self.accelerator.end_training()


def _odd_ones(module: nn.Module, done: Collection[nn.Module]) -> list[nn.Module]:
    """Layers whose trained weights are of another dtype than most: FSDP spreads them by themselves.

    ComfyUI keeps Wan's first layer in float32, whatever the others are in. Those in ``done`` are
    spread already.
    """
    sizes: dict[nn.Module, dict[torch.dtype, int]] = {}
    for layer in module.modules():
        if layer not in done:
            of = sizes[layer] = {}
            for p in layer.parameters(recurse=False):
                if p.requires_grad:
                    of[p.dtype] = of.get(p.dtype, 0) + p.numel()
    total: Counter = sum(map(Counter, sizes.values()), Counter())
    usual = max(total, key=lambda dtype: total[dtype], default=None)
    return [layer for layer, of in sizes.items() if of and usual not in of]


def _reached(loss: Tensor) -> set[int]:
    """The ids of the parameters that a backward pass from this loss reaches."""
    found, seen, left = set(), set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:  # where a gradient is kept
            found.add(id(variable))
        left += [following for following, _ in node.next_functions]
    return found


def _lost(e: RuntimeError) -> bool:
    """Whether the connection failed: a plain RuntimeError that names gloo."""
    return isinstance(e, torch.distributed.DistError) or "gloo" in str(e)


def whole(tree: Any) -> Any:
    """Gather the tensors in dicts and lists that are spread over processes, to save them.

    All processes must call it. They are gathered one after the other into the first process's CPU
    memory, as together they may be more than a GPU holds; in the other processes they are empty.
    """

    def gather(x: Tensor) -> Tensor:
        if not isinstance(x, DTensor):
            return x
        full = x.full_tensor()
        return full.cpu() if torch.distributed.get_rank() == 0 else torch.empty(0)

    return _each(gather, tree)


def _each(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {key: _each(function, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_each(function, value) for value in tree)
    return tree


def _spread_as(x: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, spread over the processes like another one of its shape."""
    if isinstance(like, DTensor) and x.shape == like.shape:
        return distribute_tensor(x.to(like.device), like.device_mesh, like.placements)
    return x


@torch.no_grad()
def load_tensors(own: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into those of the same names, which may be spread."""
    for name, x in own.items():
        x.copy_(_spread_as(saved[name], x))


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """load_state_dict from whole tensors, whether the parameters are spread or not."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    spread = {
        number: _each(lambda x, p=parameters[number]: _spread_as(x, p), values)
        for number, values in state["state"].items()
    }
    optimizer.load_state_dict(state | {"state": spread})
