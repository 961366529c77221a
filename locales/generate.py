"""Write locales/en/nodeDefs.json, ComfyUI's English translation file, from the nodes' schemas.

    python dev.py locales

So every text is written once, in a schema. The languages beside it are translated by hand and have
the same shape, which a test compares. Runs in the Python and the folder of a ComfyUI; with --check
it writes nothing and exits with 1 when the file is stale.
"""

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "locales/en/nodeDefs.json"


def load_nodes() -> ModuleType:
    """nodes/ as ComfyUI loads it, without a graphics card: a part of the package of the root."""
    sys.path.insert(0, os.getcwd())
    import comfy.options  # noqa: F401  before the arguments, as the host's main does
    from comfy.cli_args import args

    args.cpu = True
    place = ROOT / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        "stable_velocity", place, submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    return importlib.import_module("stable_velocity.nodes")


def words_of(node: Any) -> dict:
    """The texts of one node: its name and description, and those of its inputs and outputs.

    ``dependent_inputs`` of a node are nested in a drop-down where ComfyUI can do that, and stand
    beside it where not: they are listed both ways, so that every version finds its own.
    """
    schema = node.define_schema()
    dependent = node.dependent_inputs() if hasattr(node, "dependent_inputs") else {}
    plain = {part.id: part for parts in dependent.values() for part in parts}
    nested = {f"{k}_{part.id}": part for k, parts in dependent.items() for part in parts}
    own = {i.id: i for i in schema.inputs if i.id not in plain}
    return {
        "display_name": schema.display_name,
        "description": schema.description,
        "inputs": {
            key: {"name": i.id, "tooltip": i.tooltip} for key, i in (own | nested | plain).items()
        },
        "outputs": {
            str(k): {"name": o.display_name, "tooltip": o.tooltip}
            for k, o in enumerate(schema.outputs)
        },
    }


def generate() -> str:
    """The text of the file."""
    pack = load_nodes()
    nodes, off = pack.registration.load(pack.__name__, pack.NODES)
    assert not off, off
    words = {node: words_of(made) for node, made in nodes.items()}
    return json.dumps(words, indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    text = generate()
    if text == FILE.read_text("utf-8"):
        return 0
    if "--check" in sys.argv[1:]:
        print(f"{FILE.relative_to(ROOT)} is stale: run python dev.py locales")
        return 1
    FILE.write_text(text, "utf-8", newline="\n")
    print(f"{FILE.relative_to(ROOT)} is written anew: adapt locales/zh to it")
    return 0


if __name__ == "__main__":
    sys.exit(main())
