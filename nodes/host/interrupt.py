"""The user's wish that a run end."""

import comfy.model_management

from .contract import of_the_host


@of_the_host
def stop_if_interrupted() -> None:
    """Raise the host's exception when the user has asked for the run to end.

    Where the host has no such function, its progress callback is what ends a run.
    """
    stop = getattr(comfy.model_management, "throw_exception_if_processing_interrupted", None)
    if stop is not None:
        stop()
