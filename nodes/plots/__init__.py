"""The pictures that nodes draw, as tensors. Nothing here needs the host."""
