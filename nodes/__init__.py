"""The list of nodes, in ComfyUI's V3 interface; the root's ``comfy_entrypoint`` imports it."""

from comfy_api.latest import ComfyExtension, io

from . import dropdowns
from .calibrate import StableVSCalibrate, StableVSCalibrationLoader
from .coarse_first import CoarseFirstNode
from .counts import CallReport, CountCalls
from .fewer_calls import FewerCallsNode
from .latent_spectrum import LatentSpectrum
from .meanflow import MeanFlowLoader, MeanFlowSampler
from .reports import FidelityReport, RegimePlot
from .sampler import StableVSSampler
from .scheduler import RegimeSplitScheduler, RegimeSplitSigmas
from .sit import SiTClassCondition, SiTLoader

NODES = [
    FewerCallsNode,
    CoarseFirstNode,
    LatentSpectrum,
    SiTLoader,
    SiTClassCondition,
    StableVSSampler,
    RegimeSplitScheduler,
    RegimeSplitSigmas,
    RegimePlot,
    FidelityReport,
    CountCalls,
    CallReport,
    StableVSCalibrate,
    StableVSCalibrationLoader,
    MeanFlowSampler,
    MeanFlowLoader,
]


class StableVelocityExtension(ComfyExtension):
    """What ComfyUI loads."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # In 0.3.64 the host does not call on_load, so the drop-downs are extended here.
        dropdowns.register()
        return NODES
