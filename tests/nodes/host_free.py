"""Modules of nodes/ that need no ComfyUI, for tests outside of one."""

import importlib
import sys
import types

from tests.host.server import PACK


def host_free(name: str) -> types.ModuleType:
    """A module of nodes/ that needs no host, without the package's own __init__, which does."""
    for package, folder in (("pack", PACK), ("pack.nodes", PACK / "nodes")):
        module = sys.modules.setdefault(package, types.ModuleType(package))
        module.__path__ = [str(folder)]
    return importlib.import_module(f"pack.nodes.{name}")
