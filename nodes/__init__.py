"""The list of nodes, in ComfyUI's V3 interface; the root's ``comfy_entrypoint`` imports it."""

import logging

from comfy_api.latest import ComfyExtension, io

from .host import contract, registration

NODES = {
    "fewer_calls": {"FewerCalls": "FewerCallsNode"},
    "coarse_first": {"CoarseFirst": "CoarseFirstNode"},
    "latent_spectrum": {"LatentSpectrum": "LatentSpectrum"},
    "sit": {"SiTLoader": "SiTLoader", "SiTClassCondition": "SiTClassCondition"},
    "sampler": {"StableVSSampler": "StableVSSampler"},
    "scheduler": {
        "RegimeSplitScheduler": "RegimeSplitScheduler",
        "RegimeSplitSigmas": "RegimeSplitSigmas",
    },
    "reports": {"RegimePlot": "RegimePlot", "FidelityReport": "FidelityReport"},
    "counts": {"CountCalls": "CountCalls", "CallReport": "CallReport"},
    "calibrate": {
        "StableVSCalibrate": "StableVSCalibrate",
        "StableVSCalibrationLoader": "StableVSCalibrationLoader",
    },
    "meanflow": {"MeanFlowSampler": "MeanFlowSampler", "MeanFlowLoader": "MeanFlowLoader"},
}
"""The files of nodes, and in each the class of every node by its id."""


class StableVelocityExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes, off = registration.load(__name__, NODES)
        # In 0.3.64 the host does not call on_load, so the drop-downs are extended here.
        off |= registration.extend(__name__, off)
        if off:
            logging.warning(contract.summary(off))
        return list(nodes.values())
