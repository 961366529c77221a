"""Prompts made of a prompt: without what leaves out calls already, with a node behind the model."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

from sv_core.errors import InvalidInput

from .graph import FEWER_ALREADY, Info, Picture, Place, Prompt, links_of, read, upstream
from .steps import PARTS
from .widgets import DYNAMIC, choices_of, inputs_of, type_of

COUNTER, REPORT, PREVIEW = "CountCalls", "CallReport", "PreviewImage"
OURS, SMALLER = "FewerCalls", "CoarseFirst"
PLAIN = {("sampler_name", "stable_vs"): "euler", ("scheduler", "regime_split"): "simple"}
"""Entries of ours in the host's drop-downs, and what they are compared with."""
THINNED, SCHEDULER = "RegimeSplitSigmas", "regime_split"
"""The paper's grid, behind a link and in a drop-down, which makes the steps that it is told."""
PAPER_SHARE = 2 / 3
"""Of the steps: the paper's 20 of 30 at shift 3, of which other grids differ by little."""
PICTURES = "measured_pictures"


def with_values(prompt: Prompt, values: Mapping[Place, Any]) -> Prompt:
    """A copy with these inputs set."""
    prompt = deepcopy(prompt)
    for place, value in values.items():
        prompt[place.node]["inputs"][place.name] = value
    return prompt


def keep(prompt: Prompt, ends: Iterable[str]) -> Prompt:
    """Only what these nodes need."""
    needed = set(upstream(prompt, ends))
    return {node: what for node, what in prompt.items() if node in needed}


def without_fewer_calls(prompt: Prompt, caches: Iterable[str]) -> tuple[Prompt, list[str]]:
    """(the prompt as its own sampler would run it, what was taken out, in words).

    ``caches``: classes of nodes from MODEL to MODEL that leave out calls. Raises InvalidInput for
    nodes of ours that stand for a grid or a sampler of the user's, which only he knows.
    """
    prompt, notes = deepcopy(prompt), []
    for node, what in prompt.items():
        if what["class_type"] in FEWER_ALREADY:
            raise InvalidInput(
                f"node {node} ({what['class_type']}) leaves out calls itself: put your own "
                f"scheduler and sampler in its place, and measure that workflow"
            )
        for (name, ours), plain in PLAIN.items():
            if what["inputs"].get(name) == ours:
                what["inputs"][name] = plain
                notes.append(f"{plain} in place of {ours} in node {node}")
    for kind in (OURS, SMALLER, COUNTER, *caches):
        for node in [n for n, what in prompt.items() if what["class_type"] == kind]:
            pass_by(prompt, node)
            notes.append(f"without node {node} ({kind})")
    return prompt, notes


def pass_by(prompt: Prompt, node: str) -> None:
    """Take out a node from MODEL to MODEL, in place."""
    before = prompt[node]["inputs"].get("model")
    for other in prompt:
        for name, link in links_of(prompt, other).items():
            if link[0] == node:
                prompt[other]["inputs"][name] = before
    del prompt[node]


def single_pictures(prompt: Prompt) -> tuple[Prompt, list[str]]:
    """(the prompt with batches of one, what was changed, in words)."""
    prompt, notes = deepcopy(prompt), []
    for node, what in prompt.items():
        size = what["inputs"].get("batch_size")
        if isinstance(size, int) and size > 1:
            what["inputs"]["batch_size"] = 1
            notes.append(f"one picture in place of {size} in node {node}")
    return prompt, notes


def behind_models(
    prompt: Prompt, places: Iterable[Place], kind: str, settings: Mapping[str, Any]
) -> Prompt:
    """A copy with a node of that class between every model and what samples it."""
    prompt = deepcopy(prompt)
    for place in places:
        new = f"{kind}_{place.node}_{place.name}"
        before = prompt[place.node]["inputs"][place.name]
        prompt[new] = {"class_type": kind, "inputs": {"model": before, **settings}}
        prompt[place.node]["inputs"][place.name] = [new, 0]
    return prompt


def with_paper_grid(prompt: Prompt, info: Info, samplers: Iterable[str]) -> Prompt | None:
    """A copy on the paper's grid (arXiv 2602.05435): all high steps, 9 of the low ones.

    None where a sampler has only a part of a grid, or is not told the grid by a link or a name.
    """
    prompt = deepcopy(prompt)
    for node in samplers:
        inputs, specs = prompt[node]["inputs"], inputs_of(info[prompt[node]["class_type"]])
        sigmas = links_of(prompt, node).get("sigmas")
        if sigmas is not None and THINNED in info:
            if prompt[sigmas[0]]["class_type"] in PARTS:
                return None
            new = f"{THINNED}_{node}"
            prompt[new] = {"class_type": THINNED, "inputs": {"sigmas": sigmas}}
            inputs["sigmas"] = [new, 0]
        elif SCHEDULER in choices_of(specs.get("scheduler", ())) and "end_at_step" not in inputs:
            inputs["scheduler"] = SCHEDULER
            inputs["steps"] = round(PAPER_SHARE * (read(prompt, Place(node, "steps")) or 0))
        else:
            return None
    return prompt


def share_settings(info: Info, share: float) -> dict[str, Any]:
    """Fewer Calls at a share, in the form that this version of the host takes."""
    specs = inputs_of(info[OURS])
    if type_of(specs["calls"]) == DYNAMIC:
        return {"calls": "share", "calls.share": share}
    return {"calls": "share", "share": share}


def measured(prompt: Prompt, places: Iterable[Place], picture: Picture, label: str) -> Prompt:
    """The prompt that is queued: it counts at every model, and hands out counts and pictures.

    ``label`` makes the server sample although it knows the picture already.
    """
    places = list(places)
    prompt = behind_models(prompt, places, COUNTER, {"label": label})
    ends = [PICTURES]
    prompt[PICTURES] = {"class_type": PREVIEW, "inputs": {"images": list(picture.link)}}
    for place in places:
        counter = f"{COUNTER}_{place.node}_{place.name}"
        ends.append(f"{REPORT}_{place.node}_{place.name}")
        prompt[ends[-1]] = {
            "class_type": REPORT,
            "inputs": {"counts": [counter, 1], "after": list(picture.link)},
        }
    return keep(prompt, ends)
