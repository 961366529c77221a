"""The nodes, for ComfyUI's V3 interface. Loaded by the root's ``comfy_entrypoint`` alone."""

from comfy_api.latest import ComfyExtension, io

from . import dropdowns
from .calibrate import StableVSCalibrate, StableVSCalibrationLoader
from .meanflow import MeanFlowLoader, MeanFlowSampler
from .reports import FidelityReport, RegimePlot
from .sampler import StableVSSampler
from .scheduler import RegimeSplitScheduler, RegimeSplitSigmas
from .sit import SiTClassCondition, SiTLoader

NODES = [
    SiTLoader,
    SiTClassCondition,
    StableVSSampler,
    RegimeSplitScheduler,
    RegimeSplitSigmas,
    RegimePlot,
    FidelityReport,
    StableVSCalibrate,
    StableVSCalibrationLoader,
    MeanFlowSampler,
    MeanFlowLoader,
]


class StableVelocityExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        # Here, because 0.3.64 never calls on_load.
        dropdowns.register()
        return NODES
