"""From a workflow's file to what can be measured: its samplers, models, texts, seeds and steps."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sv_core.errors import InvalidInput

from .convert import read_workflow
from .graph import Info, find_picture, model_places, require_known, samplers_of
from .methods import RIVALS, Bed, Rival
from .steps import Unchangeable, find_grids
from .surgery import COUNTER, OURS, PREVIEW, REPORT, keep, single_pictures, without_fewer_calls
from .texts import find_seeds, find_texts, parse_place, replaced_texts

NOISY = ("ancestral", "sde", "lcm", "ddpm", "seeds_")
"""Parts of the names of samplers that draw noise at every step."""


def read_file(path: Path) -> Any:
    """A workflow's JSON. Raises InvalidInput."""
    try:
        return json.loads(path.read_text("utf-8-sig"))
    except FileNotFoundError as e:
        raise InvalidInput(f"there is no workflow {path}") from e
    except (OSError, ValueError) as e:
        raise InvalidInput(f"{path} is no JSON file, as Workflow > Save makes it") from e


def require_pack(info: Info) -> None:
    """Raises InvalidInput unless the server has the nodes that count and leave out calls."""
    lacking = [kind for kind in (OURS, COUNTER, REPORT, PREVIEW) if kind not in info]
    if lacking:
        raise InvalidInput(
            f"this ComfyUI has no node {lacking[0]}: install this version of Stable Velocity in "
            f"its custom_nodes and start it again"
        )


def make_bed(
    data: Any, info: Info, *, texts: Sequence[str] = (), picture: str | None = None,
    rivals: Sequence[Rival] = (),
) -> Bed:  # fmt: skip
    """Read a workflow and find what a measurement changes in it.

    ``texts`` name the inputs of the prompt, such as 6.text, where they are not found; ``picture``
    the node that saves what is judged; ``rivals`` further nodes to take out. Raises InvalidInput.
    """
    require_pack(info)
    prompt = read_workflow(data, info)
    found = find_picture(prompt, info, picture)
    prompt = keep(prompt, [found.link[0]])
    require_known(prompt, info)
    caches = [rival.kind for rival in (*RIVALS, *rivals)]
    prompt, notes = without_fewer_calls(prompt, caches)
    prompt, more = single_pictures(prompt)
    samplers = samplers_of(prompt, found.link[0])
    models = dict.fromkeys(p for s in samplers for p in model_places(prompt, info, s))
    found_texts = [parse_place(prompt, text) for text in texts] or find_texts(
        prompt, info, samplers
    )
    more += replaced_texts(prompt, found_texts)
    grids = find_grids(prompt, info, samplers)
    if isinstance(grids, Unchangeable):
        more.append(f"no converged reference and no fewer steps: {grids.reason}")
        grids = []
    return Bed(
        prompt, info, found, tuple(samplers), tuple(models), tuple(found_texts),
        tuple(find_seeds(prompt, info, found.link[0])),
        tuple(grids), (*notes, *more, *_noise_notes(prompt)),
    )  # fmt: skip


def _noise_notes(prompt: dict) -> list[str]:
    names = {str(n["inputs"].get("sampler_name", "")) for n in prompt.values()}
    return [
        f"{name} draws noise at every step, so with another number of steps it makes another "
        f"picture: fewer steps and the converged run say little"
        for name in sorted(names)
        if any(part in name for part in NOISY)
    ]


def describe(bed: Bed) -> list[str]:
    """What is measured, for the terminal and the page."""
    kinds = bed.prompt
    lines = []
    for place in bed.models:
        inputs = kinds[place.node]["inputs"]
        shown = {k: inputs[k] for k in ("sampler_name", "scheduler", "cfg") if k in inputs}
        words = ", ".join(f"{k} {v}" for k, v in shown.items() if not isinstance(v, list))
        what = f"node {place.node} ({kinds[place.node]['class_type']})"
        lines.append(f"samples with {what}{': ' + words if words else ''}")
    steps = ", ".join(f"{grid.own} ({grid.steps})" for grid in dict.fromkeys(bed.grids))
    lines.append(f"steps: {steps or 'not to be changed'}")
    lines.append(f"prompt into {', '.join(map(str, bed.texts))}")
    lines.append(f"seed into {', '.join(map(str, bed.seeds))}")
    return lines + list(bed.notes)
