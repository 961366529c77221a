"""Steps of the circle that need the host's code beside the pack ``test_nodes``, in one process.

    PYTHON circle_host.py COMFY STEP [STEP ...]

A step is a JSON list: ["start", FAMILY, FILE, OTHER ...] writes a model of random weights, with the
tensors of OTHER (a VAE) in the same file; ["training.prepare", ...] and ["training.finetune", ...]
are these commands, with stand-ins for text encoders and with small Flux and Qwen files understood.
"""

import importlib
import json
import logging
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMFY = Path(sys.argv[1])
# In place of this folder, whose names would hide the host's.
sys.path[0] = str(COMFY)

import torch  # noqa: E402

from training.networks.comfy.host import open_host  # noqa: E402

torch.set_num_threads(1)
open_host(COMFY, torch.device("cpu"))


def neighbour(name: str):
    """A module of this folder, which is not on the path."""
    place = HERE / name / "__init__.py" if (HERE / name).is_dir() else HERE / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


tiny = neighbour("tiny")
neighbour("test_nodes")  # to import it is to put the stand-ins in place


def main() -> int:
    logging.getLogger().setLevel(logging.WARNING)
    for step in map(json.loads, sys.argv[2:]):
        name, *arguments = step
        if name == "start":
            code = tiny.start(*arguments)
        else:
            code = importlib.import_module(name).main(arguments)
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
