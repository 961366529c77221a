"""Inside ComfyUI it is started, and the pack loaded, before any test file imports their parts."""

from tests.inside import COMFY

if COMFY:
    import tests.nodes.loaded_pack  # noqa: F401
