"""Which nodes this host gets: every one that the contract allows, each by itself."""

import importlib
from collections.abc import Mapping
from typing import Any

from . import contract


def load(
    package: str, files: Mapping[str, Mapping[str, str]]
) -> tuple[dict[str, Any], dict[str, str]]:
    """The classes of the nodes that work here, and why the others do not, both by node.

    files: the modules of ``package``, and in each the name of the class of every node. A module is
    imported only if a node of it can work; what fails in it takes no node of another.
    """
    off = contract.check()
    nodes: dict[str, Any] = {}
    for file, classes in files.items():
        wanted = {node: name for node, name in classes.items() if node not in off}
        try:
            module = importlib.import_module(f".{file}", package) if wanted else None
        except contract.UNLIKE as e:
            off |= dict.fromkeys(wanted, str(e))
            continue
        for node, name in wanted.items():
            made = getattr(module, name)
            if why := _schema_complaint(made):
                off[node] = why
            else:
                nodes[node] = made
    return nodes, off


def extend(package: str, off: Mapping[str, str]) -> dict[str, str]:
    """Extend the host's drop-downs by what is not off; why an entry does not fit, by entry."""
    entries = {contract.STABLE_VS, contract.REGIME_SPLIT} - off.keys()
    try:
        dropdowns = importlib.import_module(".dropdowns", package) if entries else None
    except contract.UNLIKE as e:
        return dict.fromkeys(entries, str(e))
    return dropdowns.register(entries) if dropdowns is not None else {}


def _schema_complaint(node: Any) -> str | None:
    """Why the host cannot read a node's schema; it would drop all nodes for one."""
    try:
        node.GET_SCHEMA()
    except (*contract.UNLIKE, ValueError, KeyError, OSError) as e:  # of a folder of models, too
        return f"{type(e).__name__}: {e}"
    return None
