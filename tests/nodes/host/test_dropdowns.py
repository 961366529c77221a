"""ComfyUI's lists are extended whole or not at all, and the pack loads where they have moved."""

import asyncio
import contextlib
import logging
import tempfile
from pathlib import Path

import pytest

import nodes
from tests.nodes.loaded_pack import (
    PACK,
)

pytestmark = pytest.mark.inside


@contextlib.contextmanager
def without(owner, name):
    value = getattr(owner, name)
    delattr(owner, name)
    try:
        yield
    finally:
        setattr(owner, name, value)


class Lines(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


def test_nodes_load_in_a_host_whose_private_names_have_moved():
    import comfy.k_diffusion

    for owner, name, lost in (
        (comfy.samplers, "KSAMPLER_NAMES", "sampler stable_vs"),
        (comfy.samplers, "ksampler", "sampler stable_vs"),
        (comfy.samplers, "SCHEDULER_HANDLERS", "scheduler regime_split"),
        (comfy.samplers, "SchedulerHandler", "scheduler regime_split"),
    ):
        for node in ("StableVSSampler", "RegimeSplitScheduler", "RegimePlot"):
            del nodes.NODE_CLASS_MAPPINGS[node]
        heard = Lines()
        with tempfile.TemporaryDirectory() as folder, without(owner, name):
            place = Path(folder) / f"pack-without-{name}"
            place.symlink_to(PACK, target_is_directory=True)
            logging.disable(logging.NOTSET)
            logging.getLogger().addHandler(heard)
            try:
                assert asyncio.run(nodes.load_custom_node(str(place)))
            finally:
                logging.getLogger().removeHandler(heard)
                logging.disable(logging.WARNING)
        told = [line for line in heard.lines if "Stable Velocity" in line]
        assert len(told) == 1 and lost in told[0] and name in told[0], heard.lines
        for node in ("StableVSSampler", "RegimeSplitScheduler", "RegimePlot"):
            assert nodes.NODE_CLASS_MAPPINGS[node].GET_SCHEMA().inputs
