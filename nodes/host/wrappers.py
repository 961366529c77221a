"""Wrappers around the host's sampling and its network, by key, and messages on the page's nodes."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import comfy.model_management
from comfy.patcher_extension import WrappersMP

from .contract import of_the_host

_PLACES = {
    "sampling": "OUTER_SAMPLE",
    "sampler": "SAMPLER_SAMPLE",
    "guidance": "PREDICT_NOISE",
    "network": "APPLY_MODEL",
}
"""The host's names of them."""


@of_the_host
def wrap(model: Any, key: str, **around: Callable) -> Any:
    """A clone of the MODEL with wrappers of its own around calls of the host.

    Each is called with an executor, which calls what is wrapped, and the arguments of the call:
    ``sampling`` around a guider's whole run, ``sampler`` around a SAMPLER's ``sample``,
    ``guidance`` around a guider's prediction, ``network`` around the model's ``apply_model``.
    """
    model = model.clone()
    for name, wrapper in around.items():
        model.add_wrapper_with_key(getattr(WrappersMP, _PLACES[name]), key, wrapper)
    return model


def has_wrapper(model_options: dict, words: tuple[str, ...]) -> str | None:
    """The key of another pack's wrapper in a run that has one of the words in it, or None."""
    found = (model_options.get("transformer_options") or {}).get("wrappers") or {}
    keys = [str(key) for places in found.values() for key, made in places.items() if made]
    return next((key for key in keys if any(word in key.lower() for word in words)), None)


@of_the_host
def ends_a_run(error: Exception) -> bool:
    """Whether an exception is the user's interruption, or a lack of memory, of which the host knows
    what to do."""
    management = comfy.model_management
    return isinstance(error, management.InterruptProcessingException | management.OOM_EXCEPTION)


def show_on_node(node: str | None, text: str, name: str = "Fewer Calls") -> None:
    """Show a text on a node of the page, if there is a page, and write it to the log."""
    logging.info("%s: %s", name, text)
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None and node is not None:
        server.send_progress_text(text, node)
