"""How many large tensors are alive at once while something runs."""

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Held(TorchDispatchMode):
    """The most tensors of a size that are alive at once."""

    def __init__(self, size):
        super().__init__()
        self.size, self.alive, self.most = size, {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and out.untyped_storage().nbytes() >= self.size:
            key = out.untyped_storage().data_ptr()
            self.alive[key] = self.alive.get(key, 0) + 1
            weakref.finalize(out, self._drop, key)
            self.most = max(self.most, len(self.alive))
        return out

    def _drop(self, key):
        self.alive[key] -= 1
        if not self.alive[key]:
            del self.alive[key]
