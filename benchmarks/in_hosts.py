"""Running a benchmark's script in the interpreter of every ComfyUI, on the digits model."""

import argparse
import os
import subprocess
from pathlib import Path

from training.networks.comfy.folder import find_all, python_of

ROOT = Path(__file__).resolve().parents[1]


def run_in_hosts(script: str, description: str) -> int:
    """Run benchmarks/SCRIPT with the pack's folder and the checkpoint; the first exit code not 0.

    The command line may name the checkpoint; out/demo/digits_sit.safetensors otherwise.
    """
    parser = argparse.ArgumentParser(description=description)
    demo = ROOT / "out/demo/digits_sit.safetensors"
    parser.add_argument("checkpoint", nargs="?", type=Path, default=demo)
    checkpoint = parser.parse_args().checkpoint
    hosts = find_all()
    if not hosts:
        parser.error("no ComfyUI found: set COMFYUI_PATH to the folder that holds its main.py")
    if not checkpoint.is_file():
        parser.error(f"{checkpoint} is not there: run python dev.py demo, or name a checkpoint")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for comfy in hosts:
        command = [python_of(comfy), ROOT / "benchmarks" / script, ROOT, checkpoint.resolve()]
        done = subprocess.run(command, cwd=comfy, env=environment)
        if done.returncode:
            return done.returncode
    return 0
