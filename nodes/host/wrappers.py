"""Wrappers around the host's sampling and its network, by key, and messages on the page's nodes."""

import logging
import sys
from collections.abc import Callable
from typing import Any

import comfy.model_management
from comfy.patcher_extension import WrappersMP


def wrap(model: Any, key: str, *, sampling: Callable, sampler: Callable, network: Callable) -> Any:
    """A clone of the MODEL with wrappers of its own around three calls of the host.

    Each is called with an executor, which calls what is wrapped, and the arguments of the call:
    ``sampling`` around a guider's whole run, ``sampler`` around a SAMPLER's ``sample``, ``network``
    around the model's ``apply_model``.
    """
    model = model.clone()
    for where, wrapper in (
        (WrappersMP.OUTER_SAMPLE, sampling),
        (WrappersMP.SAMPLER_SAMPLE, sampler),
        (WrappersMP.APPLY_MODEL, network),
    ):
        model.add_wrapper_with_key(where, key, wrapper)
    return model


def stop_if_interrupted() -> None:
    """Raise the host's exception when the user has asked for the run to end."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def show_on_node(node: str | None, text: str) -> None:
    """Show a text on a node of the page, if there is a page, and write it to the log."""
    logging.info("Fewer Calls: %s", text)
    server = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if server is not None and node is not None:
        server.send_progress_text(text, node)
