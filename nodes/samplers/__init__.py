"""What runs inside a sampler, as ComfyUI calls it."""
