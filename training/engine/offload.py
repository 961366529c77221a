"""Frozen weights of the last blocks are kept in the computer's memory and copied when needed.

They are copied to the device just before their block runs, forward or for its recomputation in the
backward pass, and freed after it; while a block runs, the next one in that direction is copied on a
stream of its own. So the device holds at most two of these blocks, copied once per pass. Trained
parameters stay on the device.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sv_core.errors import InvalidInput

Copy = Callable[[Tensor, Tensor], object]


@runtime_checkable
class Composed(Protocol):
    """A tensor subclass that consists of plain tensors, by torch's protocol for these."""

    def __tensor_flatten__(self) -> tuple[list[str], Any]: ...

    @staticmethod
    def __tensor_unflatten__(parts: Any, context: Any, size: Any, stride: Any) -> Tensor: ...


def _copy(target: Tensor, source: Tensor) -> None:
    target.copy_(source, non_blocking=True)


def offload(
    blocks: Sequence[nn.Module],
    n: int,
    device: torch.device,
    *,
    recompute: bool,
    copy: Copy = _copy,
) -> "Offloaded":
    """Keep the frozen weights of the last ``n`` blocks in (pinned) CPU memory.

    Call it when it is known what is trained (after ``lora.inject``) and while the network is in CPU
    memory: offloaded weights are in no module, so ``model.to``, DDP and FSDP do not see them.
    Call it before the blocks' forwards are wrapped for recomputation, which has to bring them, too.
    Raises InvalidInput, in one sentence, when that cannot be.
    """
    if not 1 <= n <= len(blocks):
        raise InvalidInput(
            f"comfy.offload_blocks = {n}: this network has {len(blocks)} blocks, use 0 to "
            f"{len(blocks)}"
        )
    if not recompute:
        raise InvalidInput(
            "comfy.offload_blocks needs run.recompute = true: without it the backward pass keeps "
            "all the weights on the device"
        )
    if not any(not p.requires_grad for block in blocks[-n:] for p in block.parameters()):
        raise InvalidInput(
            "comfy.offload_blocks moves frozen weights, and this run trains all of them: use it "
            "with a LoRA"
        )
    return Offloaded(blocks[-n:], torch.device(device), copy)


class Offloaded:
    """The offloaded weights of some blocks, in order, and the copies that are on the device."""

    def __init__(self, blocks: Sequence[nn.Module], device: torch.device, copy: Copy):
        self.device, self.copy = device, copy
        self.side = torch.cuda.Stream(device) if device.type == "cuda" else None
        self.resting = [self._put_to_rest(block) for block in blocks]
        # block -> (its weights on the device, the event of their arrival)
        self.here: dict[int, tuple[list[Tensor], torch.cuda.Event | None]] = {}
        for number, block in enumerate(blocks):
            self._wrap(number, block)

    def tensors(self) -> list[Tensor]:
        """The offloaded weights."""
        return [tensor for block in self.resting for _, _, tensor in block]

    def _put_to_rest(self, block: nn.Module) -> list[tuple[nn.Module, str, Tensor]]:
        """(module, name, weight) of each frozen weight; the module now has None in its place."""
        frozen = [
            (owner, name, p.detach().cpu())
            for owner in block.modules()
            for name, p in owner.named_parameters(recurse=False)
            if not p.requires_grad
        ]
        for owner, name, _ in frozen:
            owner._parameters[name] = None
        if self.side is not None:  # copies run beside the kernels only from pinned memory
            frozen = [(owner, name, _each(x, Tensor.pin_memory)) for owner, name, x in frozen]
        return frozen

    def _wrap(self, number: int, block: nn.Module) -> None:
        forward = block.forward

        # The transfers are not to be compiled; the forward between them may be.
        @torch.compiler.disable(recursive=False)
        def visited(*args: Any, **options: Any) -> Any:
            self._arrive(number)
            try:
                return forward(*args, **options)
            finally:  # recomputation ends by an exception, as soon as it has what it needs
                self._leave(number)

        block.forward = visited

    @torch.compiler.disable()
    def _arrive(self, number: int) -> None:
        following = number + (-1 if _in_backward() else 1)
        for other in self.here.keys() - {number, following}:
            self._drop(other)
        if number not in self.here:
            self._fetch(number)
        weights = self._await(number)
        for (owner, name, _), weight in zip(self.resting[number], weights, strict=True):
            owner._parameters[name] = nn.Parameter(weight, requires_grad=False)
        if 0 <= following < len(self.resting) and following not in self.here:
            self._fetch(following)

    @torch.compiler.disable()
    def _leave(self, number: int) -> None:
        for owner, name, _ in self.resting[number]:
            owner._parameters[name] = None
        # The backward pass begins where the forward pass ends.
        turn = number == len(self.resting) - 1 and torch.is_grad_enabled() and not _in_backward()
        if not turn:
            self._drop(number)

    def _await(self, number: int) -> list[Tensor]:
        """The weights on the device, once the current stream may use them."""
        weights, event = self.here[number]
        if event is not None:
            torch.cuda.current_stream(self.device).wait_event(event)
        return weights

    def _drop(self, number: int) -> None:
        self._await(number)  # or others would write where a transfer still writes
        del self.here[number]

    def _fetch(self, number: int) -> None:
        # Allocated by the stream that uses and frees it; the copies wait for what that stream has
        # still to do with the memory's former content, and run beside what it is given next.
        sources = [tensor for _, _, tensor in self.resting[number]]
        targets = [_each(x, lambda y: torch.empty_like(y, device=self.device)) for x in sources]
        event = None
        if self.side is not None:
            self.side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.no_grad(), torch.cuda.stream(self.side):  # does nothing for None
            for target, source in zip(targets, sources, strict=True):
                for to, x in zip(_parts(target), _parts(source), strict=True):
                    self.copy(to, x)
            if self.side is not None:
                event = torch.cuda.Event()
                event.record(self.side)
        self.here[number] = targets, event


def _in_backward() -> bool:
    """Whether a backward pass is under way in this thread: then a forward is a recomputation."""
    return torch._C._current_graph_task_id() != -1


def _parts(x: Tensor) -> list[Tensor]:
    """The plain tensors that a tensor subclass (ComfyUI's fp8) consists of."""
    if not isinstance(x, Composed):
        return [x]
    return [part for name in x.__tensor_flatten__()[0] for part in _parts(getattr(x, name))]


def _each(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """A tensor of the same class and settings with other parts."""
    if not isinstance(x, Composed):
        return function(x)
    names, context = x.__tensor_flatten__()
    parts = {name: _each(getattr(x, name), function) for name in names}
    return type(x).__tensor_unflatten__(parts, context, x.size(), x.stride())
