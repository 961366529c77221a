"""The inputs of a prompt that a measurement sets: the text of the picture, and the seeds."""

from sv_core.errors import InvalidInput

from .graph import (
    Info,
    Link,
    Place,
    Prompt,
    find_holder,
    input_types,
    linked_of_type,
    links_of,
    read,
    upstream,
)
from .widgets import SEEDS, inputs_of, options_of, type_of

POSITIVE = ("positive", "conditioning", "cond1")


def parse_place(prompt: Prompt, text: str) -> Place:
    """``6.text`` as an input of the prompt. Raises InvalidInput."""
    node, _, name = text.partition(".")
    if node not in prompt or not name:
        raise InvalidInput(f"{text} is no NODE.INPUT of the workflow, such as 6.text")
    return Place(node, name)


def find_texts(prompt: Prompt, info: Info, samplers: list[str]) -> list[Place]:
    """Where the text of the picture is written. Raises InvalidInput where that is not one text."""
    encoders: dict[str, None] = {}
    for sampler in samplers:
        for link in _positives(prompt, sampler):
            _walk(prompt, info, link, encoders, set())
    found = {node: _texts_of(prompt, info, node) for node in encoders}
    found = {node: places for node, places in found.items() if places}
    if not found:
        raise InvalidInput("the workflow's text is not to be found: name it, as in --text 6.text")
    if len({tuple(str(read(prompt, p)) for p in places) for places in found.values()}) > 1:
        choices = ", ".join(str(p) for places in found.values() for p in places)
        raise InvalidInput(f"the workflow has several texts ({choices}): name one, as in --text ID")
    return list(dict.fromkeys(p for places in found.values() for p in places))


def _positives(prompt: Prompt, sampler: str) -> list[Link]:
    """The links by which a sampler, or its guider, gets what it shall show."""
    links = links_of(prompt, sampler)
    if "guider" in links:
        links = links_of(prompt, links["guider"][0])
    return [links[name] for name in POSITIVE if name in links][:1]


def _walk(prompt: Prompt, info: Info, link: Link, into: dict[str, None], seen: set) -> None:
    """Collect the nodes where a conditioning begins."""
    node, slot = link
    if (node, slot) in seen:
        return
    seen.add((node, slot))
    before = linked_of_type(prompt, info, node, "CONDITIONING")
    if not before and _is_switch(prompt, node):
        before = _branch(prompt, node)
    if not before:
        into[node] = None
        return
    side = _side(info, prompt[node]["class_type"], slot, before)
    for name, earlier in before.items():
        if side in (None, name):
            _walk(prompt, info, earlier, into, seen)


def _is_switch(prompt: Prompt, node: str) -> bool:
    return prompt[node]["class_type"] == "ComfySwitchNode"


def _branch(prompt: Prompt, node: str) -> dict[str, Link]:
    """What a switch passes on, or both where that is not written down."""
    links = links_of(prompt, node)
    both = {n: links[n] for n in ("on_true", "on_false") if n in links}
    chosen = {True: "on_true", False: "on_false"}.get(read(prompt, Place(node, "switch")))
    return {chosen: both[chosen]} if chosen in both else both


def _side(info: Info, kind: str, slot: int, before: dict[str, Link]) -> str | None:
    """positive or negative, where a node has both and hands them on apart."""
    if not {"positive", "negative"} <= before.keys():
        return None
    names = info.get(kind, {}).get("output_name") or ()
    name = str(names[slot]).lower() if slot < len(names) else ""
    return name if name in before else ("positive", "negative")[min(slot, 1)]


def _texts_of(prompt: Prompt, info: Info, node: str) -> list[Place]:
    """An encoder's texts: its inputs of several lines, or else all that are text."""
    kind = prompt[node]["class_type"]
    specs = {n: s for n, s in inputs_of(info.get(kind, {})).items() if type_of(s) == "STRING"}
    lines = [n for n, s in specs.items() if options_of(s).get("multiline")]
    places = []
    for name in lines or specs:
        if name not in prompt[node]["inputs"]:
            continue
        place = Place(node, name)
        # A text that only a run computes gives way to the prompt.
        places.append(find_holder(prompt, place) or place)
    return places


def replaced_texts(prompt: Prompt, places: list[Place]) -> list[str]:
    """In words, what the prompt is put in the place of."""
    return [
        f"{place} is made by node {link[0]} ({prompt[link[0]]['class_type']}) when it runs; here "
        f"the prompt goes there as it is"
        for place in places
        if (link := links_of(prompt, place.node).get(place.name)) is not None
    ]


def find_seeds(prompt: Prompt, info: Info, end: str) -> list[Place]:
    """Every seed that the picture needs, as far as it is written down. Raises InvalidInput."""
    found: dict[Place, None] = {}
    for node in upstream(prompt, [end]):
        types = input_types(info, prompt[node]["class_type"])
        for name in SEEDS:
            if types.get(name) == "INT" and name in prompt[node]["inputs"]:
                holder = find_holder(prompt, Place(node, name))
                if holder is not None:
                    found[holder] = None
    if not found:
        raise InvalidInput("the workflow has no seed that could be set")
    return list(found)


def seed_values(prompt: Prompt, places: list[Place], seed: int) -> dict[Place, int]:
    """A value for each: inputs that had the same seed keep having the same one."""
    own = [prompt[p.node]["inputs"].get(p.name) for p in places]
    order = list(dict.fromkeys(own))
    return {p: seed + order.index(value) for p, value in zip(places, own, strict=True)}
