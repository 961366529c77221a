"""Stable Velocity for ComfyUI. Imports nothing here: pytest loads this file without a parent."""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    """Hand ComfyUI the extension, when it asks."""
    from .nodes import StableVelocityExtension

    return StableVelocityExtension()
