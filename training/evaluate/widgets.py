"""Which values of a saved node belong to which of its inputs, by what ``/object_info`` says.

The page saves a node's widgets as a list without names, in the order in which it drew them: the
node's own inputs, after some a control of the page's own, and after a drop-down that brings inputs
of its choice those inputs.
"""

from collections.abc import Iterator, Sequence
from typing import Any

WIDGETS = {"INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "COLOR", "BOUNDING_BOX", "CURVE"}
"""The types that the page draws as a widget."""
DYNAMIC = "COMFY_DYNAMICCOMBO_V3"
SEEDS = ("seed", "noise_seed")
CONTROLS = ("fixed", "increment", "decrement", "randomize", "increment-wrap")
"""Values of the control that the page puts after a seed."""


def inputs_of(info: dict) -> dict[str, list]:
    """A node's inputs by name, required and then optional, each as (type, options)."""
    given = info.get("input", {})
    order = info.get("input_order") or {}
    found = {}
    for part in ("required", "optional"):
        group = given.get(part) or {}
        for name in order.get(part) or group:
            if name in group:
                found[name] = group[name]
    return found


def options_of(spec: Sequence) -> dict:
    return spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}


def type_of(spec: Sequence) -> str:
    """The type's name; a list of choices, as older nodes give it, is a COMBO."""
    kind = options_of(spec).get("widgetType") or spec[0]
    return "COMBO" if isinstance(kind, list) else kind


def is_widget(spec: Sequence) -> bool:
    options = options_of(spec)
    drawn = type_of(spec) in WIDGETS or type_of(spec) == DYNAMIC
    return not options.get("forceInput") and (drawn or bool(options.get("socketless")))


def chosen_inputs(name: str, spec: Sequence, value: Any) -> Iterator[tuple[str, Sequence]]:
    """The inputs that a choice brings, by the names that they have in a prompt."""
    for option in options_of(spec).get("options", ()):
        if isinstance(option, dict) and option.get("key") == value:
            for inner, inner_spec in inputs_of({"input": option.get("inputs", {})}).items():
                yield f"{name}.{inner}", inner_spec


def _has_control(name: str, spec: Sequence) -> bool:
    return (name in SEEDS and type_of(spec) == "INT") or bool(
        options_of(spec).get("control_after_generate")
    )


def choices_of(spec: Sequence) -> list:
    """What a drop-down offers; nothing for other inputs."""
    if spec and isinstance(spec[0], list):
        return spec[0]
    return options_of(spec).get("options") or []


def default_of(spec: Sequence) -> Any:
    """What an input is unless it is set: its default, or the first of its choices; or None."""
    choices = choices_of(spec)
    first = choices[0] if choices else None
    return options_of(spec).get("default", first.get("key") if isinstance(first, dict) else first)


def _set_default(name: str, spec: Sequence, into: dict[str, Any]) -> None:
    value = default_of(spec)
    if value is not None:
        into[name] = value
        _read(list(chosen_inputs(name, spec, value)), [], into)


def _read(inputs: Sequence[tuple[str, Sequence]], values: list, into: dict[str, Any]) -> None:
    """Take from the front of ``values`` what belongs to these inputs."""
    drawn = [(name, spec) for name, spec in inputs if is_widget(spec)]
    for i, (name, spec) in enumerate(drawn):
        if not values:  # saved before the node had this input
            _set_default(name, spec, into)
            continue
        into[name] = values.pop(0)
        if type_of(spec) == DYNAMIC:
            _read(list(chosen_inputs(name, spec, into[name])), values, into)
        elif _has_control(name, spec) and values:
            after = type_of(drawn[i + 1][1]) if i + 1 < len(drawn) else ""
            old = isinstance(values[0], bool) and after != "BOOLEAN"  # as pages saved it in 2023
            if old or values[0] in CONTROLS:
                values.pop(0)


def read_widgets(info: dict, saved: Any) -> dict[str, Any]:
    """A saved node's values by input; ``saved`` is its ``widgets_values``, a list or a dict.

    Inputs without a saved value have their defaults.
    """
    if isinstance(saved, dict):
        known = inputs_of(info)
        return {k: v for k, v in saved.items() if k in known or k.split(".")[0] in known}
    found: dict[str, Any] = {}
    _read(list(inputs_of(info).items()), list(saved or ()), found)
    return found
