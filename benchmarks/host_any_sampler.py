"""Fewer Calls under every sampler of ComfyUI, beside fewer steps, EasyCache and LazyCache.

    python dev.py bench host_any_sampler [CHECKPOINT]

Runs in the interpreter of every ComfyUI that dev.py finds (COMFYUI_PATH names others) and prints
Markdown tables. CHECKPOINT is the digits model, out/demo/digits_sit.safetensors unless given: a
trained SiT, guidance 2, on the host's ``simple`` grid of 20 steps at shift 3.

dB: nearness to the same sampler's own 20 steps from the same noise and seed, -20 log10(RMSE / std),
mean over 20 samples. Calls are counted at the network, guidance in one batch.

- fewer steps: the same sampler with as many steps as give no more calls.
- EasyCache, LazyCache: the host's nodes on the same 20 steps; of 10 thresholds and two starts the
  result that is nearest with at most so many calls, more than a user could choose.
- Samplers that draw noise draw another one with other steps: their few-step result is another
  picture, whatever its quality.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> int:
    from training.networks.comfy.folder import find_all, python_of

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    demo = ROOT / "out/demo/digits_sit.safetensors"
    parser.add_argument("checkpoint", nargs="?", type=Path, default=demo)
    checkpoint = parser.parse_args().checkpoint
    hosts = find_all()
    if not hosts:
        parser.error("no ComfyUI found: set COMFYUI_PATH to the folder that holds its main.py")
    if not checkpoint.is_file():
        parser.error(f"{checkpoint} is not there: run python dev.py demo, or name a checkpoint")
    inside = Path(__file__).with_name("host_any_sampler_methods.py")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for comfy in hosts:
        command = [python_of(comfy), inside, ROOT, checkpoint.resolve()]
        done = subprocess.run(command, cwd=comfy, env=environment)
        if done.returncode:
            return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
