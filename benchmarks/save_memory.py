"""What a save needs in memory: ``python -m benchmarks.save_memory [--depth N]``.

A SiT of 2 GB in float32 with one running average is saved as a run does it: the averaged weights as
safetensors, then the state with both and its manifest. Memory is what the process holds at most
meanwhile (Linux's VmHWM, set back before each save) beyond what it held before, and stands beside
the safetensors library's own ``save``, which is how weights were written before. Needs 10 GB of
memory, and 12 GB of disk below the system's folder for temporary files; a minute or two.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import safetensors.torch

from training.config.schema import Config, ModelConfig, ObjectiveConfig, OptimConfig, RunConfig
from training.data import dataset as datasets
from training.engine.distributed import Processes
from training.run.folder import RunFolder
from training.run.state import TrainState

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(field: str) -> int:
    """VmRSS (now) or VmHWM (the most so far) of this process, in bytes."""
    line = next(x for x in STATUS.read_text().splitlines() if x.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


def measure(save: Callable[[], object]) -> tuple[int, float]:
    """(the most memory during a call beyond that before it, seconds)."""
    RESET.write_text("5")
    before, began = memory("VmRSS"), time.perf_counter()
    save()
    return memory("VmHWM") - before, time.perf_counter() - began


def library(folder: Path, state: TrainState) -> Path:
    """The averaged weights by the library: lent to the network, in one piece, then to the disk."""
    path = folder / "library.safetensors"
    with state.averaged() as backbone:
        tensors = {name: x.cpu().contiguous() for name, x in backbone.weights().items()}
        path.write_bytes(safetensors.torch.save(tensors))
    return path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=21, help="of a SiT-XL's width (21: 2 GB)")
    options = parser.parse_args()
    if not RESET.exists():
        print("this benchmark reads /proc, which only Linux has")
        return 2
    with tempfile.TemporaryDirectory() as name:
        run = RunFolder(Path(name))
        config = Config(
            model=ModelConfig(patch_size=2, hidden_size=1152, depth=options.depth, num_heads=16),
            objective=ObjectiveConfig(kind="cfm"),
            optim=OptimConfig(ema=(0.999,)),
            run=RunConfig(out=name, device="cpu"),
        )
        state = TrainState(config, datasets.load(config.data), Processes(config.run))
        run.make()
        rows = []
        extra, seconds = measure(lambda: run._save_weights(config, state, lambda write: write()))
        rows.append(("weights, streamed", run.weights(0), extra, seconds))
        extra, seconds = measure(lambda: run.save(config, state, weights=False))
        rows.append(("state and manifest", run.states.state(0), extra, seconds))
        extra, seconds = measure(lambda: library(Path(name), state))
        rows.append(("weights by the library", Path(name) / "library.safetensors", extra, seconds))
        print("| | file | memory beyond what the run holds | of the file | seconds |")
        print("|---|---:|---:|---:|---:|")
        for what, path, more, took in rows:
            size = path.stat().st_size
            print(f"| {what} | {size / 2**30:.2f} GiB | {more / 2**20:.0f} MiB | "
                  f"{more / size:.1%} | {took:.0f} |")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
