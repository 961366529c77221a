"""The only rooms that import ComfyUI's own modules (``comfy.*``)."""
