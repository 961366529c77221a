"""Differences between the supported versions of ComfyUI."""

import inspect
from collections.abc import Callable
from typing import Any


def supported(factory: Callable, *args: Any, **options: Any) -> Any:
    """Call ``factory`` with those keyword arguments that it has in this version of the host."""
    parameters = inspect.signature(factory).parameters
    return factory(*args, **{k: v for k, v in options.items() if k in parameters})
