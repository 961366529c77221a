"""Fewer Calls under every sampler of ComfyUI, beside fewer steps, EasyCache and LazyCache.

    python dev.py bench host_any_sampler [CHECKPOINT] [--tables beside_caches,exact]

Runs in the interpreter of every ComfyUI that dev.py finds (COMFYUI_PATH names others) and prints
Markdown tables, or only some of beside_caches, exact, noise, every_sampler and
replay_and_guidance; with RES4LYF's samplers where a ComfyUI has that pack.
CHECKPOINT is the digits model, out/demo/digits_sit.safetensors unless given: a trained SiT,
guidance 2, on the host's ``simple`` grid of 20 steps at shift 3. models/emoji.ckpt instead is the
picture model, guidance 3, on words and seeds that nothing was chosen on.

dB: nearness to the same sampler's own 20 steps from the same noise and seed, -20 log10(RMSE / std),
mean over 20 samples. Calls are counted at the network; a guided one is two evaluations.

- fewer steps: the same sampler with as many steps as give no more calls.
- EasyCache, LazyCache: the host's nodes on the same 20 steps; of 10 thresholds and two starts the
  result that is nearest with at most so many calls, more than a user could choose.
- Samplers that draw noise draw another one with other steps: their few-step result is another
  picture, whatever its quality.
"""

import sys

from benchmarks.in_hosts import run_in_hosts

if __name__ == "__main__":
    sys.exit(run_in_hosts("host_any_sampler_methods.py", __doc__.splitlines()[0]))
