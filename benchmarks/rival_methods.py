"""``rivals`` as methods of ``benchmarks/samplers.py``, on our nodes and on their own.

On their own nodes every rival has several settings with so many calls; the result that turns out
nearest to E30 counts, which is more than a user could choose. SeaCache needs pictures: on flows
without any it has no rows.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from sv_core.call_rules import call_nodes
from sv_core.sampling import sample_forecast

from .rivals import (
    FORECASTS,
    Due,
    Forecast,
    Nodes,
    at,
    every_kth,
    gated,
    growing_windows,
    sample,
    sea_gate,
    stable_then_every_kth,
)
from .sampler_methods import STEPS, Cell, Method


def nearest(cell: Cell, calls: int, results: list[Tensor]) -> Tensor | None:
    """The one nearest to E30; the calls are counted once."""
    cell.calls = calls
    return min(results, key=lambda x: float((x - cell.base).square().mean()), default=None)


def run(cell: Cell, due: Due, forecast: Forecast) -> tuple[Tensor, Nodes]:
    return sample(cell.flow.velocity, cell.x, cell.native, due, forecast)


def on_our_nodes(name: str) -> Method:
    def method(cell: Cell, calls: int) -> Tensor | None:
        nodes = call_nodes(cell.native.tolist(), calls)
        results = [run(cell, at(nodes), forecast)[0] for forecast in FORECASTS[name]]
        return nearest(cell, calls, results)

    return method


def on_their_nodes(name: str, lists: Callable[[int, int], list[Nodes]]) -> Method:
    def method(cell: Cell, calls: int) -> Tensor | None:
        found = lists(STEPS, calls)
        longest = max(map(len, found), default=0)
        dues = [at(nodes) for nodes in found if len(nodes) == longest]
        results = [run(cell, due, forecast)[0] for due in dues for forecast in FORECASTS[name]]
        return nearest(cell, longest, results)

    return method


def ours_on_their_nodes(lists: Callable[[int, int], list[Nodes]]) -> Method:
    def method(cell: Cell, calls: int) -> Tensor | None:
        found = lists(STEPS, calls)
        longest = max(map(len, found), default=0)
        replayed = partial(sample_forecast, cell.flow.velocity, cell.x, cell.native)
        return nearest(cell, longest, [replayed(nodes=n) for n in found if len(n) == longest])

    return method


def _gate(cell: Cell, calls: int) -> tuple[Tensor, Nodes] | None:
    picture = cell.flow.picture
    if picture is None:
        return None
    times, (hold,) = cell.native.tolist(), FORECASTS["hold"]
    if calls not in cell.gates:
        cell.gates[calls] = gated(
            lambda threshold: run(cell, sea_gate(times, threshold, picture), hold), calls
        )
    return cell.gates[calls]


def sea_cache(cell: Cell, calls: int) -> Tensor | None:
    found = _gate(cell, calls)
    if found is None:
        return None
    cell.calls = len(found[1])
    return found[0]


def ours_behind_sea_cache(cell: Cell, calls: int) -> Tensor | None:
    """Forecast and replay from calls where the gate made them."""
    found = _gate(cell, calls)
    if found is None:
        return None
    return sample_forecast(cell.velocity, cell.x, cell.native, nodes=found[1])


THEIR_NODES = {
    "hold": every_kth,
    "linear (TaylorSeer 1)": every_kth,
    "TaylorSeer 2": every_kth,
    "VDE": stable_then_every_kth,
    "Spectrum": growing_windows,
}

RIVALS: dict[str, Method] = {
    **{f"{name}, our nodes": on_our_nodes(name) for name in FORECASTS},
    **{f"{name}, its nodes": on_their_nodes(name, THEIR_NODES[name]) for name in FORECASTS},
    "SeaCache's gate, hold": sea_cache,
    "ours, every k-th node": ours_on_their_nodes(every_kth),
    "ours, Spectrum's nodes": ours_on_their_nodes(growing_windows),
    "ours, SeaCache's nodes": ours_behind_sea_cache,
}
