"""What differs between the supported versions of ComfyUI's node interface."""

import inspect
from collections.abc import Callable
from typing import Any


def known(factory: Callable, *args: Any, **options: Any) -> Any:
    """Call ``factory`` without the options that this version of the host does not know."""
    parameters = inspect.signature(factory).parameters
    return factory(*args, **{k: v for k, v in options.items() if k in parameters})
