"""Nodes that count what the network does, so that any two ways to a picture can be compared."""

from functools import partial
from typing import Any

from comfy_api.latest import io

from . import schema
from .host.compat import supported
from .host.counting import Counts, make_counter
from .host.wrappers import show_on_node

COUNTS = io.Custom("CALL_COUNTS")
"""The type of link between Count Calls and Call Report."""


class CountCalls(io.ComfyNode):
    """MODEL -> MODEL that counts its calls."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="CountCalls",
            display_name="Count Calls",
            category=schema.SAMPLING,
            description="Counts what the network does while the model is sampled: calls, "
            "evaluations with and without the prompt, seconds. It changes nothing. Put it last, "
            "behind Fewer Calls or any cache; what a run did stands here afterwards.",
            search_aliases=["stable velocity", "benchmark", "nfe", "count", "measure", "seconds"],
            inputs=[
                io.Model.Input("model", tooltip="The model as it will be sampled."),
                schema.text(
                    "label",
                    "",
                    "Any text. Another text makes ComfyUI sample anew though nothing else has "
                    "changed.",
                    optional=True,
                ),
            ],
            outputs=[
                schema.output(io.Model, "model", "Connect to KSampler or a guider."),
                schema.output(COUNTS, "counts", "Connect to Call Report."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model: Any, label: str = "") -> io.NodeOutput:
        node = cls.hidden.unique_id if cls.hidden else None
        return io.NodeOutput(*make_counter(model, partial(show_on_node, node, name="Count Calls")))


class CallReport(io.ComfyNode):
    """What a Count Calls has counted, once something else is finished."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return supported(
            io.Schema,
            node_id="CallReport",
            display_name="Call Report",
            category=schema.SAMPLING,
            description="The numbers of Count Calls as text and in the run's history.",
            search_aliases=["stable velocity", "benchmark", "nfe", "count", "measure"],
            is_output_node=True,
            inputs=[
                COUNTS.Input("counts", tooltip="From Count Calls."),
                io.AnyType.Input(
                    "after",
                    tooltip="What must be finished before: connect the picture or the latent that "
                    "is sampled.",
                ),
            ],
            outputs=[schema.output(io.String, "report", "The numbers as text.")],
        )

    @classmethod
    def execute(cls, counts: Counts, after: Any) -> io.NodeOutput:
        words = counts.in_words()
        return io.NodeOutput(words, ui={"text": (words,), "counts": (counts.as_numbers(),)})
