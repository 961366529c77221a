"""What a prompt of ComfyUI's holds: its picture, its samplers, their models, and who holds a value.

A prompt is {id: {"class_type": ..., "inputs": {name: value or [id, output]}}}.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from sv_core.errors import InvalidInput

from .convert import is_link
from .widgets import inputs_of, type_of

Prompt = dict[str, dict]
Info = dict[str, dict]
Link = list
SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
FEWER_ALREADY = ("StableVSSampler", "RegimeSplitScheduler", "RegimeSplitSigmas", "MeanFlowSampler")
DEEPEST = 32
"""Nodes that a value may pass through before it is given up."""


@dataclass(frozen=True, order=True)
class Place:
    """An input of a node."""

    node: str
    name: str

    def __str__(self) -> str:
        return f"{self.node}.{self.name}"


@dataclass(frozen=True)
class Picture:
    """What a run is judged by."""

    link: tuple[str, int]
    """The output that holds the pictures."""
    is_video: bool
    frames_per_second: float = 16.0


def links_of(prompt: Prompt, node: str) -> dict[str, Link]:
    """A node's inputs that are links to nodes of the prompt."""
    inputs = prompt[node]["inputs"].items()
    return {name: v for name, v in inputs if is_link(v) and v[0] in prompt}


def upstream(prompt: Prompt, ends: Iterable[str]) -> list[str]:
    """The nodes that these need, themselves first, nearest before farther."""
    found: dict[str, None] = {}
    waiting = deque(ends)
    while waiting:
        node = waiting.popleft()
        if node not in found:
            found[node] = None
            waiting.extend(link[0] for link in links_of(prompt, node).values())
    return list(found)


def input_types(info: Info, kind: str) -> dict[str, str]:
    return {name: type_of(spec) for name, spec in inputs_of(info.get(kind, {})).items()}


def linked_of_type(prompt: Prompt, info: Info, node: str, wanted: str) -> dict[str, Link]:
    """A node's linked inputs of a type, such as MODEL."""
    types = input_types(info, prompt[node]["class_type"])
    links = links_of(prompt, node)
    return {n: v for n, v in links.items() if wanted in types.get(n.split(".")[0], "").split(",")}


def require_known(prompt: Prompt, info: Info) -> None:
    """Raises InvalidInput for the first node that the server has no class for."""
    for node, what in prompt.items():
        if what["class_type"] not in info:
            raise InvalidInput(
                f"node {node} of the workflow is a {what['class_type']}, which this ComfyUI does "
                f"not have: install its pack, or take the node out"
            )


def _ends(prompt: Prompt, info: Info) -> Iterator[tuple[str, Link, bool]]:
    """(output node, link to pictures, whether it is a video) for what the prompt saves or shows."""
    for node, what in prompt.items():
        if not info.get(what["class_type"], {}).get("output_node"):
            continue
        for link in linked_of_type(prompt, info, node, "IMAGE").values():
            yield node, link, _saves_video(what["class_type"])
        for link in linked_of_type(prompt, info, node, "VIDEO").values():
            frames = _frames_of(prompt, info, link)
            if frames is not None:
                yield node, frames, True


def _saves_video(kind: str) -> bool:
    return any(word in kind for word in ("Video", "Animated", "WEBM", "GIF"))


def _frames_of(prompt: Prompt, info: Info, video: Link) -> Link | None:
    """The pictures that a VIDEO was made of."""
    for node in upstream(prompt, [video[0]]):
        frames = linked_of_type(prompt, info, node, "IMAGE")
        if frames and "VIDEO" in info.get(prompt[node]["class_type"], {}).get("output", ()):
            return next(iter(frames.values()))
    return None


def samplers_of(prompt: Prompt, end: str) -> list[str]:
    """The samplers that a node needs, the last of them first."""
    return [n for n in upstream(prompt, [end]) if prompt[n]["class_type"] in SAMPLERS]


def find_picture(prompt: Prompt, info: Info, wanted: str | None = None) -> Picture:
    """What the workflow makes: of several that are saved, the one behind the most samplers.

    ``wanted`` is the id of the output node to be judged instead. Raises InvalidInput.
    """
    found = [end for end in _ends(prompt, info) if wanted in (None, end[0])]
    sampled = [end for end in found if samplers_of(prompt, end[1][0])]
    if not sampled:
        names = ", ".join(sorted({n["class_type"] for n in prompt.values()}))
        what = f"node {wanted} is not" if wanted else "no node that saves or shows a picture is"
        raise InvalidInput(
            f"{what} behind one of the samplers {', '.join(SAMPLERS)}, so there is nothing to "
            f"measure (its nodes: {names})"
        )

    def rank(end: tuple[str, Link, bool]) -> tuple[int, bool]:
        saves = "Save" in prompt[end[0]]["class_type"]
        return len(samplers_of(prompt, end[1][0])), saves

    node, link, is_video = max(sampled, key=rank)
    return Picture((link[0], link[1]), is_video, _rate(prompt, node))


def _rate(prompt: Prompt, end: str) -> float:
    for node in upstream(prompt, [end]):
        for name in ("fps", "frame_rate"):
            value = prompt[node]["inputs"].get(name)
            if isinstance(value, int | float) and value > 0:
                return float(value)
    return Picture.frames_per_second


def model_places(prompt: Prompt, info: Info, sampler: str) -> list[Place]:
    """The inputs by which a sampler, or its guider, gets its MODEL. Raises InvalidInput."""
    found = _models_at(prompt, info, sampler, 0)
    if not found:
        kind = prompt[sampler]["class_type"]
        raise InvalidInput(f"the model of node {sampler} ({kind}) is not to be found")
    return found


def _models_at(prompt: Prompt, info: Info, node: str, depth: int) -> list[Place]:
    models = linked_of_type(prompt, info, node, "MODEL")
    if models or depth > 3:
        return [Place(node, name) for name in models]
    guiders = [link[0] for name, link in links_of(prompt, node).items() if "guider" in name]
    if depth and not guiders:  # a switch between guiders
        guiders = [link[0] for link in links_of(prompt, node).values()]
    return [p for g in guiders for p in _models_at(prompt, info, g, depth + 1)]


def find_holder(prompt: Prompt, place: Place, depth: int = 0) -> Place | None:
    """Where the value of an input is written down; None where only a run computes it."""
    value = prompt[place.node]["inputs"].get(place.name)
    if not is_link(value):
        return place
    if value[0] not in prompt or depth > DEEPEST:
        return None
    source = prompt[value[0]]
    if source["class_type"] == "ComfySwitchNode":
        switch = read(prompt, Place(value[0], "switch"), depth + 1)
        branch = {True: "on_true", False: "on_false"}.get(switch)
        return find_holder(prompt, Place(value[0], branch), depth + 1) if branch else None
    passes = {"PreviewAny": "source"}.get(source["class_type"])
    if passes or source["class_type"].startswith("Primitive"):
        return find_holder(prompt, Place(value[0], passes or "value"), depth + 1)
    alone = list(source["inputs"])
    if len(alone) == 1 and not is_link(source["inputs"][alone[0]]):  # another pack's constant
        return Place(value[0], alone[0])
    return None


def read(prompt: Prompt, place: Place, depth: int = 0) -> Any:
    """The value of an input; None where it is not written down."""
    holder = find_holder(prompt, place, depth)
    return None if holder is None else prompt[holder.node]["inputs"].get(holder.name)
