"""The nodes, for ComfyUI's V3 interface. Loaded by the root's ``comfy_entrypoint`` alone."""

from comfy_api.latest import ComfyExtension, io

from .models import SiTClassCondition, SiTLoader
from .sampling import StableVSSampler
from .schedules import RegimeSplitScheduler


class StableVelocityExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [SiTLoader, SiTClassCondition, StableVSSampler, RegimeSplitScheduler]
