"""A sampler as a table of numbers, found by running it on unit vectors in place of latents.

Whatever its order or memory, a sampler as hosts have them adds up what it is given: each x that it
evaluates is a combination, with weights that depend on the noise levels alone, of its start, the
answers before and the noise that it has drawn. With that table a run needs neither the sampler's
function nor the tensors that it keeps for itself.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Answer = Callable[[Tensor, float], Tensor]
MOST = 4
"""Events for every evaluation, above which no table is made."""
Draw = Callable[[Tensor], Tensor]
"""Makes the noise that a sampler would draw at that place, for a tensor of the run's shape."""


class Weights(NamedTuple):
    """A sampler on one grid; its events are the start, its evaluations and its draws, in order."""

    table: Tensor
    """(evaluations + 1, events), float64: each evaluated x, and at last the result."""
    answers: tuple[int, ...]
    """The event of each evaluation: only events before it have weights in its row."""
    draws: dict[int, Draw]
    """By their events."""
    sigmas: tuple[float, ...]
    """The level of every evaluation as the sampler has computed it."""
    options: tuple[dict[str, Any], ...]
    """What each evaluation is called with besides."""
    own: Tensor
    """The sigmas as the sampler leaves them."""


class Seen(NamedTuple):
    """One evaluation of a run that was watched."""

    sigma: float
    x: Tensor
    event: int
    options: dict[str, Any]


class Watched(NamedTuple):
    """A run of a sampler with everything that went into it."""

    seen: list[Seen]
    result: Tensor
    events: list[Tensor]
    """The start, the answers and the noise."""
    draws: dict[int, Draw]
    own: Tensor


def _shape(arguments: tuple, options: dict) -> tuple[int, ...]:
    size = options.get("size", arguments)
    return tuple(size[0] if size and not isinstance(size[0], int) else size)


class _Draws(TorchFunctionMode):
    """Puts ``given(draw)`` in place of the noise of a shape that is drawn inside."""

    def __init__(self, shape: Sequence[int], given: Callable[[Draw], Tensor]):
        super().__init__()
        self._wanted, self._given = tuple(shape), given

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        if function is torch.randn and _shape(arguments, options) == self._wanted:
            rest = {k: v for k, v in options.items() if k != "size"}
            return self._given(lambda like: torch.randn(like.shape, **rest))
        if function is torch.randn_like and tuple(arguments[0].shape) == self._wanted:
            return self._given(partial(torch.randn_like, **options))
        return function(*arguments, **options)


class TooMany(Exception):
    """A run that would not end."""


def watch(
    sampler: Callable, x: Tensor, sigmas: Tensor, answer: Answer, most: int,
    noise: Callable[[Draw], Tensor] | None = None, keep: bool = True,
) -> Watched:  # fmt: skip
    """Run a sampler over ``answer``, and over ``noise`` in place of what it draws itself.

    keep: whether the tensors are kept too.

    Raises TooMany at more than so many evaluations.
    """
    seen: list[Seen] = []
    draws, own = {}, sigmas.clone()

    def kept(x: Tensor) -> Tensor:
        return x.clone() if keep else x.new_empty(0)

    events = [kept(x)]

    def happens(x: Tensor) -> Tensor:
        events.append(kept(x))
        return x

    def denoise(x: Tensor, sigma: Tensor, **options: Any) -> Tensor:
        if len(seen) >= most:
            raise TooMany
        s = float(sigma.flatten()[0])
        seen.append(Seen(s, kept(x), len(events), options))
        return happens(answer(x, s))

    def drawn(draw: Draw) -> Tensor:
        draws[len(events)] = draw
        return happens(noise(draw) if noise else draw(x))

    with _Draws(x.shape, drawn):
        result = sampler(denoise, x.clone(), own)
    return Watched(seen, result, events, draws, own)


def _units(count: int, like: Tensor) -> Callable[..., Tensor]:
    """A function that returns the next of so many unit vectors, as a row of a tensor's rank."""
    rows = iter(torch.eye(count, dtype=like.dtype, device=like.device))
    return lambda *_: next(rows).view(*[1] * (like.ndim - 1), count).clone()


def _near(table: Tensor, run: Watched) -> bool:
    """Whether the table explains a run over other tensors."""
    made = torch.stack([*(seen.x for seen in run.seen), run.result]).flatten(1).cpu().double()
    events = torch.stack(run.events).flatten(1).cpu().double()
    off = (table @ events - made).abs().amax(1)
    tolerance = 1000 * torch.finfo(run.result.dtype).eps
    return bool((off <= tolerance * events.abs().max()).all())


def find_weights(sampler: Callable, sigmas: Tensor, runs: Sequence[Watched]) -> Weights | None:
    """The table of a sampler that adds up, or None for one that does anything else.

    runs: of the same sampler and grid over tensors; the table must explain them.
    """
    whole, like = runs[0], runs[0].result
    if len(whole.events) > MOST * len(whole.seen):  # as Brownian noise is drawn
        return None
    state = torch.get_rng_state()
    unit = _units(len(whole.events), like)
    try:
        rows = watch(sampler, unit(), sigmas, unit, len(whole.seen), unit)
    except Exception:  # whatever it does that a row is no example for
        return None
    if not torch.equal(state, torch.get_rng_state()):  # noise that was not seen
        return None
    places = [seen.event for seen in rows.seen]
    if places != [seen.event for seen in whole.seen] or len(rows.events) != len(whole.events):
        return None
    found = [*(seen.x for seen in rows.seen), rows.result]
    table = torch.stack([x.flatten() for x in found]).cpu().double()  # MPS has no float64
    if not all(_near(table, run) for run in runs):
        return None
    sigma, options = zip(*((s.sigma, s.options) for s in rows.seen), strict=True)
    return Weights(table, tuple(places), rows.draws, sigma, options, rows.own)
