"""Fewer Calls behind every flow model that ComfyUI knows, each tiny and of random weights.

    python dev.py bench host_families

Runs in the interpreter of every ComfyUI that dev.py finds (COMFYUI_PATH names others) and prints a
Markdown table with a row for each class of ``comfy.supported_models``: what it is known as, how it
is sampled, its latent, the calls that half of 20 euler steps make, and nearness to the 20 steps
themselves in dB, -20 log10(RMSE / std), of each of several latents; beside it that of 10 steps.

The networks are the host's own classes with one block of each kind (tests/nodes/flow_families.py).
Random weights make a rougher velocity than trained ones: the figures say that a family runs and is
forecast, not how near a trained model comes. "Exact" is bit for bit, with a call at every step.
"""

import sys

from benchmarks.in_hosts import run_in_hosts

if __name__ == "__main__":
    sys.exit(run_in_hosts("host_families_methods.py", __doc__.splitlines()[0], usual=None))
