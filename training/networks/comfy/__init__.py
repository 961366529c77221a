"""Networks that ComfyUI loads: where it lies, which file is which family, and how they train."""
