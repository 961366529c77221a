"""Running a benchmark's script in the interpreter of every ComfyUI, on a checkpoint."""

import argparse
import os
import subprocess
import sys
from pathlib import Path

from training.networks.comfy.folder import find_all, python_of

ROOT = Path(__file__).resolve().parents[1]


DIGITS = ROOT / "out/demo/digits_sit.safetensors"


def run_in_hosts(script: str, description: str, usual: Path | None = DIGITS) -> int:
    """Run benchmarks/SCRIPT with the pack's folder and the checkpoint; the first exit code not 0.

    The command line may name the checkpoint; options after it are handed on to the script. With
    None as the ``usual`` one the script needs none.
    """
    parser = argparse.ArgumentParser(
        description=description, epilog="Options: see the top of its file."
    )
    if usual is not None:
        parser.add_argument("checkpoint", nargs="?", type=Path, default=usual)
    first = next((i for i, a in enumerate(sys.argv) if i and a.startswith("--")), len(sys.argv))
    given, options = parser.parse_args(sys.argv[1:first]), sys.argv[first:]
    checkpoints = [] if usual is None else [given.checkpoint.resolve()]
    hosts = find_all()
    if not hosts:
        parser.error("no ComfyUI found: set COMFYUI_PATH to the folder that holds its main.py")
    for checkpoint in checkpoints:
        if not checkpoint.is_file():
            parser.error(f"{checkpoint} is not there: run python dev.py demo, or name a checkpoint")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for comfy in hosts:
        file = ROOT / "benchmarks" / script
        command = [python_of(comfy), file, ROOT, *checkpoints, *options]
        done = subprocess.run(command, cwd=comfy, env=environment)
        if done.returncode:
            return done.returncode
    return 0
